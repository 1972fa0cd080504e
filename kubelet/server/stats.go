// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/diskusage"
	kubeletnode "github.com/skiff-k8s/skiff/kubelet/node"
)

// statsProvider makes the summary of what the node, its pods and their containers use. What the runtime tells
// is passed on; what concerns the node comes from /proc.
type statsProvider struct {
	nodeName, rootDir string
	runtime           runtimeapi.RuntimeServiceClient
	images            runtimeapi.ImageServiceClient
	booted, started   time.Time // the machine, and this process
	machine           kubeletnode.Machine
	cgroups           *cgroups.Tree // nil: none
	groupOf           func(process string) (cgroups.Group, bool)
	runtimeSocket     string // of a runtime that is another process; else empty

	mu       sync.Mutex // guards what follows
	lastCPU  time.Duration
	lastTime time.Time
	used     map[string]cpuSample // by the ID of a sandbox or container, of the last summary
}

// cpuSample is what had been used at a time, and how fast it was used up to then.
type cpuSample struct {
	at   time.Time
	used uint64
	rate *uint64 // nanocores; nil at first
}

func newStatsProvider(c Config) *statsProvider {
	machine, err := kubeletnode.ReadMachine(c.RootDir)
	if err != nil {
		klog.Background().Error(err, "Cannot describe the machine in metrics")
	}
	booted, err := bootTime()
	if err != nil {
		klog.Background().Error(err, "Cannot tell in statistics when the machine was started")
	}
	return &statsProvider{
		booted: booted, nodeName: c.NodeName, rootDir: c.RootDir, runtime: c.Runtime, images: c.Images, started: time.Now(), machine: machine,
		cgroups: c.Cgroups, groupOf: c.Cgroups.Of, runtimeSocket: c.RuntimeSocket,
	}
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	summary, err := s.stats.summary(r.Context())
	if err != nil {
		writeError(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if only, _ := strconv.ParseBool(r.FormValue("only_cpu_and_memory")); only {
		summary = onlyCPUAndMemory(summary)
	} else {
		s.addDisk(r.Context(), summary)
	}
	writeJSON(w, r, summary)
}

func onlyCPUAndMemory(s *stats.Summary) *stats.Summary {
	small := &stats.Summary{Node: stats.NodeStats{
		NodeName: s.Node.NodeName, StartTime: s.Node.StartTime, CPU: s.Node.CPU, Memory: s.Node.Memory, Swap: s.Node.Swap, SystemContainers: s.Node.SystemContainers,
	}}
	for _, p := range s.Pods {
		pod := stats.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, CPU: p.CPU, Memory: p.Memory, Swap: p.Swap}
		for _, c := range p.Containers {
			pod.Containers = append(pod.Containers, stats.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory, Swap: c.Swap})
		}
		small.Pods = append(small.Pods, pod)
	}
	return small
}

