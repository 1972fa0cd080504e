// SPDX-License-Identifier: Apache-2.0

// Package metrics are what the controllers measure, by kube-controller-manager's names.
//
// A Set is that of all controllers of one process; each controller gets its own part. Until a Set is registered it costs
// next to nothing. Work queues are measured by package reconcile's. The metrics of EndpointSlices and of claims that are made are
// those of the libraries k8s.io/endpointslice and k8s.io/dynamic-resource-allocation, which are the process's; a Set only shows them.
package metrics

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-base/metrics"
	claimmetrics "k8s.io/dynamic-resource-allocation/resourceclaim/metrics"
	slicemetrics "k8s.io/endpointslice/metrics"
)

// Set is the metrics of all controllers.
type Set struct {
	Job        *Job
	Replicas   *Replicas
	Stateful   *Stateful
	Daemons    *Daemons
	CronJob    *CronJob
	TTL        *TTL
	Autoscaler *Autoscaler
	Mirroring  *Mirroring
	PodGC      *PodGC
	Taints     *Eviction
	Devices    *Eviction
	Nodes      *Nodes
	Blocks     *Blocks
	Ephemeral  *Ephemeral
	RootCA     *Publisher
	Bundles    *Publisher
	Garbage    *Garbage
	Volumes    *Volumes
	Attachment *Attachments
	Counts     *Counts

	all []metrics.Registerable
}

// Registry takes metrics that are to be shown.
type Registry interface {
	Register(metrics.Registerable) error
	CustomRegister(metrics.StableCollector) error
}

// Register shows all metrics but Counts, which need to know where the objects are.
func (s *Set) Register(to Registry) error {
	var errs []error
	for _, m := range s.all {
		errs = append(errs, to.Register(m))
	}
	return errors.Join(errs...)
}

// Job is about Jobs and their pods. Modes are Indexed and NonIndexed.
type Job struct {
	SyncDuration      *metrics.HistogramVec // by mode, result and action
	Syncs             *metrics.CounterVec   // by mode, result and action
	Finished          *metrics.CounterVec   // by mode, result and reason
	ManagedElsewhere  *metrics.CounterVec   // by who manages the Job
	PodsFinished      *metrics.CounterVec   // by mode and result
	PolicyActions     *metrics.CounterVec   // by action
	TrackedTerminated *metrics.CounterVec   // by event: add or delete
	IndexesFinished   *metrics.CounterVec   // by status and which backoff limit counts
	PodsCreated       *metrics.CounterVec   // by reason and status
	Skips             Skips
}

// Skips counts how often nothing was done because the cache was behind: what was made or deleted was still to be seen.
type Skips struct{ counter *metrics.CounterVec } // by group and resource of what was to be seen

// OfPods notes that pods were to be seen.
func (s Skips) OfPods() { s.counter.WithLabelValues("", "pods").Inc() }

// Replicas is about ReplicaSets and ReplicationControllers.
type Replicas struct {
	DeletionAgeRatio *metrics.Histogram
	Skips            Skips
}

// Stateful is about StatefulSets; by namespace, name and pod management policy.
type Stateful struct{ MaxUnavailable, Unavailable *metrics.GaugeVec }

// Forget drops what is shown of a StatefulSet that is gone.
func (s *Stateful) Forget(namespace, name string) {
	for _, policy := range []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement} {
		labels := map[string]string{"statefulset_namespace": namespace, "statefulset_name": name, "pod_management_policy": string(policy)}
		s.MaxUnavailable.Delete(labels)
		s.Unavailable.Delete(labels)
	}
}

// Daemons is about DaemonSets.
type Daemons struct{ Skips Skips }

// CronJob is about the Jobs that CronJobs make.
type CronJob struct{ Skew *metrics.Histogram }

// TTL is about Jobs that are deleted after they have finished.
type TTL struct{ DeletionDuration *metrics.Histogram }

// Autoscaler is about HorizontalPodAutoscalers.
type Autoscaler struct {
	Reconciliations        *metrics.CounterVec   // by action and error
	ReconciliationDuration *metrics.HistogramVec // by action and error
	Computations           *metrics.CounterVec   // by action, error and type of metric
	ComputationDuration    *metrics.HistogramVec // by action, error and type of metric
	Number                 *metrics.Gauge
	DesiredReplicas        *metrics.GaugeVec // by namespace and name
}

