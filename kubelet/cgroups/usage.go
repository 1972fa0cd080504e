// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Group is a group that has something to do with pods. Exactly the groups of containers have a Container.
type Group struct {
	Path      string    // below the mount point, as monitoring names it: "/kubepods/burstable/pod<uid>"
	Pod       types.UID // empty for those above the pods
	Container string    // the runtime's ID of a container or sandbox
}

// Groups lists the root of the machine, the classes, the pods and their containers.
func (t *Tree) Groups() []Group {
	groups := []Group{{Path: "/"}}
	for _, class := range []name{{kubepods}, {kubepods, "burstable"}, {kubepods, "besteffort"}} {
		groups = append(groups, Group{Path: t.path(class)})
	}
	seen := map[string]bool{}
	t.eachPodDir(func(pod types.UID, dir string) {
		path := t.relative(dir)
		if seen[path] {
			return // another controller's
		}
		seen[path] = true
		groups = append(groups, Group{Path: path, Pod: pod})
		entries, err := os.ReadDir(dir)
		if err != nil {
			return // gone meanwhile
		}
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), monitorPrefix) {
				groups = append(groups, Group{Path: filepath.Join(path, e.Name()), Pod: pod, Container: containerID(e.Name())})
			}
		}
	})
	return groups
}

// AllPods is the group that all pods are in.
func (t *Tree) AllPods() Group { return Group{Path: t.path(name{kubepods})} }

// monitorPrefix begins the names of groups in which CRI-O has the program that watches a container: it is not in the container.
const monitorPrefix = "crio-conmon-"

// Of is the group that a process is in, which is named as in /proc; false if it has different ones for processors and for memory.
func (t *Tree) Of(process string) (Group, bool) {
	lines, err := os.ReadFile(filepath.Join("/proc", process, "cgroup")) // "4:cpu,cpuacct:/system.slice", or "0::/system.slice"
	if err != nil {
		return Group{}, false
	}
	return groupIn(string(lines), t.unified)
}

func groupIn(lines string, unified bool) (Group, bool) {
	paths := map[string]string{}
	for line := range strings.Lines(lines) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			for _, controller := range strings.Split(fields[1], ",") {
				paths[controller] = fields[2]
			}
		}
	}
	if unified {
		return Group{Path: paths[""]}, paths[""] != ""
	}
	return Group{Path: paths["cpu"]}, paths["cpu"] != "" && paths["cpu"] == paths["memory"]
}

// containerID finds a runtime's ID in the name that it gave to a group: "<id>", "cri-containerd-<id>.scope" or "crio-<id>".
func containerID(group string) string {
	group = strings.TrimSuffix(group, ".scope")
	return group[strings.LastIndex(group, "-")+1:]
}

func (t *Tree) relative(dir string) string {
	if t.unified {
		return strings.TrimPrefix(dir, t.cfg.Mount)
	}
	return strings.TrimPrefix(dir, t.controllerOf(dir))
}

// Usage is what a group has used, by the kernel's count. What the kernel does not tell is 0.
type Usage struct {
	CPU, UserCPU, SystemCPU time.Duration
	Periods, Throttled      uint64
	ThrottledTime           time.Duration
	Bursts                  uint64
	BurstTime               time.Duration

	Memory, WorkingSet, RSS, Cache, MappedFile, Swap, MaxMemory                       uint64
	KernelMemory, ActiveFile, InactiveFile, Dirty, Writeback                          uint64
	MemoryFailures, PageFaults, MajorPageFaults, OOMKills                             uint64
	MemoryHigh, MemoryMax, PagesScanned, PagesReclaimed, RefaultsOfFile, RefaultsAnon uint64 // of version 2 alone

	Processes, Threads uint64
	Disks              map[string]DiskUsage // by device number, "8:0"
	Pressure           map[string]Pressure  // of "cpu", "memory" and "io", where the kernel tells

	// What it may use; 0 for no limit.
	Shares, Quota, Period, MemoryLimit, MemorySwapLimit, MemoryReservation, MostThreads uint64
}

// Pressure is how long some of the processes of a group waited, and how long all of them did.
type Pressure struct{ Some, All time.Duration }

// DiskUsage is what was read from and written to a disk.
type DiskUsage struct{ ReadBytes, WriteBytes, Reads, Writes uint64 }

// Usage reads what a group has used; false if there is no such group.
func (t *Tree) Usage(g Group) (u Usage, ok bool) {
	if t.unified {
		return usageV2(group{filepath.Join(t.cfg.Mount, g.Path)})
	}
	return usageV1(func(controller string) group { return t.part(g, controller) })
}

