// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/diskusage"
	kubeletnode "github.com/skiff-k8s/skiff/kubelet/node"
)

// statsProvider makes the summary of what the node, its pods and their containers use. What the runtime tells
// is passed on; what concerns the node comes from /proc.
type statsProvider struct {
	nodeName, rootDir string
	runtime           runtimeapi.RuntimeServiceClient
	images            runtimeapi.ImageServiceClient
	started           time.Time
	machine           kubeletnode.Machine

	mu       sync.Mutex // guards what follows
	lastCPU  time.Duration
	lastTime time.Time
}

func newStatsProvider(c Config) *statsProvider {
	machine, err := kubeletnode.ReadMachine(c.RootDir)
	if err != nil {
		klog.Background().Error(err, "Cannot describe the machine in metrics")
	}
	return &statsProvider{nodeName: c.NodeName, rootDir: c.RootDir, runtime: c.Runtime, images: c.Images, started: time.Now(), machine: machine}
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
		NodeName: s.Node.NodeName, StartTime: s.Node.StartTime, CPU: s.Node.CPU, Memory: s.Node.Memory,
	}}
	for _, p := range s.Pods {
		pod := stats.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, CPU: p.CPU, Memory: p.Memory}
		for _, c := range p.Containers {
			pod.Containers = append(pod.Containers, stats.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory})
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
	for _, s := range res.Stats {
		summary.Pods = append(summary.Pods, podStats(s, started))
	}
	return summary, nil
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
			Swap:      swapStats(c.GetSwap()),
			Rootfs:    writableLayer(c.GetWritableLayer()),
		})
	}
	return pod
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
	}
}

func memoryStats(m *runtimeapi.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time:           metav1.NewTime(time.Unix(0, m.Timestamp)),
		AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes), WorkingSetBytes: value(m.WorkingSetBytes),
		RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults),
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
	memory, memoryErr := nodeMemory()
	disk, diskErr := fileSystem(p.rootDir)
	if err := errors.Join(cpuErr, memoryErr, diskErr); err != nil {
		return nil, err
	}
	node := &stats.NodeStats{
		NodeName: p.nodeName, StartTime: metav1.NewTime(p.started),
		CPU: cpu, Memory: memory, Fs: disk,
	}
	res, err := p.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask for the images' file system: %w", err)
	}
	if len(res.ImageFilesystems) > 0 {
		f := res.ImageFilesystems[0]
		imageFs, err := fileSystem(f.GetFsId().GetMountpoint())
		if err != nil {
			return nil, err
		}
		imageFs.UsedBytes, imageFs.InodesUsed = value(f.GetUsedBytes()), value(f.GetInodesUsed())
		node.Runtime = &stats.RuntimeStats{ImageFs: imageFs}
	}
	return node, nil
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

func nodeMemory() (*stats.MemoryStats, error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	bytesOf := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("/proc/meminfo: %w", err)
		}
		bytesOf[strings.TrimSuffix(fields[0], ":")] = n << 10
	}
	total, free := bytesOf["MemTotal"], bytesOf["MemFree"]
	usage := total - free
	// The working set is what is in use without file pages that can go at once.
	workingSet := usage - min(usage, bytesOf["Inactive(file)"])
	available, rss := total-workingSet, bytesOf["AnonPages"]
	return &stats.MemoryStats{
		Time: metav1.Now(), AvailableBytes: &available, UsageBytes: &usage, WorkingSetBytes: &workingSet, RSSBytes: &rss,
	}, nil
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
			c.Logs = &stats.FsStats{Time: metav1.Now(), UsedBytes: &size, InodesUsed: &count}
			used, inodes = used+size, inodes+count
			if c.Rootfs != nil && c.Rootfs.UsedBytes != nil {
				used += *c.Rootfs.UsedBytes
			}
			if c.Rootfs != nil && c.Rootfs.InodesUsed != nil {
				inodes += *c.Rootfs.InodesUsed
			}
		}
		fs := summary.Node.Fs
		p.EphemeralStorage = &stats.FsStats{Time: metav1.Now(), AvailableBytes: fs.AvailableBytes, CapacityBytes: fs.CapacityBytes,
			UsedBytes: &used, Inodes: fs.Inodes, InodesFree: fs.InodesFree, InodesUsed: &inodes}
	}
}
