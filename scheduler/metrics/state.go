// SPDX-License-Identifier: Apache-2.0

package metrics

import "k8s.io/component-base/metrics"

var (
	pending = metrics.NewDesc("scheduler_pending_pods",
		"How many pods are in each of the queues: active are ready to be tried, backoff wait after a failure, unschedulable for an event that may help, gated are held back.",
		[]string{"queue"}, nil, metrics.STABLE, "")
	entities = metrics.NewDesc("scheduler_queued_entities", "How many pods are in each of the queues, as scheduler_pending_pods.",
		[]string{"queue", "type"}, nil, metrics.ALPHA, "")
	inFlight = metrics.NewDesc("scheduler_inflight_events", "How many events are remembered for pods that are being tried; PodPopped are these pods.",
		[]string{"event"}, nil, metrics.ALPHA, "")
	size = metrics.NewDesc("scheduler_cache_size", "How many nodes, pods and assumed pods the scheduler knows.",
		[]string{"type"}, nil, metrics.ALPHA, "")
	rejected = metrics.NewDesc("scheduler_unschedulable_pods", "How many pods wait because of a plugin. A pod counts for each plugin that rejected it.",
		[]string{"plugin", "profile"}, nil, metrics.BETA, "")
)

// collector counts when it is asked.
type collector struct {
	metrics.BaseStableCollector
	state func() State
}

func (c *collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	ch <- pending
	ch <- entities
	ch <- inFlight
	ch <- size
	ch <- rejected
}

func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	s := c.state()
	tell := func(desc *metrics.Desc, value int, labels ...string) {
		ch <- metrics.NewLazyConstMetric(desc, metrics.GaugeValue, float64(value), labels...)
	}
	for queue, n := range map[string]int{"active": s.Active, "backoff": s.Backoff, "unschedulable": s.Unschedulable, "gated": s.Gated} {
		tell(pending, n, queue)
		tell(entities, n, queue, "pod")
	}
	for event, n := range s.Events {
		tell(inFlight, n, event)
	}
	tell(size, s.Nodes, "nodes")
	tell(size, s.Pods, "pods")
	tell(size, s.AssumedPods, "assumed_pods")
	for who, n := range s.Rejected {
		tell(rejected, n, who.Plugin, who.Profile)
	}
}
