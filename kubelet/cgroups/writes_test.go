// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// recorder is a kernel that makes a group's files as the real one does when the group is made, and notes what is asked of it.
type recorder struct {
	t       *testing.T
	mount   string
	unified bool
	asked   []string
}

func (r *recorder) mkdir(dir string) error {
	r.asked = append(r.asked, "mkdir "+strings.TrimPrefix(dir, r.mount))
	if err := (realKernel{}).mkdir(dir); err != nil {
		return err
	}
	r.fill(dir)
	return nil
}

func (r *recorder) write(path, value string) error {
	if err := (realKernel{}).write(path, value); err != nil {
		return err
	}
	r.asked = append(r.asked, strings.TrimPrefix(path, r.mount)+" = "+value)
	return nil
}

// fill makes the files of a group. With version 2 they are those of the controllers that the group above hands down.
func (r *recorder) fill(dir string) {
	files := map[string]string{"cgroup.procs": ""}
	of := func(controller string) []string {
		return map[string][]string{
			"cpu": {"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"}, "memory": {"memory.limit_in_bytes"}, "pids": {"pids.max"},
			"cpuset": {"cpuset.cpus", "cpuset.mems"}, "hugetlb": {"hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"},
			"+cpu": {"cpu.weight", "cpu.max"}, "+memory": {"memory.max", "memory.high", "memory.min", "memory.low"}, "+pids": {"pids.max"}, "+hugetlb": {"hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"},
		}[controller]
	}
	if r.unified {
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "cgroup.controllers"))
		if err != nil {
			r.t.Error(err)
		}
		files["cgroup.controllers"], files["cgroup.subtree_control"] = string(raw), ""
		given := ""
		for _, asked := range r.asked {
			if value, is := strings.CutPrefix(asked, strings.TrimPrefix(filepath.Dir(dir), r.mount)+"/cgroup.subtree_control = "); is {
				given += value + " "
			}
		}
		for _, controller := range strings.Fields(given) {
			for _, file := range of(controller) {
				files[file] = ""
			}
		}
	} else {
		controller, _, _ := strings.Cut(strings.TrimPrefix(dir, r.mount+"/"), "/")
		for _, part := range strings.Split(controller, ",") {
			for _, file := range of(part) {
				files[file] = ""
			}
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			r.t.Error(err)
		}
	}
}

func burstable() *v1.Pod {
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory), "hugepages-2Mi": resource.MustParse("4Mi")}
	}
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Spec: v1.PodSpec{Containers: []v1.Container{{
		Resources: v1.ResourceRequirements{Requests: list("250m", "64Mi"), Limits: list("500m", "128Mi")},
	}}}}
}

