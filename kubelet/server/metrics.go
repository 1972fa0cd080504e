// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// sample is one value of a metric.
type sample struct {
	desc   *metrics.Desc
	kind   metrics.ValueType
	value  float64
	time   time.Time // when it was measured; zero for now
	labels []string
}

// A scrape computes all samples anew, so that those of pods that are gone go too.
type sampler struct {
	metrics.BaseStableCollector
	descs   []*metrics.Desc
	samples []sample
}

func (s *sampler) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range s.descs {
		ch <- d
	}
}

func (s *sampler) CollectWithStability(ch chan<- metrics.Metric) {
	for _, x := range s.samples {
		m := metrics.NewLazyConstMetric(x.desc, x.kind, x.value, x.labels...)
		if !x.time.IsZero() {
			m = metrics.NewLazyMetricWithTimestamp(x.time, m)
		}
		ch <- m
	}
}

func serveSamples(w http.ResponseWriter, r *http.Request, s *sampler) {
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(s)
	metrics.HandlerFor(registry, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError}).ServeHTTP(w, r)
}

// gather lists samples of the summary. If there is none, the metrics say that there was an error.
func (s *Server) gather(r *http.Request, list func(*stats.Summary) []sample, failed func(float64) []sample) []sample {
	summary, err := s.stats.summary(r.Context())
	if err != nil {
		klog.FromContext(r.Context()).Error(err, "Cannot get stats for metrics", "path", r.URL.Path)
		return failed(1)
	}
	return append(list(summary), failed(0)...)
}

func stable(name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc(name, help, labels, nil, metrics.STABLE, "")
}

func alpha(name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc(name, help, labels, nil, metrics.ALPHA, "")
}

// resourceMetrics serves /metrics/resource, which metrics-server reads.
func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	nodeCPU := stable("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
	nodeMemory := stable("node_memory_working_set_bytes", "Current working set of the node in bytes")
	containerCPU := stable("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", "container", "pod", "namespace")
	containerMemory := stable("container_memory_working_set_bytes", "Current working set of the container in bytes", "container", "pod", "namespace")
	containerSwap := alpha("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", "container", "pod", "namespace")
	containerSwapLimit := alpha("container_swap_limit_bytes", "Current amount of the container swap limit in bytes. Reported only on non-windows systems", "container", "pod", "namespace")
	nodeSwap := alpha("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems")
	podSwap := alpha("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", "pod", "namespace")
	containerStart := stable("container_start_time_seconds", "Start time of the container since unix epoch in seconds", "container", "pod", "namespace")
	podCPU := stable("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", "pod", "namespace")
	podMemory := stable("pod_memory_working_set_bytes", "Current working set of the pod in bytes", "pod", "namespace")
	scrapeError := stable("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")

	samples := s.gather(r, func(sum *stats.Summary) (all []sample) {
		all = appendCPU(all, nodeCPU, sum.Node.CPU)
		all = appendWorkingSet(all, nodeMemory, sum.Node.Memory)
		all = appendSwap(all, nodeSwap, sum.Node.Swap)
		for _, pod := range sum.Pods {
			for _, c := range pod.Containers {
				labels := []string{c.Name, pod.PodRef.Name, pod.PodRef.Namespace}
				if c.StartTime.Unix() > 0 {
					all = append(all, sample{desc: containerStart, kind: metrics.GaugeValue, value: float64(c.StartTime.UnixNano()) / 1e9, labels: labels})
				}
				all = appendCPU(all, containerCPU, c.CPU, labels...)
				all = appendWorkingSet(all, containerMemory, c.Memory, labels...)
				all = appendSwap(all, containerSwap, c.Swap, labels...)
				if c.Swap != nil && c.Swap.SwapAvailableBytes != nil {
					limit := *c.Swap.SwapAvailableBytes + ptr.Deref(c.Swap.SwapUsageBytes, 0)
					all = appendValue(all, containerSwapLimit, &limit, c.Swap.Time.Time, labels...)
				}
			}
			all = appendCPU(all, podCPU, pod.CPU, pod.PodRef.Name, pod.PodRef.Namespace)
			all = appendWorkingSet(all, podMemory, pod.Memory, pod.PodRef.Name, pod.PodRef.Namespace)
			all = appendSwap(all, podSwap, pod.Swap, pod.PodRef.Name, pod.PodRef.Namespace)
		}
		return all
	}, func(failed float64) []sample {
		return []sample{{desc: scrapeError, kind: metrics.GaugeValue, value: failed}}
	})
	serveSamples(w, r, &sampler{
		descs:   []*metrics.Desc{nodeCPU, nodeMemory, containerCPU, containerMemory, nodeSwap, containerSwap, containerSwapLimit, containerStart, podCPU, podMemory, podSwap, scrapeError},
		samples: samples,
	})
}

// probeMetrics serves /metrics/probes.
func (s *Server) probeMetrics(w http.ResponseWriter, r *http.Request) {
	metrics.HandlerFor(s.config.Metrics.Probes, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError}).ServeHTTP(w, r)
}

