// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// files makes a tree of cgroup files as a kernel shows them.
func files(t *testing.T, dir string, content map[string]string) {
	t.Helper()
	for path, text := range content {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	uid     = types.UID("0a1b-2c3d")
	podPath = "kubepods/burstable/pod0a1b-2c3d"
)

// Both versions of cgroups tell the same story.
func TestUsage(t *testing.T) {
	want := Usage{
		CPU: 3 * time.Second, UserCPU: 2 * time.Second, SystemCPU: time.Second, Periods: 10, Throttled: 4, ThrottledTime: 500 * time.Millisecond,
		Memory: 1000, WorkingSet: 900, RSS: 600, Cache: 300, MappedFile: 50, Swap: 7, MaxMemory: 2000, MemoryFailures: 5, PageFaults: 11, MajorPageFaults: 1, OOMKills: 2,
		Processes: 2, Threads: 3, Disks: map[string]DiskUsage{"8:0": {4096, 8192, 1, 2}},
		Bursts: 2, BurstTime: 20 * time.Millisecond, KernelMemory: 30, ActiveFile: 200, InactiveFile: 100,
		Quota: 50000, Period: 100000, MemoryLimit: 4000, MemorySwapLimit: 6000, MemoryReservation: 800, MostThreads: 100,
	}
	onlyV2 := want
	onlyV2.Dirty, onlyV2.Writeback, onlyV2.MemoryHigh, onlyV2.MemoryMax = 21, 22, 8, 5
	onlyV2.PagesScanned, onlyV2.PagesReclaimed, onlyV2.RefaultsOfFile, onlyV2.RefaultsAnon = 23, 24, 25, 26
	onlyV2.Pressure = map[string]Pressure{
		"cpu": {Some: 5 * time.Millisecond}, "memory": {Some: 3 * time.Millisecond, All: time.Millisecond}, "io": {Some: 7 * time.Millisecond, All: 2 * time.Millisecond},
	}
	v1, v2 := t.TempDir(), t.TempDir()
	files(t, v1, map[string]string{
		"cpu,cpuacct/" + podPath + "/c1/cpuacct.usage": "3000000000\n", "cpu,cpuacct/" + podPath + "/c1/cpuacct.stat": "user 200\nsystem 100\n",
		"cpu,cpuacct/" + podPath + "/c1/cpu.stat":          "nr_periods 10\nnr_throttled 4\nthrottled_time 500000000\nnr_bursts 2\nburst_time 20000000\n",
		"cpu,cpuacct/" + podPath + "/c1/cpu.cfs_quota_us":  "50000\n",
		"cpu,cpuacct/" + podPath + "/c1/cpu.cfs_period_us": "100000\n", "cpu,cpuacct/" + podPath + "/c1/cpu.shares": "1024\n",
		"memory/" + podPath + "/c1/memory.usage_in_bytes":                    "1000\n",
		"memory/" + podPath + "/c1/memory.stat":                              "rss 1\ntotal_rss 600\ntotal_cache 300\ntotal_mapped_file 50\ntotal_swap 7\ntotal_inactive_file 100\ntotal_active_file 200\ntotal_pgfault 11\ntotal_pgmajfault 1\n",
		"memory/" + podPath + "/c1/memory.max_usage_in_bytes":                "2000\n",
		"memory/" + podPath + "/c1/memory.failcnt":                           "5\n",
		"memory/" + podPath + "/c1/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"memory/" + podPath + "/c1/memory.limit_in_bytes":                    "4000\n",
		"memory/" + podPath + "/c1/memory.memsw.limit_in_bytes":              "6000\n",
		"memory/" + podPath + "/c1/memory.soft_limit_in_bytes":               "800\n",
		"memory/" + podPath + "/c1/memory.kmem.usage_in_bytes":               "30\n",
		"cpu,cpuacct/" + podPath + "/c1/cgroup.procs":                        "11\n12\n",
		"memory/" + podPath + "/c1/cgroup.procs":                             "11\n12\n",
		"pids/" + podPath + "/c1/pids.current":                               "3\n",
		"pids/" + podPath + "/c1/pids.max":                                   "100\n",
		"blkio/" + podPath + "/c1/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n",
		"blkio/" + podPath + "/c1/blkio.throttle.io_serviced_recursive":      "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
	})
	for _, link := range []string{"cpu", "cpuacct"} {
		if err := os.Symlink("cpu,cpuacct", filepath.Join(v1, link)); err != nil {
			t.Fatal(err)
		}
	}
	files(t, v2, map[string]string{
		"cgroup.controllers":                "cpu memory\n",
		podPath + "/c1/cpu.stat":            "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 500000\nnr_bursts 2\nburst_usec 20000\n",
		podPath + "/c1/cpu.max":             "50000 100000\n",
		podPath + "/c1/cpu.weight":          "39\n",
		podPath + "/c1/memory.current":      "1000\n",
		podPath + "/c1/memory.stat":         "anon 600\nfile 300\nfile_mapped 50\ninactive_file 100\nactive_file 200\nkernel 30\nfile_dirty 21\nfile_writeback 22\npgscan 23\npgsteal 24\nworkingset_refault_file 25\nworkingset_refault_anon 26\npgfault 11\npgmajfault 1\n",
		podPath + "/c1/memory.peak":         "2000\n",
		podPath + "/c1/memory.max":          "4000\n",
		podPath + "/c1/memory.events":       "low 0\nhigh 8\nmax 5\noom_kill 2\n",
		podPath + "/c1/memory.swap.max":     "6000\n",
		podPath + "/c1/memory.low":          "800\n",
		podPath + "/c1/cpu.pressure":        "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		podPath + "/c1/memory.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
		podPath + "/c1/io.pressure":         "some avg10=0.00 avg60=0.00 avg300=0.00 total=7000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2000\n",
		podPath + "/c1/memory.swap.current": "7\n",
		podPath + "/c1/cgroup.procs":        "11\n12\n",
		podPath + "/c1/pids.current":        "3\n",
		podPath + "/c1/pids.max":            "100\n",
		podPath + "/c1/io.stat":             "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
	})
	for name, mount := range map[string]string{"v1": v1, "v2": v2} {
		tree, err := New(Config{Mount: mount, Root: "/", Driver: Cgroupfs})
		if err != nil {
			t.Fatal(err)
		}
		groups := tree.Groups()
		paths := []string{"/", "/kubepods", "/kubepods/burstable", "/kubepods/besteffort", "/" + podPath, "/" + podPath + "/c1"}
		if len(groups) != len(paths) {
			t.Fatalf("%s: groups %+v", name, groups)
		}
		for i, path := range paths {
			if groups[i].Path != path {
				t.Errorf("%s: group %d is %s, want %s", name, i, groups[i].Path, path)
			}
		}
		last := groups[len(groups)-1]
		if last.Pod != uid || last.Container != "c1" {
			t.Errorf("%s: the container's group is %+v", name, last)
		}
		got, ok := tree.Usage(last)
		if !ok || got.Shares < 990 || got.Shares > 1060 {
			t.Errorf("%s: shares %d", name, got.Shares)
		}
		want := want
		if name == "v2" {
			want = onlyV2
		}
		if got.Shares = 0; !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
		if _, ok := tree.Usage(Group{Path: "/gone"}); ok {
			t.Errorf("%s: a group that is not there has a usage", name)
		}
		if pids := tree.Members(last); !slices.Equal(pids, []int{11, 12}) {
			t.Errorf("%s: processes %v", name, pids)
		}
	}
}

// The containers of a pod are found by the names that runtimes give to their groups; what watches them is none.
func TestGroupsOfContainers(t *testing.T) {
	const slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice"
	for _, c := range []struct {
		driver  Driver
		pod     string
		group   string
		watcher string
	}{
		{Systemd, slice, "cri-containerd-c1.scope", ""},
		{Systemd, slice, "crio-c1.scope", "crio-conmon-c1.scope"},
		{Cgroupfs, podPath, "crio-c1", "crio-conmon-c1"},
	} {
		mount := t.TempDir()
		dir := c.pod + "/" + c.group
		files(t, mount, map[string]string{"cgroup.controllers": "", dir + "/cgroup.procs": ""})
		if c.watcher != "" {
			files(t, mount, map[string]string{c.pod + "/" + c.watcher + "/cgroup.procs": ""})
		}
		tree, err := New(Config{Mount: mount, Root: "/", Driver: c.driver})
		if err != nil {
			t.Fatal(err)
		}
		var found []Group
		for _, g := range tree.Groups() {
			if g.Container != "" {
				found = append(found, g)
			}
		}
		if want := (Group{Path: "/" + dir, Pod: uid, Container: "c1"}); len(found) != 1 || found[0] != want {
			t.Errorf("containers %+v, want %+v", found, want)
		}
	}
}

func TestPodsMemory(t *testing.T) {
	for name, c := range map[string]struct {
		files      map[string]string
		used, most int64
		limited    bool
	}{
		"v2":               {map[string]string{"cgroup.controllers": "", "kubepods/memory.current": "1000", "kubepods/memory.max": "5000", "kubepods/memory.stat": "inactive_file 100\n"}, 900, 5000, true},
		"v2 without limit": {map[string]string{"cgroup.controllers": "", "kubepods/memory.current": "1000", "kubepods/memory.max": "max"}, 0, 0, false},
		"v1":               {map[string]string{"memory/kubepods/memory.usage_in_bytes": "1000", "memory/kubepods/memory.limit_in_bytes": "5000", "memory/kubepods/memory.stat": "total_inactive_file 100\n"}, 900, 5000, true},
		"v1 without limit": {map[string]string{"memory/kubepods/memory.usage_in_bytes": "1000", "memory/kubepods/memory.limit_in_bytes": "9223372036854771712"}, 0, 0, false},
	} {
		mount := t.TempDir()
		files(t, mount, c.files)
		tree, err := New(Config{Mount: mount, Root: "/", Driver: Cgroupfs})
		if err != nil {
			t.Fatal(err)
		}
		if used, most, limited := tree.PodsMemory(); used != c.used || most != c.most || limited != c.limited {
			t.Errorf("%s: %d of %d, %v; want %d of %d, %v", name, used, most, limited, c.used, c.most, c.limited)
		}
	}
}

func TestGroupOfProcess(t *testing.T) {
	for name, c := range map[string]struct {
		lines   string
		unified bool
		want    string
		known   bool
	}{
		"v2":              {"0::/system.slice/skiff.service\n", true, "/system.slice/skiff.service", true},
		"v1":              {"5:memory:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/b\n", false, "/a", true},
		"v1 in two":       {"5:memory:/a\n4:cpu,cpuacct:/b\n", false, "", false},
		"v1 of a machine": {"12:pids:/\n", false, "", false},
	} {
		if got, known := groupIn(c.lines, c.unified); known != c.known || known && got != (Group{Path: c.want}) {
			t.Errorf("%s: %+v, %v; want %s, %v", name, got, known, c.want, c.known)
		}
	}
	if _, known := (&Tree{}).Of("no process"); known {
		t.Error("a process that is not there has a group")
	}
}