// summary is never nil without an error.
func (p *statsProvider) summary(ctx context.Context) (*stats.Summary, error) {
	node, err := p.node(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the node's usage: %w", err)
	}
	res, err := p.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pod stats: %w", err)
	}
	started, err := p.startTimes(ctx)
	if err != nil {
		return nil, err
	}
	summary := &stats.Summary{Node: *node, Pods: []stats.PodStats{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := map[string]cpuSample{}
	for _, s := range res.Stats {
		pod := podStats(s, started)
		p.rateLocked(now, s.GetAttributes().GetId(), pod.CPU)
		for i, c := range s.GetLinux().GetContainers() {
			p.rateLocked(now, c.GetAttributes().GetId(), pod.Containers[i].CPU)
		}
		summary.Pods = append(summary.Pods, pod)
	}
	p.used = now
	return summary, nil
}

// leastInterval is between two looks that tell how fast processor time is used.
const leastInterval = time.Second

// rateLocked says how fast processor time was used since the last summary: the runtime's own answer is as old as its last
// look, and it seldom looks. The caller holds mu.
func (p *statsProvider) rateLocked(now map[string]cpuSample, id string, cpu *stats.CPUStats) {
	if cpu == nil || cpu.UsageCoreNanoSeconds == nil {
		return
	}
	last, known := p.used[id]
	sample := cpuSample{at: cpu.Time.Time, used: *cpu.UsageCoreNanoSeconds, rate: cpu.UsageNanoCores}
	if passed := sample.at.Sub(last.at); known && passed < leastInterval {
		sample = last
	} else if known && sample.used >= last.used {
		rate := uint64(float64(sample.used-last.used) / passed.Seconds())
		sample.rate = &rate
	}
	cpu.UsageNanoCores, now[id] = sample.rate, sample
}

// startTimes maps the IDs of sandboxes and containers to when they were made. The stats do not tell.
func (p *statsProvider) startTimes(ctx context.Context) (map[string]time.Time, error) {
	started := map[string]time.Time{}
	sandboxes, err := p.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pod sandboxes: %w", err)
	}
	for _, s := range sandboxes.Items {
		started[s.Id] = time.Unix(0, s.CreatedAt)
	}
	list, err := p.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range list.Containers {
		started[c.Id] = time.Unix(0, c.CreatedAt)
	}
	return started, nil
}

func podStats(s *runtimeapi.PodSandboxStats, started map[string]time.Time) stats.PodStats {
	m, linux := s.GetAttributes().GetMetadata(), s.GetLinux()
	pod := stats.PodStats{
		PodRef:     stats.PodReference{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid()},
		StartTime:  metav1.NewTime(started[s.GetAttributes().GetId()]),
		Containers: []stats.ContainerStats{},
		CPU:        cpuStats(linux.GetCpu()),
		Memory:     memoryStats(linux.GetMemory()),
		IO:         ioStats(linux.GetIo()),
		Network:    networkStats(linux.GetNetwork()),
	}
	if processes := linux.GetProcess().GetProcessCount(); processes != nil {
		pod.ProcessStats = &stats.ProcessStats{ProcessCount: &processes.Value}
	}
	for _, c := range linux.GetContainers() {
		pod.Containers = append(pod.Containers, stats.ContainerStats{
			Name:      c.GetAttributes().GetMetadata().GetName(),
			StartTime: metav1.NewTime(started[c.GetAttributes().GetId()]),
			CPU:       cpuStats(c.GetCpu()),
			Memory:    memoryStats(c.GetMemory()),
			IO:        ioStats(c.GetIo()),
			Swap:      swapStats(c.GetSwap()),
			Rootfs:    writableLayer(c.GetWritableLayer()),
		})
	}
	pod.Swap = podSwap(pod.Containers)
	return pod
}

// podSwap sums up what the containers swap: the runtime has nothing about their pod.
func podSwap(containers []stats.ContainerStats) *stats.SwapStats {
	var sum *stats.SwapStats
	for _, c := range containers {
		if c.Swap == nil {
			continue
		}
		if sum == nil {
			sum = &stats.SwapStats{Time: c.Swap.Time, SwapAvailableBytes: new(uint64), SwapUsageBytes: new(uint64)}
		}
		*sum.SwapAvailableBytes += ptr.Deref(c.Swap.SwapAvailableBytes, 0)
		*sum.SwapUsageBytes += ptr.Deref(c.Swap.SwapUsageBytes, 0)
	}
	return sum
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func cpuStats(c *runtimeapi.CpuUsage) *stats.CPUStats {
	if c == nil {
		return nil
	}
	return &stats.CPUStats{
		Time:           metav1.NewTime(time.Unix(0, c.Timestamp)),
		UsageNanoCores: value(c.UsageNanoCores), UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds),
		PSI: pressureOf(c.Psi),
	}
}

func ioStats(io *runtimeapi.IoUsage) *stats.IOStats {
	if io == nil {
		return nil
	}
	return &stats.IOStats{Time: metav1.NewTime(time.Unix(0, io.Timestamp)), PSI: pressureOf(io.Psi)}
}