// What the kernel is asked for when a node and a pod come, in that order, by each version of cgroups and each driver.
func TestWrites(t *testing.T) {
	for _, c := range []struct {
		name    string
		unified bool
		driver  Driver
		parent  string // that the runtime is told
		want    string
	}{
		{"v2 with cgroupfs", true, Cgroupfs, "/skiff/kubepods/burstable/pod0a1b-2c3d", `
/cgroup.subtree_control = +cpu
/cgroup.subtree_control = +memory
/cgroup.subtree_control = +pids
/cgroup.subtree_control = +hugetlb
mkdir /skiff
/skiff/cgroup.subtree_control = +cpu
/skiff/cgroup.subtree_control = +memory
/skiff/cgroup.subtree_control = +pids
/skiff/cgroup.subtree_control = +hugetlb
mkdir /skiff/kubepods
/skiff/kubepods/cpu.weight = 174
/skiff/kubepods/memory.max = 1073741824
/skiff/kubepods/pids.max = 1000
/skiff/kubepods/hugetlb.2MB.max = 8388608
/skiff/kubepods/hugetlb.2MB.rsvd.max = 8388608
/skiff/kubepods/cgroup.subtree_control = +cpu
/skiff/kubepods/cgroup.subtree_control = +memory
/skiff/kubepods/cgroup.subtree_control = +pids
/skiff/kubepods/cgroup.subtree_control = +hugetlb
mkdir /skiff/kubepods/besteffort
/skiff/kubepods/besteffort/cpu.weight = 1
/skiff/kubepods/cgroup.subtree_control = +cpu
/skiff/kubepods/cgroup.subtree_control = +memory
/skiff/kubepods/cgroup.subtree_control = +pids
/skiff/kubepods/cgroup.subtree_control = +hugetlb
mkdir /skiff/kubepods/burstable
/skiff/kubepods/burstable/cpu.weight = 1
/skiff/kubepods/memory.min = 0
/skiff/kubepods/memory.low = 0
/skiff/kubepods/burstable/memory.min = 0
/skiff/kubepods/burstable/memory.low = 0
/skiff/kubepods/burstable/cgroup.subtree_control = +cpu
/skiff/kubepods/burstable/cgroup.subtree_control = +memory
/skiff/kubepods/burstable/cgroup.subtree_control = +pids
/skiff/kubepods/burstable/cgroup.subtree_control = +hugetlb
mkdir /skiff/kubepods/burstable/pod0a1b-2c3d
/skiff/kubepods/burstable/pod0a1b-2c3d/cpu.weight = 35
/skiff/kubepods/burstable/pod0a1b-2c3d/cpu.max = 50000 100000
/skiff/kubepods/burstable/pod0a1b-2c3d/memory.max = 134217728
/skiff/kubepods/burstable/pod0a1b-2c3d/pids.max = 64
/skiff/kubepods/burstable/pod0a1b-2c3d/hugetlb.2MB.max = 4194304
/skiff/kubepods/burstable/pod0a1b-2c3d/hugetlb.2MB.rsvd.max = 4194304
`},
		{"v1 with systemd", false, Systemd, "kubepods-burstable-pod0a1b_2c3d.slice", `
mkdir /cpu,cpuacct/skiff
mkdir /cpu,cpuacct/skiff/kubepods.slice
mkdir /cpuset/skiff
/cpuset/skiff/cpuset.cpus = 0-3
/cpuset/skiff/cpuset.mems = 0
mkdir /cpuset/skiff/kubepods.slice
/cpuset/skiff/kubepods.slice/cpuset.cpus = 0-3
/cpuset/skiff/kubepods.slice/cpuset.mems = 0
mkdir /memory/skiff
mkdir /memory/skiff/kubepods.slice
mkdir /hugetlb/skiff
mkdir /hugetlb/skiff/kubepods.slice
/cpu,cpuacct/skiff/kubepods.slice/cpu.shares = 2048
/memory/skiff/kubepods.slice/memory.limit_in_bytes = 1073741824
/hugetlb/skiff/kubepods.slice/hugetlb.2MB.limit_in_bytes = 8388608
/hugetlb/skiff/kubepods.slice/hugetlb.2MB.rsvd.limit_in_bytes = 8388608
mkdir /cpu,cpuacct/skiff/kubepods.slice/kubepods-besteffort.slice
mkdir /cpuset/skiff/kubepods.slice/kubepods-besteffort.slice
/cpuset/skiff/kubepods.slice/kubepods-besteffort.slice/cpuset.cpus = 0-3
/cpuset/skiff/kubepods.slice/kubepods-besteffort.slice/cpuset.mems = 0
mkdir /memory/skiff/kubepods.slice/kubepods-besteffort.slice
mkdir /hugetlb/skiff/kubepods.slice/kubepods-besteffort.slice
/cpu,cpuacct/skiff/kubepods.slice/kubepods-besteffort.slice/cpu.shares = 2
mkdir /cpu,cpuacct/skiff/kubepods.slice/kubepods-burstable.slice
mkdir /cpuset/skiff/kubepods.slice/kubepods-burstable.slice
/cpuset/skiff/kubepods.slice/kubepods-burstable.slice/cpuset.cpus = 0-3
/cpuset/skiff/kubepods.slice/kubepods-burstable.slice/cpuset.mems = 0
mkdir /memory/skiff/kubepods.slice/kubepods-burstable.slice
mkdir /hugetlb/skiff/kubepods.slice/kubepods-burstable.slice
/cpu,cpuacct/skiff/kubepods.slice/kubepods-burstable.slice/cpu.shares = 2
mkdir /cpu,cpuacct/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice
mkdir /cpuset/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice
/cpuset/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/cpuset.cpus = 0-3
/cpuset/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/cpuset.mems = 0
mkdir /memory/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice
mkdir /hugetlb/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice
/cpu,cpuacct/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/cpu.shares = 256
/cpu,cpuacct/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/cpu.cfs_period_us = 100000
/cpu,cpuacct/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/cpu.cfs_quota_us = 50000
/memory/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/memory.limit_in_bytes = 134217728
/hugetlb/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/hugetlb.2MB.limit_in_bytes = 4194304
/hugetlb/skiff/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c3d.slice/hugetlb.2MB.rsvd.limit_in_bytes = 4194304
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			mount := t.TempDir()
			if c.unified {
				files(t, mount, map[string]string{"cgroup.controllers": "cpu memory pids hugetlb\n", "cgroup.subtree_control": ""})
			} else {
				files(t, mount, map[string]string{"cpu,cpuacct/cgroup.procs": "", "memory/cgroup.procs": "", "hugetlb/cgroup.procs": "", "cpuset/cpuset.cpus": "0-3", "cpuset/cpuset.mems": "0"})
				for _, link := range []string{"cpu", "cpuacct"} {
					if err := os.Symlink("cpu,cpuacct", filepath.Join(mount, link)); err != nil {
						t.Fatal(err)
					}
				}
			}
			tree, err := New(Config{Mount: mount, Root: "/skiff", Driver: c.driver, PodPids: 64, HugePageSizes: []string{"2MB"}})
			if err != nil {
				t.Fatal(err)
			}
			kernel := &recorder{t: t, mount: mount, unified: c.unified}
			tree.kernel = kernel
			if err := tree.EnsureRoot(Limits{CPUShares: 2048, MemoryBytes: 1 << 30, Pids: 1000, HugePages: map[string]int64{"2MB": 8 << 20}}); err != nil {
				t.Fatal(err)
			}
			pod := burstable()
			if err := tree.Ensure(pod); err != nil {
				t.Fatal(err)
			}
			if want := strings.Split(strings.TrimSpace(c.want), "\n"); !slices.Equal(kernel.asked, want) {
				t.Errorf("the kernel was asked for\n%s", strings.Join(kernel.asked, "\n"))
			}
			if !tree.Exists(pod) {
				t.Error("the pod's group does not exist")
			}
			if parent := tree.Parent(pod); parent != c.parent {
				t.Errorf("the runtime is told %s, want %s", parent, c.parent)
			}
			l, _, err := tree.Limits(pod)
			if err != nil || l.CPUQuota != 50000 || l.MemoryBytes != 128<<20 {
				t.Errorf("the pod's limits are %+v, %v", l, err)
			}
			kernel.asked = nil
			if err := tree.Ensure(pod); err != nil || slices.ContainsFunc(kernel.asked, func(s string) bool { return strings.HasPrefix(s, "mkdir") }) {
				t.Errorf("what is there was made again: %q, %v", kernel.asked, err)
			}
		})
	}
}
