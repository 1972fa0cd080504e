// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"strings"
	"testing"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
)

func TestMetrics(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	inConfigured(t, Config{Metrics: registry}, func(c *cluster) {
		c.create(newPod("p"))
		c.create(newPod("big", cpu("5")))
		const want = `
# HELP scheduler_pending_pods [STABLE] How many pods are in each of the queues: active are ready to be tried, backoff wait after a failure, unschedulable for an event that may help, gated are held back.
# TYPE scheduler_pending_pods gauge
scheduler_pending_pods{queue="active"} 0
scheduler_pending_pods{queue="backoff"} 0
scheduler_pending_pods{queue="gated"} 0
scheduler_pending_pods{queue="unschedulable"} 1
# HELP scheduler_preemption_attempts_total [STABLE] How often it was tried to make room for a pod.
# TYPE scheduler_preemption_attempts_total counter
scheduler_preemption_attempts_total 1
# HELP scheduler_schedule_attempts_total [STABLE] How often it was tried to place a pod, by how that ended.
# TYPE scheduler_schedule_attempts_total counter
scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 1
scheduler_schedule_attempts_total{profile="default-scheduler",result="unschedulable"} 1
# HELP scheduler_unschedulable_pods [BETA] How many pods wait because of a plugin. A pod counts for each plugin that rejected it.
# TYPE scheduler_unschedulable_pods gauge
scheduler_unschedulable_pods{plugin="NodeResourcesFit",profile="default-scheduler"} 1
`
		err := testutil.GatherAndCompare(registry, strings.NewReader(want), "scheduler_pending_pods", "scheduler_preemption_attempts_total",
			"scheduler_schedule_attempts_total", "scheduler_unschedulable_pods")
		if err != nil {
			t.Error(err)
		}
		for name, n := range map[string]uint64{"scheduler_scheduling_attempt_duration_seconds": 2, "scheduler_scheduling_algorithm_duration_seconds": 2, "scheduler_pod_scheduling_attempts": 1} {
			if got := samples(t, registry, name); got != n {
				t.Errorf("%s has %d samples, want %d", name, got, n)
			}
		}
	}, newNode("n1"))
}

// All of kube-scheduler's metrics that are stable or beta are there, and those that are alpha and cheap.
func TestMetricNames(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	inConfigured(t, Config{Metrics: registry}, func(c *cluster) {
		c.create(newPod("p"))
		c.create(newPod("big", cpu("5")))
		families, err := registry.Gather()
		if err != nil {
			c.Fatal(err)
		}
		there := make(map[string]bool)
		for _, f := range families {
			there[strings.TrimPrefix(f.GetName(), "scheduler_")] = true
		}
		for _, name := range []string{
			"framework_extension_point_duration_seconds", "goroutines", "pending_pods", "plugin_evaluation_total", "plugin_execution_duration_seconds",
			"pod_scheduling_attempts", "pod_scheduling_sli_duration_seconds", "preemption_attempts_total", "queue_incoming_pods_total", "schedule_attempts_total",
			"scheduling_algorithm_duration_seconds", "scheduling_attempt_duration_seconds", "unschedulable_pods", "preemption_victims",
			"event_handling_duration_seconds", "queue_incoming_entities_total", "queued_entities", "pod_scheduled_after_flush_total", "cache_size",
		} {
			if !there[name] {
				c.Errorf("there is no metric %s", name)
			}
		}
		for labels, want := range map[[2]string]float64{{"active", "UnscheduledPodAdd"}: 2, {"unschedulable", "ScheduleAttemptFailure"}: 1} {
			got, err := testutil.GetCounterMetricValue(c.scheduler.metrics.Incoming.WithLabelValues(labels[:]...))
			if err != nil || got != want {
				c.Errorf("queue_incoming_pods_total of %v is %v, %v; want %v", labels, got, err, want)
			}
		}
		for plugin, want := range map[string]float64{"NodeName": 2, "NodeResourcesFit": 2} {
			got, err := testutil.GetCounterMetricValue(c.scheduler.metrics.Evaluations.WithLabelValues(plugin, "Filter", "default-scheduler"))
			if err != nil || got != want {
				c.Errorf("plugin_evaluation_total of %s at Filter is %v, %v; want %v", plugin, got, err, want)
			}
		}
	}, newNode("n1"))
}

// samples counts what a histogram has seen.
func samples(t *testing.T, g metrics.Gatherer, name string) uint64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}