// part is the folder of a group for a controller.
func (t *Tree) part(g Group, controller string) group {
	if t.unified {
		return group{filepath.Join(t.cfg.Mount, g.Path)}
	}
	for _, dir := range t.controllers {
		if slices.Contains(strings.Split(filepath.Base(dir), ","), controller) {
			return group{filepath.Join(dir, g.Path)}
		}
	}
	return group{} // reads nothing
}

// PodsMemory is what all pods together have in use and cannot do without, of so much that they may have; false if that has no limit.
func (t *Tree) PodsMemory() (used, most int64, limited bool) {
	g := t.part(t.AllPods(), "memory")
	use, limit, file := "memory.current", "memory.max", "inactive_file"
	if !t.unified {
		use, limit, file = "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"
	}
	most = int64(min(g.number(limit), math.MaxInt64))
	if most == 0 || most > math.MaxInt64/2 { // as v1 writes no limit
		return 0, 0, false
	}
	all := g.number(use)
	return int64(all - min(all, g.table("memory.stat")[file])), most, true
}

// group is the folder of a group, or of one controller's part of it.
type group struct{ dir string }

func (g group) text(file string) string {
	if g.dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return ""
	}
	return string(data)
}

func (g group) number(file string) uint64 { return unsigned(strings.TrimSpace(g.text(file))) }

// table reads a file of lines "<name> <number>".
func (g group) table(file string) map[string]uint64 {
	table := map[string]uint64{}
	for line := range strings.Lines(g.text(file)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			table[name] = unsigned(value)
		}
	}
	return table
}

func (g group) processes() uint64 { return uint64(strings.Count(g.text("cgroup.procs"), "\n")) }

// unsigned reads a number; 0 for none or "max".
func unsigned(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func usageV2(g group) (u Usage, ok bool) {
	if _, err := os.Stat(g.dir); err != nil {
		return u, false
	}
	cpu, memory := g.table("cpu.stat"), g.table("memory.stat")
	u = Usage{
		CPU: micros(cpu["usage_usec"]), UserCPU: micros(cpu["user_usec"]), SystemCPU: micros(cpu["system_usec"]),
		Periods: cpu["nr_periods"], Throttled: cpu["nr_throttled"], ThrottledTime: micros(cpu["throttled_usec"]),
		Bursts: cpu["nr_bursts"], BurstTime: micros(cpu["burst_usec"]),
		Memory: g.number("memory.current"), RSS: memory["anon"], Cache: memory["file"], MappedFile: memory["file_mapped"],
		Swap: g.number("memory.swap.current"), MaxMemory: g.number("memory.peak"), MemoryFailures: g.table("memory.events")["max"],
		PageFaults: memory["pgfault"], MajorPageFaults: memory["pgmajfault"], OOMKills: g.table("memory.events")["oom_kill"],
		Processes: g.processes(), Threads: g.number("pids.current"), Disks: disksV2(g.text("io.stat")),
		KernelMemory: memory["kernel"], ActiveFile: memory["active_file"], InactiveFile: memory["inactive_file"], Dirty: memory["file_dirty"], Writeback: memory["file_writeback"],
		MemoryHigh: g.table("memory.events")["high"], MemoryMax: g.table("memory.events")["max"], PagesScanned: memory["pgscan"], PagesReclaimed: memory["pgsteal"],
		RefaultsOfFile: memory["workingset_refault_file"], RefaultsAnon: memory["workingset_refault_anon"], Pressure: g.pressure(),
		Shares: sharesOf(g.number("cpu.weight")), MemoryLimit: g.number("memory.max"), MemorySwapLimit: g.number("memory.swap.max"),
		MemoryReservation: g.number("memory.low"), MostThreads: g.number("pids.max"),
	}
	if quota, period, ok := strings.Cut(strings.TrimSpace(g.text("cpu.max")), " "); ok {
		u.Quota, u.Period = unsigned(quota), unsigned(period)
	}
	u.WorkingSet = u.Memory - min(u.Memory, u.InactiveFile)
	return u, true
}

func micros(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }

// sharesOf is about the opposite of weight.
func sharesOf(weight uint64) uint64 {
	if weight == 0 {
		return 0
	}
	return 2 + (weight-1)*262142/9999
}

// pressure reads files of lines such as "some avg10=0.00 avg60=0.00 avg300=0.00 total=12", in microseconds.
func (g group) pressure() map[string]Pressure {
	all := map[string]Pressure{}
	for _, resource := range []string{"cpu", "memory", "io"} {
		waits := map[string]time.Duration{}
		for line := range strings.Lines(g.text(resource + ".pressure")) {
			who, _, _ := strings.Cut(line, " ")
			_, total, _ := strings.Cut(strings.TrimSpace(line), "total=")
			waits[who] = micros(unsigned(total))
		}
		if len(waits) > 0 {
			all[resource] = Pressure{Some: waits["some"], All: waits["full"]}
		}
	}
	return all
}

// disksV2 reads lines such as "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
func disksV2(text string) map[string]DiskUsage {
	disks := map[string]DiskUsage{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		var d DiskUsage
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			switch name {
			case "rbytes":
				d.ReadBytes = unsigned(value)
			case "wbytes":
				d.WriteBytes = unsigned(value)
			case "rios":
				d.Reads = unsigned(value)
			case "wios":
				d.Writes = unsigned(value)
			}
		}
		disks[fields[0]] = d
	}
	return disks
}

