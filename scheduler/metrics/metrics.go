// SPDX-License-Identifier: Apache-2.0

// Package metrics are what the scheduler measures, by kube-scheduler's names.
package metrics

import (
	"strconv"
	"time"

	"k8s.io/component-base/metrics"
)

const subsystem = "scheduler"

// Set is the metrics of one scheduler. Until they are registered they cost next to nothing.
type Set struct {
	Attempts          *metrics.CounterVec   // by result and profile
	AttemptDuration   *metrics.HistogramVec // by result and profile: decision and binding
	AlgorithmDuration *metrics.Histogram    // the decision alone
	PodDuration       *metrics.HistogramVec // by attempts: from the queue to the node
	PodAttempts       *metrics.Histogram
	PointDuration     *metrics.HistogramVec // by extension point, status and profile
	PluginDuration    *metrics.HistogramVec // by plugin, extension point and status
	Evaluations       *metrics.CounterVec   // by plugin, extension point and profile
	Incoming          *metrics.CounterVec   // by queue and event
	PermitWait        *metrics.HistogramVec // by result
	Goroutines        *metrics.GaugeVec     // by operation
	Victims           *metrics.Histogram
	Preemptions       *metrics.Counter

	state *collector
}

// State is what is counted when somebody asks.
type State struct {
	Active, Backoff, Unschedulable, Gated int
	Nodes, Pods, AssumedPods              int
	Rejected                              map[Rejector]int // pods that wait, by who rejected them
}

// Rejector is a plugin of a profile.
type Rejector struct{ Plugin, Profile string }

// Results of an attempt.
const (
	Scheduled     = "scheduled"
	Unschedulable = "unschedulable"
	Error         = "error"
)

// New makes the metrics. state counts what is pending.
func New(state func() State) *Set {
	return &Set{
		Attempts: metrics.NewCounterVec(&metrics.CounterOpts{
			Subsystem: subsystem, Name: "schedule_attempts_total", StabilityLevel: metrics.STABLE,
			Help: "How often it was tried to place a pod, by how that ended.",
		}, []string{"result", "profile"}),
		AttemptDuration: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "scheduling_attempt_duration_seconds", StabilityLevel: metrics.STABLE,
			Help: "How long an attempt to place a pod took, binding included.", Buckets: metrics.ExponentialBuckets(0.001, 2, 15),
		}, []string{"result", "profile"}),
		AlgorithmDuration: metrics.NewHistogram(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "scheduling_algorithm_duration_seconds", StabilityLevel: metrics.BETA,
			Help: "How long it took to find a node.", Buckets: metrics.ExponentialBuckets(0.001, 2, 15),
		}),
		PodDuration: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "pod_scheduling_sli_duration_seconds", StabilityLevel: metrics.BETA,
			Help: "How long a pod took from the queue to its node, by the number of attempts.", Buckets: metrics.ExponentialBuckets(0.01, 2, 20),
		}, []string{"attempts"}),
		PodAttempts: metrics.NewHistogram(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "pod_scheduling_attempts", StabilityLevel: metrics.STABLE,
			Help: "How many attempts it took to place a pod.", Buckets: metrics.ExponentialBuckets(1, 2, 5),
		}),
		PointDuration: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "framework_extension_point_duration_seconds", StabilityLevel: metrics.STABLE,
			Help: "How long all plugins together took at an extension point.", Buckets: metrics.ExponentialBuckets(0.0001, 2, 12),
		}, []string{"extension_point", "status", "profile"}),
		PluginDuration: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "plugin_execution_duration_seconds", StabilityLevel: metrics.BETA,
			Help: "How long a plugin took, by extension point; of one in a hundred attempts.", Buckets: metrics.ExponentialBuckets(0.00001, 1.5, 20),
		}, []string{"plugin", "extension_point", "status"}),
		Evaluations: metrics.NewCounterVec(&metrics.CounterOpts{
			Subsystem: subsystem, Name: "plugin_evaluation_total", StabilityLevel: metrics.BETA,
			Help: "How often a plugin was asked, at PreFilter, Filter, PreScore and Score.",
		}, []string{"plugin", "extension_point", "profile"}),
		Incoming: metrics.NewCounterVec(&metrics.CounterOpts{
			Subsystem: subsystem, Name: "queue_incoming_pods_total", StabilityLevel: metrics.STABLE,
			Help: "How many pods came into each of the queues, by what had them do so.",
		}, []string{"queue", "event"}),
		PermitWait: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "permit_wait_duration_seconds", StabilityLevel: metrics.BETA,
			Help: "How long pods waited for leave to be bound.", Buckets: metrics.ExponentialBuckets(0.001, 2, 15),
		}, []string{"result"}),
		Goroutines: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Subsystem: subsystem, Name: "goroutines", StabilityLevel: metrics.BETA,
			Help: "How many goroutines run, by what they do.",
		}, []string{"operation"}),
		Victims: metrics.NewHistogram(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "preemption_victims", StabilityLevel: metrics.STABLE,
			Help: "How many pods had to go to make room for one.", Buckets: metrics.ExponentialBuckets(1, 2, 7),
		}),
		Preemptions: metrics.NewCounter(&metrics.CounterOpts{
			Subsystem: subsystem, Name: "preemption_attempts_total", StabilityLevel: metrics.STABLE,
			Help: "How often it was tried to make room for a pod.",
		}),
		state: &collector{state: state},
	}
}

// mostAttempts is from where on attempts are not told apart.
const mostAttempts = 15

// Placed notes that a pod, which came into the queue at that time, has been bound after so many attempts.
func (s *Set) Placed(since time.Time, attempts int) {
	label := strconv.Itoa(attempts)
	if attempts >= mostAttempts {
		label = strconv.Itoa(mostAttempts) + "+"
	}
	s.PodDuration.WithLabelValues(label).Observe(time.Since(since).Seconds())
	s.PodAttempts.Observe(float64(attempts))
}

// Attempted notes how an attempt that began at that time has ended.
func (s *Set) Attempted(result, profile string, began time.Time) {
	s.Attempts.WithLabelValues(result, profile).Inc()
	s.AttemptDuration.WithLabelValues(result, profile).Observe(time.Since(began).Seconds())
}

// Asked notes that all plugins were asked at an extension point.
func (s *Set) Asked(point, status, profile string, began time.Time) {
	s.PointDuration.WithLabelValues(point, status, profile).Observe(time.Since(began).Seconds())
}

// Registry takes metrics; component-base has several.
type Registry interface {
	Register(metrics.Registerable) error
	CustomRegister(metrics.StableCollector) error
}

// Register makes the metrics visible in a registry.
func (s *Set) Register(r Registry) error {
	for _, m := range []metrics.Registerable{
		s.Attempts, s.AttemptDuration, s.AlgorithmDuration, s.PodDuration, s.PodAttempts, s.PointDuration,
		s.PluginDuration, s.Evaluations, s.Incoming, s.PermitWait, s.Goroutines, s.Victims, s.Preemptions,
	} {
		if err := r.Register(m); err != nil {
			return err
		}
	}
	return r.CustomRegister(s.state)
}