func pressureOf(p *runtimeapi.PsiStats) *stats.PSIStats {
	if p == nil {
		return nil
	}
	of := func(d *runtimeapi.PsiData) stats.PSIData {
		return stats.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &stats.PSIStats{Full: of(p.Full), Some: of(p.Some)}
}

func memoryStats(m *runtimeapi.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time:           metav1.NewTime(time.Unix(0, m.Timestamp)),
		AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes), WorkingSetBytes: value(m.WorkingSetBytes),
		RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults),
		PSI: pressureOf(m.Psi),
	}
}

func swapStats(s *runtimeapi.SwapUsage) *stats.SwapStats {
	if s == nil {
		return nil
	}
	return &stats.SwapStats{
		Time:           metav1.NewTime(time.Unix(0, s.Timestamp)),
		SwapUsageBytes: value(s.SwapUsageBytes), SwapAvailableBytes: value(s.SwapAvailableBytes),
	}
}

func writableLayer(f *runtimeapi.FilesystemUsage) *stats.FsStats {
	if f == nil {
		return nil
	}
	return &stats.FsStats{Time: metav1.NewTime(time.Unix(0, f.Timestamp)), UsedBytes: value(f.UsedBytes), InodesUsed: value(f.InodesUsed)}
}

func networkStats(n *runtimeapi.NetworkUsage) *stats.NetworkStats {
	if n == nil {
		return nil
	}
	network := &stats.NetworkStats{Time: metav1.NewTime(time.Unix(0, n.Timestamp)), InterfaceStats: interfaceStats(n.GetDefaultInterface())}
	for _, i := range n.GetInterfaces() {
		network.Interfaces = append(network.Interfaces, interfaceStats(i))
		if i.GetName() == defaultInterface { // CRI-O takes the first one for it, which is the loopback
			network.InterfaceStats = interfaceStats(i)
		}
	}
	return network
}

func interfaceStats(i *runtimeapi.NetworkInterfaceUsage) stats.InterfaceStats {
	return stats.InterfaceStats{
		Name:    i.GetName(),
		RxBytes: value(i.GetRxBytes()), RxErrors: value(i.GetRxErrors()),
		TxBytes: value(i.GetTxBytes()), TxErrors: value(i.GetTxErrors()),
	}
}

// node reads what the node as a whole uses.
func (p *statsProvider) node(ctx context.Context) (*stats.NodeStats, error) {
	cpu, cpuErr := p.nodeCPU()
	memory, swap, memoryErr := nodeMemory()
	limits, limitsErr := nodeLimits()
	disk, diskErr := fileSystem(p.rootDir)
	if err := errors.Join(cpuErr, memoryErr, limitsErr, diskErr); err != nil {
		return nil, err
	}
	cpu.PSI, memory.PSI = nodePressure("cpu"), nodePressure("memory")
	memory.AvailableBytes = ptr.To(withoutHugePages(*memory.AvailableBytes, p.machine.HugePages))
	node := &stats.NodeStats{
		NodeName: p.nodeName, StartTime: metav1.NewTime(p.booted),
		CPU: cpu, Memory: memory, Swap: swap, Fs: disk, Rlimit: limits, Network: nodeNetwork(), SystemContainers: p.systemContainers(),
	}
	if pressure := nodePressure("io"); pressure != nil {
		node.IO = &stats.IOStats{Time: metav1.Now(), PSI: pressure}
	}
	res, err := p.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask for the images' file system: %w", err)
	}
	imageFs, err := firstFileSystem(res.ImageFilesystems)
	if err != nil {
		return nil, err
	}
	containerFs, err := firstFileSystem(res.ContainerFilesystems)
	if err != nil {
		return nil, err
	}
	if imageFs != nil || containerFs != nil {
		node.Runtime = &stats.RuntimeStats{ImageFs: imageFs, ContainerFs: containerFs}
	}
	return node, nil
}

