// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/component-base/metrics"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	kubeletnode "github.com/skiff-k8s/skiff/kubelet/node"
)

// cadvisorMetrics serves the series that cAdvisor has of the machine, the pods and their containers. They come from the
// cgroups' own counts, which are read now; the runtime only says whose a cgroup is.
func (s *Server) cadvisorMetrics(w http.ResponseWriter, r *http.Request) {
	c := &cadvisor{descs: map[string]*metrics.Desc{}, now: time.Now()}
	c.about(s.stats.machine)
	if t, err := readTopology("/sys/devices/system"); err == nil { // not every kernel tells
		c.topology(t, idsOf(s.stats.machine))
	}
	failed := 0.0
	if err := s.usages(r.Context(), c); err != nil {
		klog.FromContext(r.Context()).Error(err, "Cannot read the usage of containers", "path", r.URL.Path)
		failed = 1
	}
	c.errors(failed)
	serveSamples(w, r, &c.sampler)
}

// owner is whose a cgroup is, as the labels say.
type owner struct {
	container, image, name, namespace, pod string
	created                                time.Time
	sandbox                                bool
}

func (s *Server) usages(ctx context.Context, c *cadvisor) error {
	if s.config.Cgroups == nil {
		return nil
	}
	owners, err := s.owners(ctx)
	if err != nil {
		return err
	}
	pods := map[string]owner{}
	for _, pod := range s.config.Pods.Pods() {
		pods[string(pod.UID)] = owner{namespace: pod.Namespace, pod: pod.Name, created: pod.CreationTimestamp.Time}
	}
	groups := s.config.Cgroups.Groups()
	for _, g := range groups {
		o, known := pods[string(g.Pod)]
		if g.Container != "" {
			o, known = owners[g.Container]
		}
		if g.Pod != "" && !known {
			continue // it goes as we look
		}
		u, ok := s.config.Cgroups.Usage(g)
		if !ok {
			continue
		}
		labels := []string{o.container, g.Path, o.image, o.name, o.namespace, o.pod}
		c.usage(u, labels)
		if g.Path == "/" {
			c.fileSystem(s.config.RootDir, labels)
		}
		if !o.created.IsZero() {
			c.born(o.created, labels)
		}
		if g.Container == "" {
			continue
		}
		if pids := s.config.Cgroups.Members(g); len(pids) > 0 {
			c.files(pids, labels)
		}
		if o.sandbox {
			if pid, ok := inNetwork(s.config.Cgroups, groups, g); ok {
				c.network(pid, labels)
			}
		}
	}
	return nil
}

// inNetwork finds a process in the network of a sandbox: one of its own or, as some runtimes keep none there, any of its pod's.
func inNetwork(tree *cgroups.Tree, groups []cgroups.Group, sandbox cgroups.Group) (pid int, ok bool) {
	if pids := tree.Members(sandbox); len(pids) > 0 {
		return pids[0], true
	}
	for _, g := range groups {
		if g.Pod != sandbox.Pod || g.Container == "" {
			continue
		}
		if pids := tree.Members(g); len(pids) > 0 {
			return pids[0], true
		}
	}
	return 0, false
}

// owners are the running containers and sandboxes by their IDs.
func (s *Server) owners(ctx context.Context) (map[string]owner, error) {
	owners := map[string]owner{}
	sandboxes, err := s.config.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, fmt.Errorf("list pod sandboxes: %w", err)
	}
	for _, sandbox := range sandboxes.Items {
		m := sandbox.GetMetadata()
		owners[sandbox.Id] = owner{name: sandbox.Id, namespace: m.GetNamespace(), pod: m.GetName(), created: time.Unix(0, sandbox.CreatedAt), sandbox: true}
	}
	list, err := s.config.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, container := range list.Containers {
		image := container.GetImage().GetUserSpecifiedImage()
		if image == "" {
			image = container.GetImage().GetImage()
		}
		owners[container.Id] = owner{
			container: container.Labels[kubelettypes.KubernetesContainerNameLabel], image: image, name: container.Id,
			namespace: container.Labels[kubelettypes.KubernetesPodNamespaceLabel], pod: container.Labels[kubelettypes.KubernetesPodNameLabel],
			created: time.Unix(0, container.CreatedAt),
		}
	}
	return owners, nil
}

// cadvisor collects samples under cAdvisor's names.
type cadvisor struct {
	sampler
	descs map[string]*metrics.Desc
	now   time.Time
}

var ownerLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