// Mirroring is about Endpoints that are mirrored to EndpointSlices.
type Mirroring struct {
	Added, Updated, Removed, Skipped *metrics.HistogramVec // endpoints of one sync; no labels
	SyncDuration                     *metrics.HistogramVec // no labels
	Endpoints, Slices, DesiredSlices *metrics.GaugeVec     // no labels
	Changes                          *metrics.CounterVec   // by operation
}

// PodGC is about pods that are deleted without anybody's help.
type PodGC struct{ Deleted, Failed *metrics.CounterVec } // by namespace and reason

// Eviction is about pods that have to go because of a taint.
type Eviction struct {
	Deletions *metrics.Counter
	Latency   *metrics.Histogram
}

// Evicted notes that a pod was deleted that had to go since then.
func (e *Eviction) Evicted(since time.Time) {
	e.Deletions.Inc()
	e.Latency.Observe(time.Since(since).Seconds())
}

// Nodes is about the health of nodes.
type Nodes struct {
	ZoneHealth, ZoneSize, Unhealthy *metrics.GaugeVec   // by zone
	Evictions                       *metrics.CounterVec // by zone
	UpdateDuration                  *metrics.Histogram
}

// Blocks is about the parts of the pod addresses that nodes get; all by range.
type Blocks struct {
	Allocations, Releases *metrics.CounterVec
	Max, Usage            *metrics.GaugeVec
	Running               *metrics.GaugeVec // by name of the controller and of its manager, instead of a range
	Tries                 *metrics.HistogramVec
}

// Ephemeral is about the claims of ephemeral volumes.
type Ephemeral struct{ Created, Failed *metrics.Counter }

// Publisher is about something that is published again and again; by the code of the API's answer.
type Publisher struct {
	Syncs    *metrics.CounterVec
	Duration *metrics.HistogramVec
}

// Synced notes a sync that began then.
func (p *Publisher) Synced(start time.Time, err error) {
	code := http.StatusOK
	if err != nil {
		code = http.StatusInternalServerError
		if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Code != 0 {
			code = int(status.Status().Code)
		}
	}
	label := strconv.Itoa(code)
	p.Syncs.WithLabelValues(label).Inc()
	p.Duration.WithLabelValues(label).Observe(time.Since(start).Seconds())
}

// Volumes is about PersistentVolumes and their claims.
type Volumes struct {
	OperationErrors                  *metrics.CounterVec   // by plugin and operation
	OperationDuration                *metrics.HistogramVec // by plugin and operation
	ClassesAssigned, ClassesNotSaved *metrics.Counter
}

// Attachments is about volumes that are attached to nodes.
type Attachments struct {
	Forced *metrics.CounterVec // by reason
	// List lists the volumes that pods need attached to nodes, and those that are.
	List func() (needed, attached []Attachment)
}

// Reasons to detach a volume that a node may still use.
const (
	DetachedAfterTimeout = "timeout"
	DetachedOutOfService = "out-of-service"
)

// Garbage is about the garbage collector.
type Garbage struct{ SyncErrors *metrics.Counter }