// firstFileSystem is what the runtime uses of a file system; nil if it names none.
func firstFileSystem(all []*runtimeapi.FilesystemUsage) (*stats.FsStats, error) {
	if len(all) == 0 {
		return nil, nil
	}
	fs, err := fileSystem(all[0].GetFsId().GetMountpoint())
	if err != nil {
		return nil, err
	}
	fs.UsedBytes, fs.InodesUsed = value(all[0].GetUsedBytes()), value(all[0].GetInodesUsed())
	return fs, nil
}

// systemContainers are what all pods use together, and what this process and the runtime use, under the names that upstream's
// summary has for them. A runtime in this process uses what this process does.
func (p *statsProvider) systemContainers() (all []stats.ContainerStats) {
	if p.cgroups == nil {
		return nil
	}
	own, known := p.groupOf("self")
	runtime, runtimeKnown := own, known
	if p.runtimeSocket != "" {
		if pid, err := peerOf(p.runtimeSocket); err != nil {
			runtimeKnown = false // it is away
		} else {
			runtime, runtimeKnown = p.groupOf(strconv.Itoa(pid))
		}
	}
	for _, c := range []struct {
		name  string
		group cgroups.Group
		known bool
	}{{stats.SystemContainerKubelet, own, known}, {stats.SystemContainerRuntime, runtime, runtimeKnown}, {stats.SystemContainerPods, p.cgroups.AllPods(), true}} {
		if u, ok := p.cgroups.Usage(c.group); ok && c.known {
			all = append(all, p.systemContainer(c.name, u))
		}
	}
	return all
}

// peerOf is the process that listens on a socket.
func peerOf(socket string) (pid int, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

func (p *statsProvider) systemContainer(name string, u cgroups.Usage) stats.ContainerStats {
	now, used := metav1.Now(), uint64(u.CPU)
	c := stats.ContainerStats{
		Name: name, StartTime: metav1.NewTime(p.started), CPU: &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &used},
		Memory: &stats.MemoryStats{Time: now, UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS, PageFaults: &u.PageFaults, MajorPageFaults: &u.MajorPageFaults},
		Swap:   &stats.SwapStats{Time: now, SwapUsageBytes: &u.Swap},
	}
	if total := uint64(p.machine.Memory); total > u.WorkingSet {
		available := total - u.WorkingSet
		c.Memory.AvailableBytes = &available
	}
	return c
}

// nodeLimits says how many processes there may be, and how many there are.
func nodeLimits() (*stats.RlimitStats, error) {
	most := int64(math.MaxInt64)
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		most = min(most, n)
	}
	raw, err := os.ReadFile("/proc/loadavg") // "0.01 0.02 0.03 2/345 6789": two of 345 run
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(raw), "/")
	count, _, _ := strings.Cut(rest, " ")
	running, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("/proc/loadavg: %w", err)
	}
	return &stats.RlimitStats{Time: metav1.Now(), MaxPID: &most, NumOfRunningProcesses: &running}, nil
}

// nodePressure reads lines such as "some avg10=0.00 avg60=0.00 avg300=0.00 total=12"; nil if the kernel does not tell.
func nodePressure(resource string) *stats.PSIStats {
	raw, err := os.ReadFile(filepath.Join("/proc/pressure", resource))
	if err != nil {
		return nil
	}
	var p stats.PSIStats
	for line := range strings.Lines(string(raw)) {
		var who string
		var d stats.PSIData
		if _, err := fmt.Sscanf(line, "%s avg10=%g avg60=%g avg300=%g total=%d", &who, &d.Avg10, &d.Avg60, &d.Avg300, &d.Total); err != nil {
			return nil
		}
		switch who {
		case "some":
			p.Some = d
		case "full":
			p.Full = d
		}
	}
	return &p
}

// defaultInterface is the one whose figures stand for the machine's, by upstream's rule.
const defaultInterface = "eth0"