func (c *cadvisor) add(kind metrics.ValueType, name, help string, value float64, labels []string, more ...string) {
	desc := c.descs[name]
	if desc == nil {
		var names []string
		if labels != nil {
			names = append(names, ownerLabels...)
		}
		for i := 0; i < len(more); i += 2 {
			names = append(names, more[i])
		}
		desc = alpha(name, help, names...)
		c.descs[name] = desc
		c.sampler.descs = append(c.sampler.descs, desc)
	}
	values := append([]string(nil), labels...)
	for i := 1; i < len(more); i += 2 {
		values = append(values, more[i])
	}
	c.samples = append(c.samples, sample{desc: desc, kind: kind, value: value, labels: values})
}

func (c *cadvisor) count(name, help string, value float64, labels []string, more ...string) {
	c.add(metrics.CounterValue, name, help, value, labels, more...)
}

func (c *cadvisor) gauge(name, help string, value float64, labels []string, more ...string) {
	c.add(metrics.GaugeValue, name, help, value, labels, more...)
}

func idsOf(m kubeletnode.Machine) []string {
	return []string{"boot_id", m.BootID, "machine_id", m.MachineID, "system_uuid", m.SystemUUID}
}

func (c *cadvisor) about(m kubeletnode.Machine) {
	ids := idsOf(m)
	c.gauge("machine_cpu_cores", "Number of logical CPU cores.", float64(m.CPUs), nil, ids...)
	c.gauge("machine_memory_bytes", "Amount of memory installed on the machine.", float64(m.Memory), nil, ids...)
	c.gauge("machine_swap_bytes", "Amount of swap memory available on the machine.", float64(m.Swap), nil, ids...)
	c.gauge("cadvisor_version_info", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.", 1, nil,
		"kernelVersion", m.Kernel, "osVersion", m.OSImage, "dockerVersion", "", "cadvisorVersion", "", "cadvisorRevision", "")
}

func (c *cadvisor) born(at time.Time, labels []string) {
	c.gauge("container_creation_time_seconds", "Container creation time since unix epoch in seconds.", float64(at.Unix()), labels)
	c.gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", float64(at.Unix()), labels)
}

func (c *cadvisor) errors(failed float64) {
	c.gauge("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.", 0, nil)
	c.gauge("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", failed, nil)
}

