// SPDX-License-Identifier: Apache-2.0

package metrics

import "k8s.io/component-base/metrics"

var (
	pending = metrics.NewDesc("scheduler_pending_pods",
		"How many pods are in each of the queues: active are ready to be tried, backoff wait after a failure, unschedulable for an event that may help, gated are held back.",
		[]string{"queue"}, nil, metrics.STABLE, "")
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
	ch <- size
	ch <- rejected
}

func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	s := c.state()
	tell := func(desc *metrics.Desc, value int, labels ...string) {
		ch <- metrics.NewLazyConstMetric(desc, metrics.GaugeValue, float64(value), labels...)
	}
	tell(pending, s.Active, "active")
	tell(pending, s.Backoff, "backoff")
	tell(pending, s.Unschedulable, "unschedulable")
	tell(pending, s.Gated, "gated")
	tell(size, s.Nodes, "nodes")
	tell(size, s.Pods, "pods")
	tell(size, s.AssumedPods, "assumed_pods")
	for who, n := range s.Rejected {
		tell(rejected, n, who.Plugin, who.Profile)
	}
}
