// SPDX-License-Identifier: Apache-2.0

// Package metrics are what the scheduler measures, by kube-scheduler's names.
package metrics

import (
	"strconv"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/skiff-k8s/skiff/internal/instruments"
)

const of = instruments.Of("scheduler")

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
	Evictions         *metrics.CounterVec   // by result: of all victims of a pod
	EvictionDuration  *metrics.HistogramVec // by result
	Handling          *metrics.HistogramVec // by event
	AfterFlush        *metrics.Counter      // pods that were placed because they had waited too long
	VolumeErrors      *metrics.CounterVec   // by operation
	DeviceWait        *metrics.HistogramVec // by profile, driver and status: until devices are ready
	DeviceBindings    *metrics.CounterVec   // by profile, driver and status: devices that had to be made ready

	entities *metrics.CounterVec // the same as Incoming, as long as every entity is a pod
	state    *collector
}

// State is what is counted when somebody asks.
type State struct {
	Active, Backoff, Unschedulable, Gated int
	Nodes, Pods, AssumedPods              int
	Rejected                              map[Rejector]int // pods that wait, by who rejected them
	Events                                map[string]int   // remembered for pods that are being tried, by label
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
		Attempts:          of.Counters(instruments.Stable, "schedule_attempts_total", "How often it was tried to place a pod, by how that ended.", "result", "profile"),
		AttemptDuration:   of.Histograms(instruments.Stable, "scheduling_attempt_duration_seconds", "How long an attempt to place a pod took, binding included.", metrics.ExponentialBuckets(0.001, 2, 15), "result", "profile"),
		AlgorithmDuration: of.Histogram(instruments.Beta, "scheduling_algorithm_duration_seconds", "How long it took to find a node.", metrics.ExponentialBuckets(0.001, 2, 15)),
		PodDuration:       of.Histograms(instruments.Beta, "pod_scheduling_sli_duration_seconds", "How long a pod took from the queue to its node, by the number of attempts.", metrics.ExponentialBuckets(0.01, 2, 20), "attempts"),
		PodAttempts:       of.Histogram(instruments.Stable, "pod_scheduling_attempts", "How many attempts it took to place a pod.", metrics.ExponentialBuckets(1, 2, 5)),
		PointDuration:     of.Histograms(instruments.Stable, "framework_extension_point_duration_seconds", "How long all plugins together took at an extension point.", metrics.ExponentialBuckets(0.0001, 2, 12), "extension_point", "status", "profile"),
		PluginDuration:    of.Histograms(instruments.Beta, "plugin_execution_duration_seconds", "How long a plugin took, by extension point; of one in a hundred attempts.", metrics.ExponentialBuckets(0.00001, 1.5, 20), "plugin", "extension_point", "status"),
		Evaluations:       of.Counters(instruments.Beta, "plugin_evaluation_total", "How often a plugin was asked, at PreFilter, Filter, PreScore and Score.", "plugin", "extension_point", "profile"),
		Incoming:          of.Counters(instruments.Stable, "queue_incoming_pods_total", "How many pods came into each of the queues, by what had them do so.", "queue", "event"),
		PermitWait:        of.Histograms(instruments.Beta, "permit_wait_duration_seconds", "How long pods waited for leave to be bound.", metrics.ExponentialBuckets(0.001, 2, 15), "result"),
		Goroutines:        of.Gauges(instruments.Beta, "goroutines", "How many goroutines run, by what they do.", "operation"),
		Victims:           of.Histogram(instruments.Stable, "preemption_victims", "How many pods had to go to make room for one.", metrics.ExponentialBuckets(1, 2, 7)),
		Preemptions:       of.Counter(instruments.Stable, "preemption_attempts_total", "How often it was tried to make room for a pod."),
		Evictions:         of.Counters(instruments.Alpha, "preemption_goroutines_execution_total", "How often the victims of a pod were deleted, by how that ended.", "result"),
		EvictionDuration:  of.Histograms(instruments.Alpha, "preemption_goroutines_duration_seconds", "How long it took to delete the victims of a pod.", metrics.ExponentialBuckets(0.01, 2, 20), "result"),
		Handling:          of.Histograms(instruments.Alpha, "event_handling_duration_seconds", "How long it took to take over a change of the cluster.", metrics.ExponentialBuckets(0.0001, 2, 12), "event"),
		AfterFlush:        of.Counter(instruments.Alpha, "pod_scheduled_after_flush_total", "How many pods were placed when they were tried only because they had waited too long: an event should have had them tried."),
		VolumeErrors:      instruments.Of("scheduler_volume").Counters(instruments.Alpha, "scheduling_stage_error_total", "How many errors there were with the volumes of pods.", "operation"),
		DeviceWait:        of.Histograms(instruments.Alpha, "dra_bindingconditions_wait_duration_seconds", "How long pods waited for their devices to be ready.", metrics.ExponentialBuckets(0.1, 2, 14), "profile", "driver", "status"),
		DeviceBindings:    of.Counters(instruments.Alpha, "dra_bindingconditions_allocations_total", "How many devices had to be made ready for a pod, by how that ended.", "profile", "driver", "status"),
		entities:          of.Counters(instruments.Alpha, "queue_incoming_entities_total", "How many pods came into each of the queues, by what had them do so.", "queue", "event", "type"),
		state:             &collector{state: state},
	}
}

// Entered notes that a pod came into a queue.
func (s *Set) Entered(queue, event string) {
	s.Incoming.WithLabelValues(queue, event).Inc()
	s.entities.WithLabelValues(queue, event, "pod").Inc()
}

// Result names how something ended that has no other words for it.
func Result(err error) string {
	if err != nil {
		return Error
	}
	return "success"
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
		s.Evictions, s.EvictionDuration, s.Handling, s.AfterFlush, s.VolumeErrors, s.DeviceWait, s.DeviceBindings, s.entities,
	} {
		if err := r.Register(m); err != nil {
			return err
		}
	}
	return r.CustomRegister(s.state)
}