// New makes all metrics.
func New() *Set {
	s := &Set{}
	s.Job, s.CronJob, s.TTL = s.newJob(), s.newCronJob(), s.newTTL()
	s.Replicas, s.Stateful, s.Daemons = s.newReplicas(), s.newStateful(), &Daemons{s.group("daemonset_controller").skips()}
	s.Volumes, s.Attachment, s.Counts = s.newVolumes(), s.newAttachments(), &Counts{}
	s.Counts.Attachments = s.Attachment
	s.Autoscaler, s.Mirroring = s.newAutoscaler(), s.newMirroring()
	s.PodGC, s.Taints, s.Devices = s.newPodGC(), s.newEviction("taint_eviction_controller"), s.newEviction("device_taint_eviction_controller")
	s.Nodes, s.Blocks, s.Ephemeral = s.newNodes(), s.newBlocks(), s.newEphemeral()
	s.RootCA, s.Bundles = s.newPublisher("root_ca_cert_publisher"), s.newPublisher("clustertrustbundle_publisher")
	s.Garbage = &Garbage{s.group("garbagecollector_controller").counter("resources_sync_error_total", "How often the watches of the garbage collector could not be brought up to date.")}
	s.all = append(s.all,
		slicemetrics.EndpointsAddedPerSync, slicemetrics.EndpointsRemovedPerSync, slicemetrics.EndpointsDesired, slicemetrics.NumEndpointSlices,
		slicemetrics.DesiredEndpointSlices, slicemetrics.EndpointSliceChanges, slicemetrics.EndpointSlicesChangedPerSync,
		slicemetrics.EndpointSliceSyncs, slicemetrics.ServicesCountByTrafficDistribution, claimmetrics.ResourceClaimCreate)
	return s
}

// group makes metrics whose names begin alike.
type group struct {
	set       *Set
	subsystem string
	level     metrics.StabilityLevel
}

func (s *Set) group(subsystem string) group { return group{s, subsystem, metrics.ALPHA} }

// at is the group with another stability level.
func (g group) at(level metrics.StabilityLevel) group {
	g.level = level
	return g
}

func add[M metrics.Registerable](g group, m M) M {
	g.set.all = append(g.set.all, m)
	return m
}

func (g group) counterOpts(name, help string) *metrics.CounterOpts {
	return &metrics.CounterOpts{Subsystem: g.subsystem, Name: name, Help: help, StabilityLevel: g.level}
}

func (g group) gaugeOpts(name, help string) *metrics.GaugeOpts {
	return &metrics.GaugeOpts{Subsystem: g.subsystem, Name: name, Help: help, StabilityLevel: g.level}
}

func (g group) histogramOpts(name, help string, buckets []float64) *metrics.HistogramOpts {
	return &metrics.HistogramOpts{Subsystem: g.subsystem, Name: name, Help: help, StabilityLevel: g.level, Buckets: buckets}
}

func (g group) counter(name, help string) *metrics.Counter {
	return add(g, metrics.NewCounter(g.counterOpts(name, help)))
}

func (g group) counters(name, help string, labels ...string) *metrics.CounterVec {
	return add(g, metrics.NewCounterVec(g.counterOpts(name, help), labels))
}

func (g group) gauge(name, help string) *metrics.Gauge {
	return add(g, metrics.NewGauge(g.gaugeOpts(name, help)))
}

func (g group) gauges(name, help string, labels ...string) *metrics.GaugeVec {
	return add(g, metrics.NewGaugeVec(g.gaugeOpts(name, help), labels))
}

func (g group) histogram(name, help string, buckets []float64) *metrics.Histogram {
	return add(g, metrics.NewHistogram(g.histogramOpts(name, help, buckets)))
}

func (g group) histograms(name, help string, buckets []float64, labels ...string) *metrics.HistogramVec {
	return add(g, metrics.NewHistogramVec(g.histogramOpts(name, help, buckets), labels))
}

func (s *Set) newJob() *Job {
	g := s.group("job_controller")
	stable, beta := g.at(metrics.STABLE), g.at(metrics.BETA)
	return &Job{
		SyncDuration:      stable.histograms("job_sync_duration_seconds", "How long it took to look at a Job.", metrics.ExponentialBuckets(0.004, 2, 15), "completion_mode", "result", "action"),
		Syncs:             stable.counters("job_syncs_total", "How often a Job was looked at.", "completion_mode", "result", "action"),
		Finished:          stable.counters("jobs_finished_total", "Jobs that have come to their end.", "completion_mode", "result", "reason"),
		ManagedElsewhere:  g.counters("jobs_by_external_controller_total", "Jobs that somebody else manages.", "controller_name"),
		PodsFinished:      stable.counters("job_pods_finished_total", "Pods of Jobs that have ended and were counted.", "completion_mode", "result"),
		PolicyActions:     beta.counters("pod_failures_handled_by_failure_policy_total", "Failed pods that a rule of a pod failure policy was for.", "action"),
		TrackedTerminated: beta.counters("terminated_pods_tracking_finalizer_total", "Pods that have ended with the finalizer by which Jobs track them, as they come and go.", "event"),
		IndexesFinished:   g.counters("job_finished_indexes_total", "Completion indexes that have ended.", "status", "backoffLimit"),
		PodsCreated:       g.counters("job_pods_creation_total", "Pods that were made for Jobs, or should have been, by why.", "reason", "status"),
		Skips:             g.skips(),
	}
}

