// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"runtime"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
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
	containerStart := stable("container_start_time_seconds", "Start time of the container since unix epoch in seconds", "container", "pod", "namespace")
	podCPU := stable("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", "pod", "namespace")
	podMemory := stable("pod_memory_working_set_bytes", "Current working set of the pod in bytes", "pod", "namespace")
	scrapeError := stable("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")

	samples := s.gather(r, func(sum *stats.Summary) (all []sample) {
		all = appendCPU(all, nodeCPU, sum.Node.CPU)
		all = appendWorkingSet(all, nodeMemory, sum.Node.Memory)
		for _, pod := range sum.Pods {
			for _, c := range pod.Containers {
				labels := []string{c.Name, pod.PodRef.Name, pod.PodRef.Namespace}
				if c.StartTime.Unix() > 0 {
					all = append(all, sample{desc: containerStart, kind: metrics.GaugeValue, value: float64(c.StartTime.UnixNano()) / 1e9, labels: labels})
				}
				all = appendCPU(all, containerCPU, c.CPU, labels...)
				all = appendWorkingSet(all, containerMemory, c.Memory, labels...)
				if c.Swap != nil {
					all = appendValue(all, containerSwap, c.Swap.SwapUsageBytes, c.Swap.Time.Time, labels...)
				}
			}
			all = appendCPU(all, podCPU, pod.CPU, pod.PodRef.Name, pod.PodRef.Namespace)
			all = appendWorkingSet(all, podMemory, pod.Memory, pod.PodRef.Name, pod.PodRef.Namespace)
		}
		return all
	}, func(failed float64) []sample {
		return []sample{{desc: scrapeError, kind: metrics.GaugeValue, value: failed}}
	})
	serveSamples(w, r, &sampler{
		descs:   []*metrics.Desc{nodeCPU, nodeMemory, containerCPU, containerMemory, containerSwap, containerStart, podCPU, podMemory, scrapeError},
		samples: samples,
	})
}

// cadvisorMetrics serves those metrics of /metrics/cadvisor that dashboards use and the runtime can tell.
func (s *Server) cadvisorMetrics(w http.ResponseWriter, r *http.Request) {
	cores := alpha("machine_cpu_cores", "Number of logical CPU cores.")
	machineMemory := alpha("machine_memory_bytes", "Amount of memory installed on the machine.")
	cpu := alpha("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "container", "pod", "namespace")
	memory := alpha("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", "container", "pod", "namespace")
	workingSet := alpha("container_memory_working_set_bytes", "Current working set in bytes.", "container", "pod", "namespace")
	rss := alpha("container_memory_rss", "Size of RSS in bytes.", "container", "pod", "namespace")
	start := alpha("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", "container", "pod", "namespace")
	received := alpha("container_network_receive_bytes_total", "Cumulative count of bytes received", "interface", "pod", "namespace")
	sent := alpha("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", "interface", "pod", "namespace")
	scrapeError := alpha("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")

	samples := s.gather(r, func(sum *stats.Summary) (all []sample) {
		all = append(all, sample{desc: cores, kind: metrics.GaugeValue, value: float64(runtime.NumCPU())})
		if m := sum.Node.Memory; m != nil && m.AvailableBytes != nil && m.WorkingSetBytes != nil {
			all = append(all, sample{desc: machineMemory, kind: metrics.GaugeValue, value: float64(*m.AvailableBytes + *m.WorkingSetBytes)})
		}
		for _, pod := range sum.Pods {
			for _, c := range pod.Containers {
				labels := []string{c.Name, pod.PodRef.Name, pod.PodRef.Namespace}
				all = appendCPU(all, cpu, c.CPU, labels...)
				all = appendWorkingSet(all, workingSet, c.Memory, labels...)
				if c.Memory != nil {
					all = appendValue(all, memory, c.Memory.UsageBytes, c.Memory.Time.Time, labels...)
					all = appendValue(all, rss, c.Memory.RSSBytes, c.Memory.Time.Time, labels...)
				}
				if c.StartTime.Unix() > 0 {
					all = append(all, sample{desc: start, kind: metrics.GaugeValue, value: float64(c.StartTime.Unix()), labels: labels})
				}
			}
			if n := pod.Network; n != nil && n.RxBytes != nil && n.TxBytes != nil {
				labels := []string{n.Name, pod.PodRef.Name, pod.PodRef.Namespace}
				all = append(all,
					sample{desc: received, kind: metrics.CounterValue, value: float64(*n.RxBytes), time: n.Time.Time, labels: labels},
					sample{desc: sent, kind: metrics.CounterValue, value: float64(*n.TxBytes), time: n.Time.Time, labels: labels})
			}
		}
		return all
	}, func(failed float64) []sample {
		return []sample{{desc: scrapeError, kind: metrics.GaugeValue, value: failed}}
	})
	serveSamples(w, r, &sampler{
		descs:   []*metrics.Desc{cores, machineMemory, cpu, memory, workingSet, rss, start, received, sent, scrapeError},
		samples: samples,
	})
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

func appendValue(all []sample, desc *metrics.Desc, v *uint64, at time.Time, labels ...string) []sample {
	if v == nil {
		return all
	}
	return append(all, sample{desc: desc, kind: metrics.GaugeValue, value: float64(*v), time: at, labels: labels})
}