func nodeNetwork() *stats.NetworkStats {
	raw, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil
	}
	network := &stats.NetworkStats{Time: metav1.Now()}
	all := interfaces(raw)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		column := func(i int) *uint64 { return ptr.To(uint64(all[name][i])) }
		one := stats.InterfaceStats{Name: name, RxBytes: column(0), RxErrors: column(2), TxBytes: column(8), TxErrors: column(10)}
		network.Interfaces = append(network.Interfaces, one)
		if name == defaultInterface {
			network.InterfaceStats = one
		}
	}
	return network
}

// ticksPerSecond is the unit of /proc/stat, which is the same on all architectures that Go supports.
const ticksPerSecond = 100

func (p *statsProvider) nodeCPU() (*stats.CPUStats, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, err
	}
	used, err := busyTime(raw)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	total := uint64(used)
	cpu := &stats.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &total}
	p.mu.Lock()
	defer p.mu.Unlock()
	if passed := now.Sub(p.lastTime); !p.lastTime.IsZero() && passed > 0 {
		nanoCores := uint64(float64(used-p.lastCPU) / passed.Seconds())
		cpu.UsageNanoCores = &nanoCores
	}
	p.lastCPU, p.lastTime = used, now
	return cpu, nil
}

// bootTime is when the machine was started.
func bootTime() (time.Time, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := strings.Cut(string(raw), "\nbtime ")
	text, _, _ := strings.Cut(rest, "\n")
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("/proc/stat: %w", err)
	}
	return time.Unix(seconds, 0), nil
}

// busyTime sums the first line of /proc/stat without idle (4th), iowait (5th) and the guests, who are counted in user.
func busyTime(procStat []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(procStat, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks uint64
	for i, f := range fields[1:9] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / ticksPerSecond), nil
}

func nodeMemory() (*stats.MemoryStats, *stats.SwapStats, error) {
	of, err := readTable("/proc/meminfo")
	if err != nil {
		return nil, nil, err
	}
	faults, err := readTable("/proc/vmstat")
	if err != nil {
		return nil, nil, err
	}
	kilo := func(name string) uint64 { return of[name] << 10 }
	total := kilo("MemTotal")
	usage := total - kilo("MemFree")
	// The working set is what is in use without file pages that can go at once.
	workingSet := usage - min(usage, kilo("Inactive(file)"))
	now, swapFree := metav1.Now(), kilo("SwapFree")
	memory := &stats.MemoryStats{
		Time: now, AvailableBytes: ptr.To(total - workingSet), UsageBytes: &usage, WorkingSetBytes: &workingSet, RSSBytes: ptr.To(kilo("AnonPages")),
		PageFaults: ptr.To(faults["pgfault"]), MajorPageFaults: ptr.To(faults["pgmajfault"]),
	}
	return memory, &stats.SwapStats{Time: now, SwapAvailableBytes: &swapFree, SwapUsageBytes: ptr.To(kilo("SwapTotal") - swapFree)}, nil
}

// withoutHugePages is what there is for processes that use no huge pages: memory set aside for those is neither used nor free.
func withoutHugePages(available uint64, pages map[int64]int64) uint64 {
	for _, bytes := range pages {
		available -= min(available, uint64(bytes))
	}
	return available
}

// readTable reads a file of lines such as "MemTotal:  1024 kB" and "pgfault 12".
func readTable(path string) (map[string]uint64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	table := map[string]uint64{}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		table[strings.TrimSuffix(fields[0], ":")] = n
	}
	return table, nil
}

func fileSystem(dir string) (*stats.FsStats, error) {
	f, err := diskusage.OfFileSystem(dir)
	if err != nil {
		return nil, err
	}
	return fsStats(f), nil
}

func fsStats(f diskusage.FileSystem) *stats.FsStats {
	return &stats.FsStats{
		Time: metav1.Now(), AvailableBytes: &f.Available, CapacityBytes: &f.Capacity, UsedBytes: &f.Used,
		Inodes: &f.Inodes, InodesFree: &f.InodesFree, InodesUsed: &f.InodesUsed,
	}
}