// ownMetrics serves /metrics: what the kubelet counts, what can be looked up now, and what tells about the process.
func (s *Server) ownMetrics(w http.ResponseWriter, r *http.Request) {
	now := &sampler{}
	now.look("kubelet_running_pods", "Number of pods that have a running pod sandbox")
	now.look("kubelet_running_containers", "Number of containers currently running", "container_state")
	s.running(r.Context(), now)
	s.claims(r.Context(), now)
	s.totalVolumes(now)
	present := metrics.NewKubeRegistry()
	present.CustomMustRegister(now)
	all := gatherers{s.config.Metrics.All, present, only{legacyregistry.DefaultGatherer, processMetrics}}
	metrics.HandlerFor(all, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError}).ServeHTTP(w, r)
}

// look makes a gauge that samples can be given to.
func (s *sampler) look(name, help string, labels ...string) *metrics.Desc {
	desc := alpha(name, help, labels...)
	s.descs = append(s.descs, desc)
	return desc
}

// running counts sandboxes and containers by state.
func (s *Server) running(ctx context.Context, to *sampler) {
	pods, containers := to.descs[0], to.descs[1]
	sandboxes, err := s.config.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	list, listErr := s.config.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err := errors.Join(err, listErr); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot count what runs")
		return
	}
	to.samples = append(to.samples, sample{desc: pods, kind: metrics.GaugeValue, value: float64(len(sandboxes.Items))})
	states := map[string]int{}
	for _, c := range list.Containers {
		states[strings.ToLower(strings.TrimPrefix(c.State.String(), "CONTAINER_"))]++
	}
	for state, n := range states {
		to.samples = append(to.samples, sample{desc: containers, kind: metrics.GaugeValue, value: float64(n), labels: []string{state}})
	}
}

// claims tells how full the volumes of claims are.
func (s *Server) claims(ctx context.Context, to *sampler) {
	about := []string{"namespace", "persistentvolumeclaim"}
	series := []*metrics.Desc{
		to.look("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", about...),
		to.look("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", about...),
		to.look("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", about...),
		to.look("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", about...),
		to.look("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", about...),
		to.look("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", about...),
	}
	seen := map[string]bool{} // a claim may have several pods
	for _, pod := range s.config.Pods.Pods() {
		for _, v := range s.volumeStats(ctx, pod) {
			if v.PVCRef == nil || seen[v.PVCRef.Namespace+"/"+v.PVCRef.Name] {
				continue
			}
			seen[v.PVCRef.Namespace+"/"+v.PVCRef.Name] = true
			for i, n := range []*uint64{v.CapacityBytes, v.AvailableBytes, v.UsedBytes, v.Inodes, v.InodesFree, v.InodesUsed} {
				to.samples = append(to.samples, sample{desc: series[i], kind: metrics.GaugeValue, value: float64(*n), labels: []string{v.PVCRef.Namespace, v.PVCRef.Name}})
			}
		}
	}
}

// totalVolumes counts the volumes of pods.
func (s *Server) totalVolumes(to *sampler) {
	if s.config.TotalVolumes == nil {
		return
	}
	total := to.look("volume_manager_total_volumes", "Number of volumes in Volume Manager", "plugin_name", "state")
	wanted, present := s.config.TotalVolumes()
	for state, counts := range map[string]map[string]int{"desired_state_of_world": wanted, "actual_state_of_world": present} {
		for kind, n := range counts {
			to.samples = append(to.samples, sample{desc: total, kind: metrics.GaugeValue, value: float64(n), labels: []string{kind, state}})
		}
	}
}

// processMetrics are those that concern the whole process. Those of other parts in it have an address of their own.
var processMetrics = []string{"go_", "process_", "rest_client_", "kubernetes_build_info", "kubernetes_feature_enabled"}

// only passes on families whose names begin with one of some prefixes.
type only struct {
	from     metrics.Gatherer
	prefixes []string
}

func (o only) Gather() ([]*dto.MetricFamily, error) {
	all, err := o.from.Gather()
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		return !slices.ContainsFunc(o.prefixes, func(p string) bool { return strings.HasPrefix(f.GetName(), p) })
	}), err
}

// gatherers have no family in common.
type gatherers []metrics.Gatherer

func (g gatherers) Gather() (all []*dto.MetricFamily, err error) {
	for _, from := range g {
		families, failed := from.Gather()
		all, err = append(all, families...), errors.Join(err, failed)
	}
	return all, err
}

func appendCPU(all []sample, desc *metrics.Desc, c *stats.CPUStats, labels ...string) []sample {
	if c == nil || c.UsageCoreNanoSeconds == nil {
		return all
	}
	return append(all, sample{desc: desc, kind: metrics.CounterValue, value: float64(*c.UsageCoreNanoSeconds) / 1e9, time: c.Time.Time, labels: labels})
}

func appendWorkingSet(all []sample, desc *metrics.Desc, m *stats.MemoryStats, labels ...string) []sample {
	if m == nil {
		return all
	}
	return appendValue(all, desc, m.WorkingSetBytes, m.Time.Time, labels...)
}

func appendSwap(all []sample, desc *metrics.Desc, s *stats.SwapStats, labels ...string) []sample {
	if s == nil {
		return all
	}
	return appendValue(all, desc, s.SwapUsageBytes, s.Time.Time, labels...)
}

func appendValue(all []sample, desc *metrics.Desc, v *uint64, at time.Time, labels ...string) []sample {
	if v == nil {
		return all
	}
	return append(all, sample{desc: desc, kind: metrics.GaugeValue, value: float64(*v), time: at, labels: labels})
}