// tick is the unit of cpuacct.stat.
const tick = 10 * time.Millisecond

func usageV1(at func(controller string) group) (u Usage, ok bool) {
	cpu, account, memory, pids, io := at("cpu"), at("cpuacct"), at("memory"), at("pids"), at("blkio")
	if _, err := os.Stat(memory.dir); err != nil {
		return u, false
	}
	times, throttling, stat := account.table("cpuacct.stat"), cpu.table("cpu.stat"), memory.table("memory.stat")
	u = Usage{
		CPU: time.Duration(account.number("cpuacct.usage")), UserCPU: time.Duration(times["user"]) * tick, SystemCPU: time.Duration(times["system"]) * tick,
		Periods: throttling["nr_periods"], Throttled: throttling["nr_throttled"], ThrottledTime: time.Duration(throttling["throttled_time"]),
		Bursts: throttling["nr_bursts"], BurstTime: time.Duration(throttling["burst_time"]),
		Memory: memory.number("memory.usage_in_bytes"), RSS: stat["total_rss"], Cache: stat["total_cache"], MappedFile: stat["total_mapped_file"],
		Swap: stat["total_swap"], MaxMemory: memory.number("memory.max_usage_in_bytes"), MemoryFailures: memory.number("memory.failcnt"),
		PageFaults: stat["total_pgfault"], MajorPageFaults: stat["total_pgmajfault"], OOMKills: memory.table("memory.oom_control")["oom_kill"],
		Processes: memory.processes(), Threads: pids.number("pids.current"), Disks: disksV1(io),
		Shares: cpu.number("cpu.shares"), Quota: cpu.number("cpu.cfs_quota_us"), Period: cpu.number("cpu.cfs_period_us"),
		KernelMemory: memory.number("memory.kmem.usage_in_bytes"), ActiveFile: stat["total_active_file"], InactiveFile: stat["total_inactive_file"],
		MemoryLimit: limit(memory.number("memory.limit_in_bytes")), MemorySwapLimit: limit(memory.number("memory.memsw.limit_in_bytes")),
		MemoryReservation: limit(memory.number("memory.soft_limit_in_bytes")), MostThreads: pids.number("pids.max"),
	}
	u.WorkingSet = u.Memory - min(u.Memory, u.InactiveFile)
	return u, true
}

// limit is 0 for none, as which v1 writes the highest that there could be.
func limit(n uint64) uint64 {
	if n > 1<<62 {
		return 0
	}
	return n
}

// disksV1 reads lines such as "8:0 Read 4096", of bytes and of operations.
func disksV1(g group) map[string]DiskUsage {
	disks := map[string]DiskUsage{}
	each := func(file string, take func(d *DiskUsage, operation string, n uint64)) {
		for line := range strings.Lines(g.text(file)) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			d := disks[fields[0]]
			take(&d, fields[1], unsigned(fields[2]))
			disks[fields[0]] = d
		}
	}
	each("blkio.throttle.io_service_bytes_recursive", func(d *DiskUsage, operation string, n uint64) {
		switch operation {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	})
	each("blkio.throttle.io_serviced_recursive", func(d *DiskUsage, operation string, n uint64) {
		switch operation {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	})
	return disks
}

// Members are the processes of the group itself.
func (t *Tree) Members(g Group) (pids []int) {
	dir := filepath.Join(t.cfg.Mount, g.Path)
	if !t.unified {
		dir = filepath.Join(t.controllers[0], g.Path)
	}
	for _, line := range strings.Fields(group{dir}.text("cgroup.procs")) {
		if pid, err := strconv.Atoi(line); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