func (g group) skips() Skips {
	return Skips{g.counters("stale_sync_skips_total", "How often nothing was done because the cache was behind.", "group", "resource")}
}

func (s *Set) newReplicas() *Replicas {
	g := s.group("replicaset_controller")
	return &Replicas{
		DeletionAgeRatio: g.histogram("sorting_deletion_age_ratio", "Age of a pod that was chosen to go, by that of the youngest; of pods that are ready.", metrics.ExponentialBuckets(0.25, 2, 6)),
		Skips:            g.skips(),
	}
}

func (s *Set) newStateful() *Stateful {
	g, labels := s.group("statefulset_controller"), []string{"statefulset_namespace", "statefulset_name", "pod_management_policy"}
	return &Stateful{
		MaxUnavailable: g.gauges("statefulset_max_unavailable", "Pods that may be unavailable during an update.", labels...),
		Unavailable:    g.gauges("statefulset_unavailable_replicas", "Pods that are missing or unavailable.", labels...),
	}
}

func (s *Set) newVolumes() *Volumes {
	g := s.group("")
	seconds := []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}
	return &Volumes{
		OperationErrors:   g.counters("volume_operation_errors_total", "Volumes that could not be provisioned or deleted.", "plugin_name", "operation_name"),
		OperationDuration: g.at(metrics.BETA).histograms("volume_operation_total_seconds", "How long it took to provision or delete a volume.", seconds, "plugin_name", "operation_name"),
		ClassesAssigned:   g.counter("retroactive_storageclass_total", "Claims that were given the default StorageClass after they had been created."),
		ClassesNotSaved:   g.counter("retroactive_storageclass_errors_total", "Claims that could not be given it."),
	}
}

func (s *Set) newAttachments() *Attachments {
	return &Attachments{Forced: s.group("attach_detach_controller").counters("attachdetach_controller_forced_detaches", "Volumes that were detached though their node may have used them.", "reason")}
}

func (s *Set) newCronJob() *CronJob {
	g := s.group("cronjob_controller").at(metrics.STABLE)
	return &CronJob{g.histogram("job_creation_skew_duration_seconds", "By how much a Job was later than its time.", metrics.ExponentialBuckets(1, 2, 10))}
}

func (s *Set) newTTL() *TTL {
	g := s.group("ttl_after_finished_controller")
	return &TTL{g.histogram("job_deletion_duration_seconds", "By how much a finished Job outlived its time.", metrics.ExponentialBuckets(0.1, 2, 14))}
}

func (s *Set) newAutoscaler() *Autoscaler {
	g := s.group("horizontal_pod_autoscaler_controller")
	beta, buckets := g.at(metrics.BETA), metrics.ExponentialBuckets(0.001, 2, 15)
	return &Autoscaler{
		Reconciliations:        beta.counters("reconciliations_total", "How often an autoscaler was looked at, by what it did and whose error there was.", "action", "error"),
		ReconciliationDuration: beta.histograms("reconciliation_duration_seconds", "How long it took to look at an autoscaler.", buckets, "action", "error"),
		Computations:           beta.counters("metric_computation_total", "How often a metric was asked what it would like.", "action", "error", "metric_type"),
		ComputationDuration:    beta.histograms("metric_computation_duration_seconds", "How long it took to find out what a metric would like.", buckets, "action", "error", "metric_type"),
		Number:                 g.gauge("num_horizontal_pod_autoscalers", "Autoscalers that there are."),
		DesiredReplicas:        g.gauges("desired_replicas", "Replicas that an autoscaler wants.", "namespace", "hpa_name"),
	}
}