func (c *cadvisor) usage(u cgroups.Usage, labels []string) {
	c.gauge("container_last_seen", "Last time a container was seen by the exporter", float64(c.now.Unix()), labels)
	c.gauge("container_health_state", "The result of the container's health check", -1, labels) // it has none: probes are the kubelet's
	c.count("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", u.CPU.Seconds(), labels, "cpu", "total")
	c.count("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", u.UserCPU.Seconds(), labels)
	c.count("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", u.SystemCPU.Seconds(), labels)
	if u.Quota > 0 && u.Quota < 1<<62 {
		c.count("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", float64(u.Periods), labels)
		c.count("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", float64(u.Throttled), labels)
		c.count("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", u.ThrottledTime.Seconds(), labels)
		c.count("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.", float64(u.Bursts), labels)
		c.count("container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted.", u.BurstTime.Seconds(), labels)
		c.gauge("container_spec_cpu_quota", "CPU quota of the container.", float64(u.Quota), labels)
	}
	c.gauge("container_spec_cpu_period", "CPU period of the container.", float64(u.Period), labels)
	c.gauge("container_spec_cpu_shares", "CPU share of the container.", float64(u.Shares), labels)
	c.gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", float64(u.MemoryLimit), labels)
	c.gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", float64(u.MemorySwapLimit), labels)
	c.gauge("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", float64(u.MemoryReservation), labels)

	c.gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", float64(u.Memory), labels)
	c.gauge("container_memory_working_set_bytes", "Current working set in bytes.", float64(u.WorkingSet), labels)
	c.gauge("container_memory_rss", "Size of RSS in bytes.", float64(u.RSS), labels)
	c.gauge("container_memory_cache", "Number of bytes of page cache memory.", float64(u.Cache), labels)
	c.gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", float64(u.MappedFile), labels)
	c.gauge("container_memory_swap", "Container swap usage in bytes.", float64(u.Swap), labels)
	c.gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", float64(u.MaxMemory), labels)
	c.count("container_memory_failcnt", "Number of memory usage hits limits", float64(u.MemoryFailures), labels)
	for _, scope := range []string{"container", "hierarchy"} { // cAdvisor knows no difference either
		c.count("container_memory_failures_total", "Cumulative count of memory allocation failures.", float64(u.PageFaults), labels, "failure_type", "pgfault", "scope", scope)
		c.count("container_memory_failures_total", "", float64(u.MajorPageFaults), labels, "failure_type", "pgmajfault", "scope", scope)
	}
	c.gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", float64(u.KernelMemory), labels)
	c.gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", float64(u.ActiveFile), labels)
	c.gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", float64(u.InactiveFile), labels)
	c.gauge("container_memory_file_dirty_bytes", "Number of bytes of file cache that has been modified but not yet written back to disk.", float64(u.Dirty), labels)
	c.gauge("container_memory_file_writeback_bytes", "Number of bytes of file cache that is currently being written back to disk.", float64(u.Writeback), labels)
	c.count("container_memory_events_high_total", "Cumulative count of memory.high throttle events for the container", float64(u.MemoryHigh), labels)
	c.count("container_memory_events_max_total", "Cumulative count of memory.max limit hit events for the container", float64(u.MemoryMax), labels)
	c.count("container_memory_pgscan_total", "Cumulative number of pages scanned by the page reclaim algorithm.", float64(u.PagesScanned), labels)
	c.count("container_memory_pgsteal_total", "Cumulative number of pages reclaimed by the page reclaim algorithm.", float64(u.PagesReclaimed), labels)
	c.count("container_memory_workingset_refault_file_total", "Cumulative number of refaults of previously evicted file pages.", float64(u.RefaultsOfFile), labels)
	c.count("container_memory_workingset_refault_anon_total", "Cumulative number of refaults of previously evicted anonymous pages.", float64(u.RefaultsAnon), labels)
	c.count("container_oom_events_total", "Count of out of memory events observed for the container", float64(u.OOMKills), labels)

	c.gauge("container_processes", "Number of processes running inside the container.", float64(u.Processes), labels)
	c.gauge("container_threads", "Number of threads running inside the container", float64(u.Threads), labels)
	c.gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", float64(u.MostThreads), labels)

	for resource, waited := range u.Pressure {
		congestion := " due to " + map[string]string{"cpu": "CPU", "memory": "memory", "io": "IO"}[resource] + " congestion."
		c.count("container_pressure_"+resource+"_waiting_seconds_total", "Total time duration tasks in the container have waited"+congestion, waited.Some.Seconds(), labels)
		c.count("container_pressure_"+resource+"_stalled_seconds_total", "Total time duration no tasks in the container could make progress"+congestion, waited.All.Seconds(), labels)
	}
	for number, d := range u.Disks {
		device := deviceName(number)
		c.count("container_fs_reads_bytes_total", "Cumulative count of bytes read", float64(d.ReadBytes), labels, "device", device)
		c.count("container_fs_writes_bytes_total", "Cumulative count of bytes written", float64(d.WriteBytes), labels, "device", device)
		c.count("container_fs_reads_total", "Cumulative count of reads completed", float64(d.Reads), labels, "device", device)
		c.count("container_fs_writes_total", "Cumulative count of writes completed", float64(d.Writes), labels, "device", device)
		major, minor, _ := strings.Cut(number, ":")
		for operation, bytes := range map[string]uint64{"Read": d.ReadBytes, "Write": d.WriteBytes} {
			c.count("container_blkio_device_usage_total", "Blkio Device bytes usage", float64(bytes), labels, "device", device, "major", major, "minor", minor, "operation", operation)
		}
	}
}

// deviceName is the file of a block device such as "8:0".
func deviceName(number string) string {
	data, err := os.ReadFile(filepath.Join("/sys/dev/block", number, "uevent"))
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return number
}

// networkSeries are the columns of /proc/net/dev.
var networkSeries = []struct {
	column     int
	name, help string
}{
	{0, "container_network_receive_bytes_total", "Cumulative count of bytes received"},
	{1, "container_network_receive_packets_total", "Cumulative count of packets received"},
	{2, "container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"},
	{3, "container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving"},
	{8, "container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"},
	{9, "container_network_transmit_packets_total", "Cumulative count of packets transmitted"},
	{10, "container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"},
	{11, "container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting"},
}

// network looks into the network of a sandbox through one of its processes.
func (c *cadvisor) network(process int, labels []string) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(process), "net/dev"))
	if err != nil {
		return // it ended
	}
	c.traffic(data, labels)
}

func (c *cadvisor) traffic(data []byte, labels []string) {
	for name, columns := range interfaces(data) {
		for _, s := range networkSeries {
			c.count(s.name, s.help, columns[s.column], labels, "interface", name)
		}
	}
}

// interfaces reads /proc/net/dev, without the loopback interface.
func interfaces(data []byte) map[string][]float64 {
	found := map[string][]float64{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(fields) < 16 || name == "lo" {
			continue
		}
		columns := make([]float64, len(fields))
		for i, f := range fields {
			n, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				continue // the kernel writes numbers there
			}
			columns[i] = float64(n)
		}
		found[name] = columns
	}
	return found
}