// volumeStats tells how full a pod's volumes are. Folders on the node's own disk are measured, so it takes a while.
func (s *Server) volumeStats(ctx context.Context, pod *corev1.Pod) []stats.VolumeStats {
	if s.config.Volumes == nil {
		return nil
	}
	var all []stats.VolumeStats
	paths := s.config.Volumes(pod.UID)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, mounted := paths[v.Name]
		if !mounted || v.HostPath != nil || v.Image != nil {
			continue
		}
		f, err := s.measure(ctx, pod.UID, v.Name, path)
		if err != nil {
			continue // it goes as we look
		}
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			bytes, inodes := diskusage.OfFolder(path)
			f.Used, f.InodesUsed = uint64(bytes), uint64(inodes)
		}
		vs := stats.VolumeStats{FsStats: *fsStats(f), Name: v.Name}
		if claim := claimOf(pod, v); claim != "" {
			vs.PVCRef = &stats.PVCReference{Name: claim, Namespace: pod.Namespace}
		}
		all = append(all, vs)
	}
	return all
}

func (s *Server) measure(ctx context.Context, pod types.UID, volume, path string) (diskusage.FileSystem, error) {
	if s.config.Measure == nil {
		return diskusage.OfFileSystem(path)
	}
	return s.config.Measure(ctx, pod, volume)
}

func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// addDisk completes a summary with what takes longer to find out: volumes, and what of the node's disk each pod has.
func (s *Server) addDisk(ctx context.Context, summary *stats.Summary) {
	pods := map[string]*corev1.Pod{}
	for _, pod := range s.config.Pods.Pods() {
		pods[string(pod.UID)] = pod
	}
	for i := range summary.Pods {
		p := &summary.Pods[i]
		pod := pods[p.PodRef.UID]
		if pod == nil {
			continue
		}
		p.VolumeStats = s.volumeStats(ctx, pod)
		var used, inodes uint64
		for _, v := range p.VolumeStats {
			if j := slices.IndexFunc(pod.Spec.Volumes, func(spec corev1.Volume) bool { return spec.Name == v.Name }); pod.Spec.Volumes[j].EmptyDir != nil && pod.Spec.Volumes[j].EmptyDir.Medium == corev1.StorageMediumDefault {
				used, inodes = used+*v.UsedBytes, inodes+*v.InodesUsed
			}
		}
		for j := range p.Containers {
			c := &p.Containers[j]
			logs, files := diskusage.OfFolder(filepath.Join(s.config.PodLogs, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), c.Name))
			size, count := uint64(logs), uint64(files)
			c.Logs = onDisk(summary.Node.Fs, &size, &count)
			used, inodes = used+size, inodes+count
			if disk := containersDisk(summary.Node.Runtime); c.Rootfs != nil && disk != nil {
				c.Rootfs = onDisk(disk, c.Rootfs.UsedBytes, c.Rootfs.InodesUsed)
			}
			if c.Rootfs != nil && c.Rootfs.UsedBytes != nil {
				used += *c.Rootfs.UsedBytes
			}
			if c.Rootfs != nil && c.Rootfs.InodesUsed != nil {
				inodes += *c.Rootfs.InodesUsed
			}
		}
		p.EphemeralStorage = onDisk(summary.Node.Fs, &used, &inodes)
	}
}

// onDisk is what something uses of a disk.
func onDisk(disk *stats.FsStats, used, inodes *uint64) *stats.FsStats {
	return &stats.FsStats{Time: metav1.Now(), AvailableBytes: disk.AvailableBytes, CapacityBytes: disk.CapacityBytes, UsedBytes: used,
		Inodes: disk.Inodes, InodesFree: disk.InodesFree, InodesUsed: inodes}
}

// containersDisk is where the runtime has the files that containers write; nil if it does not say.
func containersDisk(r *stats.RuntimeStats) *stats.FsStats {
	switch {
	case r == nil:
		return nil
	case r.ContainerFs != nil:
		return r.ContainerFs
	}
	return r.ImageFs
}