func (s *Set) newMirroring() *Mirroring {
	g, buckets := s.group("endpoint_slice_mirroring_controller"), metrics.ExponentialBuckets(2, 2, 15)
	return &Mirroring{
		Added:         g.histograms("endpoints_added_per_sync", "Endpoints that a sync has added.", buckets),
		Updated:       g.histograms("endpoints_updated_per_sync", "Endpoints that a sync has changed.", buckets),
		Removed:       g.histograms("endpoints_removed_per_sync", "Endpoints that a sync has removed.", buckets),
		Skipped:       g.histograms("addresses_skipped_per_sync", "Addresses that a sync has not mirrored.", buckets),
		SyncDuration:  g.histograms("endpoints_sync_duration", "How long a sync took, in seconds.", metrics.ExponentialBuckets(0.001, 2, 15)),
		Endpoints:     g.gauges("endpoints_desired", "Endpoints that should be in slices."),
		Slices:        g.gauges("num_endpoint_slices", "Slices that there are."),
		DesiredSlices: g.gauges("desired_endpoint_slices", "Slices that there would be if all were full."),
		Changes:       g.counters("changes", "Writes of slices.", "operation"),
	}
}

func (s *Set) newPodGC() *PodGC {
	g := s.group("pod_gc_collector")
	return &PodGC{
		Deleted: g.counters("force_delete_pods_total", "Pods that were deleted at once.", "namespace", "reason"),
		Failed:  g.counters("force_delete_pod_errors_total", "Pods that could not be deleted at once.", "namespace", "reason"),
	}
}

func (s *Set) newEviction(subsystem string) *Eviction {
	g := s.group(subsystem)
	return &Eviction{
		Deletions: g.counter("pod_deletions_total", "Pods that were deleted because of a taint."),
		Latency: g.histogram("pod_deletion_duration_seconds", "How long a pod stayed after it had to go.",
			[]float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 120, 180, 240}),
	}
}

func (s *Set) newNodes() *Nodes {
	g := s.group("node_collector")
	return &Nodes{
		ZoneHealth:     g.gauges("zone_health", "Percentage of the zone's nodes that are ready.", "zone"),
		ZoneSize:       g.gauges("zone_size", "Nodes of the zone.", "zone"),
		Unhealthy:      g.gauges("unhealthy_nodes_in_zone", "Nodes of the zone that are not ready.", "zone"),
		Evictions:      g.at(metrics.STABLE).counters("evictions_total", "Nodes that have got a taint which evicts pods.", "zone"),
		UpdateDuration: g.histogram("update_node_health_duration_seconds", "How long it took to look at a node.", metrics.ExponentialBuckets(0.001, 4, 8)),
	}
}

func (s *Set) newBlocks() *Blocks {
	g := s.group("node_ipam_controller")
	const label = "clusterCIDR"
	return &Blocks{
		Allocations: g.counters("cidrset_cidrs_allocations_total", "Blocks of pod addresses that were given away.", label),
		Releases:    g.counters("cidrset_cidrs_releases_total", "Blocks of pod addresses that came back.", label),
		Max:         g.gauges("cirdset_max_cidrs", "Blocks of pod addresses that there are.", label), // upstream's spelling
		Usage:       g.gauges("cidrset_usage_cidrs", "Part of the blocks that is given away.", label),
		Running:     s.group("").at(metrics.BETA).gauges("running_managed_controllers", "Controllers that run.", "name", "manager"),
		Tries:       g.histograms("cidrset_allocation_tries_per_request", "Blocks that were looked at until one was free.", metrics.ExponentialBuckets(1, 5, 5), label),
	}
}

func (s *Set) newEphemeral() *Ephemeral {
	g := s.group("ephemeral_volume_controller")
	return &Ephemeral{
		Created: g.counter("create_total", "How often it was tried to make a claim."),
		Failed:  g.counter("create_failures_total", "How often a claim could not be made."),
	}
}

func (s *Set) newPublisher(subsystem string) *Publisher {
	g := s.group(subsystem)
	return &Publisher{
		Syncs:    g.counters("sync_total", "How often it was seen to that all is published.", "code"),
		Duration: g.histograms("sync_duration_seconds", "How long that took.", metrics.ExponentialBuckets(0.001, 2, 15), "code"),
	}
}
