// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the kubelet does, under the names that upstream's has, so that dashboards fill.
//
// What can be looked up (running pods, usage of containers and volumes) is not counted here: the kubelet's API computes it
// when it is asked.
package metrics

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"k8s.io/component-base/metrics"

	"github.com/skiff-k8s/skiff/internal/instruments"
)

// Metrics are those of one kubelet.
type Metrics struct {
	All    metrics.KubeRegistry // served at /metrics
	Probes metrics.KubeRegistry // served at /metrics/probes

	PodStart          *metrics.Histogram    // until all of its containers run, from when the kubelet heard of the pod
	PodStartTotal     *metrics.HistogramVec // until all can see that all of them run, from when the pod was created
	PodStartSLI       *metrics.HistogramVec // the same without pulls and init containers
	PodWorkerStart    *metrics.Histogram    // until the kubelet began to work on it
	PodWork           *metrics.HistogramVec // operation_type: create, update, sync, terminate
	StartedPods       *metrics.Counter
	FailedPods        *metrics.Counter      // their sandbox could not be made
	SandboxStart      *metrics.HistogramVec // runtime_handler
	SandboxErrors     *metrics.CounterVec   // runtime_handler
	StartedContainers *metrics.CounterVec   // container_type
	FailedContainers  *metrics.CounterVec   // container_type, code
	EndedContainers   *metrics.CounterVec   // container_type, exit_code, reason
	Cgroups           *metrics.HistogramVec
	Evictions         *metrics.CounterVec // eviction_signal
	Preemptions       *metrics.CounterVec // preemption_signal
	Rejections        *metrics.CounterVec // reason
	ContainersPerPod  *metrics.Histogram
	ImagePull         *metrics.HistogramVec // image_size_in_bytes: see ImageSize
	ImagesRemoved     *metrics.CounterVec   // reason: age, space
	CgroupVersion     *metrics.Gauge
	StatusWritten     *metrics.Histogram  // until the API has a pod's status, from when it was decided
	Admitted          *metrics.CounterVec // config_mode: who has resources, see ConfigMode; qos_class
	SleepsCut         *metrics.Counter    // lifecycle hooks that slept when their container ended
	HookFallbacks     *metrics.Counter    // lifecycle hooks that were called by HTTP instead of HTTPS
	Restarted         *metrics.CounterVec // static: not counted for other pods
	DeviceAllocation  *metrics.HistogramVec
	DeviceRegistered  *metrics.CounterVec

	DRAOperations *metrics.HistogramVec // operation_name, is_error: of all claims of a pod
	DRACalls      *metrics.HistogramVec // driver_name, method_name, grpc_status_code
	ClaimsInUse   *metrics.GaugeVec     // driver_name; "<any>" are all

	UserNamespacedPods, UserNamespacedPodsFailed          *metrics.Counter // started with users of their own, and what of them could not be
	ImageVolumes, ImageVolumesMounted, ImageVolumesFailed *metrics.Counter // that containers asked for, got, and did not get

	Resizes                 Resizes
	Alignment               Alignment
	FirstNetworkPodStartSLI *metrics.Gauge // PodStartSLI of the first pod with a network of its own

	MemoryMin, MemoryLow *metrics.Gauge // bytes that the kernel does not take back from pods

	PodsAPI        *metrics.CounterVec            // server_api_version, status_code
	PodsAPIOf      map[string]*metrics.CounterVec // the same by method
	PodResources   *metrics.CounterVec            // server_api_version
	PodResourcesOf map[string]Calls               // the same by method

	ProbeTotal    *metrics.CounterVec   // probe_type, result, container, pod, namespace, pod_uid
	ProbeDuration *metrics.HistogramVec // probe_type, container, pod, namespace

	Requests        *metrics.CounterVec // of the kubelet's API: method, path, server_type, long_running
	RequestDuration *metrics.HistogramVec
	Inflight        *metrics.GaugeVec

	storage  *metrics.HistogramVec // volume_plugin, operation_name, status, migrated
	csiCalls *metrics.HistogramVec // driver_name, method_name, grpc_status_code, migrated

	operations         *metrics.CounterVec // operation_type
	operationErrors    *metrics.CounterVec
	operationDurations *metrics.HistogramVec
	name               *metrics.GaugeVec
}

// Resizes are changes of the resources of running pods. Buckets are those of PriorityBucket.
type Resizes struct {
	Asked       *metrics.CounterVec   // resource: cpu, memory; requirement: requests, limits; operation: add, remove, increase, decrease
	Took        *metrics.HistogramVec // success
	Pending     *metrics.GaugeVec     // reason: deferred, infeasible; priority_bucket
	InProgress  *metrics.Gauge
	Infeasible  *metrics.CounterVec   // reason_detail
	Accepted    *metrics.CounterVec   // retry_trigger: that of those that had been deferred
	DeferredFor *metrics.HistogramVec // resolution: accepted, reverted, terminated; priority_bucket
}

func newResizes() Resizes {
	return Resizes{
		Asked: counters("container_requested_resizes_total", "Changes of the resources of containers that were asked for; each resource counts.", "resource", "requirement", "operation"),
		Took: histograms("pod_resize_duration_milliseconds", "Duration in milliseconds to actuate a pod resize",
			[]float64{10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000}, "success"),
		Pending: gauges("pod_pending_resizes",
			"Pods that do not have the resources yet that they ask for, by why that is (deferred, infeasible) and how important they are.", "reason", "priority_bucket"),
		InProgress: gauge("pod_in_progress_resizes", "Number of in-progress resizes for pods."),
		Infeasible: counters("pod_infeasible_resizes_total", "Number of infeasible resizes for pods.", "reason_detail"),
		Accepted:   counters("pod_deferred_accepted_resizes_total", "Cumulative number of resizes that were accepted after being deferred.", "retry_trigger"),
		DeferredFor: histograms("pod_deferred_resize_duration_seconds", "Duration in seconds for which the resize of a pod was deferred, by how that ended (accepted, reverted, terminated) and how important the pod is.",
			[]float64{5, 10, 15, 20, 30, 45, 60, 90, 120, 150, 180, 300, 600, 1200, 1800, 3600}, "resolution", "priority_bucket"),
	}
}

// PriorityBucket is the label for pods of that priority.
func PriorityBucket(priority int32) string {
	switch {
	case priority >= 2000000000:
		return "system-critical"
	case priority >= 100000:
		return "high"
	case priority > 0:
		return "medium"
	case priority == 0:
		return "normal"
	case priority > -1000:
		return "low"
	}
	return "very-low"
}

// Calls count those of one method: all, and those that failed. They are by server_api_version.
type Calls struct{ Asked, Failed *metrics.CounterVec }

var podBuckets = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

var statusBuckets = []float64{.01, .05, .1, .5, 1, 5, 10, 20, 30, 45, 60}

var pullBuckets = []float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

// storageBuckets are of what is done to volumes.
var storageBuckets = []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}

// New makes the metrics of a node's kubelet.
func New(node string) *Metrics {
	m := &Metrics{
		All: metrics.NewKubeRegistry(), Probes: metrics.NewKubeRegistry(),

		PodStart: histogram("pod_start_duration_seconds",
			"Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", podBuckets),
		PodWork:           histograms("pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", metrics.DefBuckets, "operation_type"),
		PodStartTotal:     histograms("pod_start_total_duration_seconds", "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", podBuckets),
		PodStartSLI:       histograms("pod_start_sli_duration_seconds", "How many seconds pods take to start, from when they are created until the API shows that all containers run, without pulls of images and init containers.", podBuckets),
		PodWorkerStart:    histogram("pod_worker_start_duration_seconds", "Duration in seconds from kubelet seeing a pod to starting a worker.", metrics.DefBuckets),
		StartedPods:       counter("started_pods_total", "Cumulative number of pods started"),
		FailedPods:        counter("started_pods_errors_total", "Cumulative number of errors when starting pods"),
		SandboxStart:      histograms("run_podsandbox_duration_seconds", "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.", metrics.DefBuckets, "runtime_handler"),
		SandboxErrors:     counters("run_podsandbox_errors_total", "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", "runtime_handler"),
		StartedContainers: counters("started_containers_total", "Cumulative number of containers started", "container_type"),
		FailedContainers:  counters("started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code"),
		EndedContainers:   counters("terminated_containers_total", "Cumulative number of container terminations.", "container_type", "exit_code", "reason"),
		Cgroups:           histograms("cgroup_manager_duration_seconds", "Duration in seconds for cgroup manager operations. Broken down by method.", metrics.DefBuckets, "operation_type"),
		Evictions:         counters("evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal"),
		Preemptions:       counters("preemptions", "Pods that were ended to make room for a critical one, by what it was short of.", "preemption_signal"),
		Rejections:        counters("admission_rejections_total", "Pods that were not let in, by reason.", "reason"),
		ContainersPerPod:  histogram("containers_per_pod_count", "The number of containers per pod.", metrics.ExponentialBuckets(1, 2, 5)),
		ImagePull:         histograms("image_pull_duration_seconds", "Duration in seconds to pull an image, with the time that it waited for others, by its size.", pullBuckets, "image_size_in_bytes"),
		ImagesRemoved:     counters("image_garbage_collected_total", "Images that were removed because nobody used them, by why that was.", "reason"),
		StatusWritten:     histogram("pod_status_sync_duration_seconds", "Duration in seconds until the API has the status of a pod, from when it was decided.", statusBuckets),
		Admitted:          counters("pod_level_resources_admission_total", "Pods that were let in, by whether they, their containers, both or none have resources, and by QoS class.", "config_mode", "qos_class"),
		SleepsCut:         counter("sleep_action_terminated_early_total", "Lifecycle hooks that slept when their container ended."),
		HookFallbacks:     counter("lifecycle_handler_http_fallbacks_total", "Lifecycle hooks that were called without TLS because who was called had none."),
		CgroupVersion:     gauge("cgroup_version", "The version of cgroups on this machine."),
		Restarted:         counters("restarted_pods_total", "Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)", "static"),
		DeviceAllocation:  histograms("device_plugin_alloc_duration_seconds", "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.", metrics.DefBuckets, "resource_name"),
		DeviceRegistered:  counters("device_plugin_registration_total", "Cumulative number of device plugin registrations. Broken down by resource name.", "resource_name"),

		DRAOperations: ofDRA("operations_duration_seconds", "Duration in seconds of preparing, or unpreparing, all ResourceClaims of a pod. Broken down by operation (PrepareResources, UnprepareResources) and by whether it failed.", "operation_name", "is_error"),
		DRACalls:      ofDRA("grpc_operations_duration_seconds", "Duration in seconds of the calls of DRA drivers", "driver_name", "method_name", "grpc_status_code"),
		ClaimsInUse: dras.Gauges(instruments.Alpha, "resource_claims_in_use",
			"Number of ResourceClaims that are in use on the node, by driver, and of all drivers as <any>: a claim may have devices of several.", "driver_name"),

		UserNamespacedPods:       counter("started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux."),
		UserNamespacedPodsFailed: counter("started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux."),

		ImageVolumes:        betaCounter("image_volume_requested_total", "Number of requested image volumes."),
		ImageVolumesMounted: betaCounter("image_volume_mounted_succeed_total", "Number of successful image volume mounts."),
		ImageVolumesFailed:  betaCounter("image_volume_mounted_errors_total", "Number of failed image volume mounts."),

		ProbeTotal: probers.Counters(instruments.Beta, "probe_total",
			"Cumulative number of a liveness, readiness or startup probe for a container by result.", "probe_type", "result", "container", "pod", "namespace", "pod_uid"),
		ProbeDuration: probers.Histograms(instruments.Alpha, "probe_duration_seconds",
			"Duration in seconds for a probe response.", nil, "probe_type", "container", "pod", "namespace"),

		Requests:        counters("http_requests_total", "Number of the http requests received since the server started", requestLabels...),
		RequestDuration: histograms("http_requests_duration_seconds", "Duration in seconds to serve http requests", metrics.DefBuckets, requestLabels...),
		Inflight:        gauges("http_inflight_requests", "Number of the inflight http requests", requestLabels...),

		storage: instruments.Of("").Histograms(instruments.Beta, "storage_operation_duration_seconds",
			"Storage operation duration", storageBuckets, "volume_plugin", "operation_name", "status", "migrated"),
		csiCalls: instruments.Of("csi").Histograms(instruments.Alpha, "operations_seconds",
			"How many seconds calls of CSI drivers take, by gRPC's code of how they ended.", storageBuckets, "driver_name", "method_name", "grpc_status_code", "migrated"),

		operations:         counters("runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type"),
		operationErrors:    counters("runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type"),
		operationDurations: histograms("runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", metrics.ExponentialBuckets(.005, 2.5, 14), "operation_type"),
	}
	m.name = gauges("node_name", "The node's name. The count is always 1.", "node")
	m.Resizes = newResizes()
	m.Alignment = newAlignment()
	m.FirstNetworkPodStartSLI = ours.Gauge(metrics.INTERNAL, "first_network_pod_start_sli_duration_seconds",
		"How many seconds the first pod with a network of its own took to start, counted as in pod_start_sli_duration_seconds.")
	m.MemoryMin = gauge("memory_qos_node_memory_min_bytes", "Memory that Guaranteed pods request and that is never taken back from them (memory.min).")
	m.MemoryLow = gauge("memory_qos_node_memory_low_bytes", "Memory that Burstable pods request and that is taken back from them as the last (memory.low).")
	m.countLocalAPIs()
	all, probes := m.List()
	m.All.MustRegister(all...)
	m.Probes.MustRegister(probes...)
	m.name.WithLabelValues(node).Set(1)
	return m
}

// ConfigMode is the label for a pod that has resources as a whole, or in its containers.
func ConfigMode(whole, containers bool) string {
	switch {
	case whole && containers:
		return "pod_and_container_level"
	case whole:
		return "pod_level"
	case containers:
		return "container_level"
	}
	return ""
}

// imageSizes are the bounds that images are told apart by.
var imageSizes = []struct {
	above uint64
	label string
}{
	{100 << 30, "GT100GB"}, {60 << 30, "60GB-100GB"}, {40 << 30, "40GB-60GB"}, {30 << 30, "30GB-40GB"}, {20 << 30, "20GB-30GB"}, {10 << 30, "10GB-20GB"},
	{5 << 30, "5GB-10GB"}, {1 << 30, "1GB-5GB"}, {500 << 20, "500MB-1GB"}, {100 << 20, "100MB-500MB"}, {10 << 20, "10MB-100MB"}, {0, "0-10MB"},
}

// ImageSize is the label for an image of that many bytes.
func ImageSize(bytes uint64) string {
	for _, size := range imageSizes {
		if bytes > size.above {
			return size.label
		}
	}
	return "N/A"
}

// Reject counts a pod that was not let in. Of the reasons, which others may make up, those that everybody knows are told apart.
func (m *Metrics) Reject(reason string) {
	switch {
	case slices.Contains(rejections, reason):
	case strings.HasPrefix(reason, "OutOf"):
		reason = "OutOfExtendedResources"
	default:
		reason = "Other"
	}
	m.Rejections.WithLabelValues(reason).Inc()
}

var rejections = []string{
	"AppArmor", "Evicted", "NodeShutdown", "OutOfcpu", "OutOfephemeral-storage", "OutOfmemory", "OutOfpods", "PodFeatureUnsupported", "PodLevelResourcesNotSupported", "PodOSNotSupported",
	"PodOSSelectorNodeLabelDoesNotMatch", "SupplementalGroupsPolicyNotSupported", "SysctlForbidden", "TopologyAffinityError", "UnexpectedAdmissionError", "VolumeAttachmentLimitExceeded",
}

// countLocalAPIs makes the counters of the APIs for programs on the node.
func (m *Metrics) countLocalAPIs() {
	answered := []string{"server_api_version", "status_code"}
	m.PodsAPI = counters("pod_requests_total", "Requests to the pods API, by its version and the status code of the answer.", answered...)
	m.PodsAPIOf = map[string]*metrics.CounterVec{
		"ListPods":  counters("pod_requests_list_total", "Requests to list pods by the pods API.", answered...),
		"GetPod":    counters("pod_requests_get_total", "Requests to get a pod by the pods API.", answered...),
		"WatchPods": counters("pod_requests_watch_total", "Requests to watch pods by the pods API that have ended.", answered...),
	}
	m.PodResources = counters("pod_resources_endpoint_requests_total", "Requests to the pod resources API, by its version.", "server_api_version")
	m.PodResourcesOf = map[string]Calls{}
	for method, name := range map[string]string{"List": "list", "Get": "get", "GetAllocatableResources": "get_allocatable"} {
		m.PodResourcesOf[method] = Calls{
			counters("pod_resources_endpoint_requests_"+name, "Requests to "+method+" of the pod resources API.", "server_api_version"),
			counters("pod_resources_endpoint_errors_"+name, "Requests to "+method+" of the pod resources API that failed.", "server_api_version"),
		}
	}
}

// List lists what is in All and in Probes.
func (m *Metrics) List() (all, probes []metrics.Registerable) {
	all = []metrics.Registerable{m.PodStart, m.PodStartTotal, m.PodStartSLI, m.FirstNetworkPodStartSLI, m.PodWorkerStart, m.PodWork, m.StartedPods, m.FailedPods,
		m.SandboxStart, m.SandboxErrors, m.StartedContainers, m.FailedContainers, m.EndedContainers, m.UserNamespacedPods, m.UserNamespacedPodsFailed, m.Cgroups, m.Evictions, m.Preemptions, m.Rejections, m.ContainersPerPod, m.ImagePull, m.ImagesRemoved, m.CgroupVersion, m.StatusWritten, m.Admitted, m.SleepsCut, m.HookFallbacks, m.Restarted, m.DeviceAllocation,
		m.DeviceRegistered, m.DRAOperations, m.DRACalls, m.ClaimsInUse, m.ImageVolumes, m.ImageVolumesMounted, m.ImageVolumesFailed, m.storage, m.csiCalls, m.Requests, m.RequestDuration, m.Inflight,
		m.operations, m.operationErrors, m.operationDurations, m.name, m.MemoryMin, m.MemoryLow, m.PodsAPI, m.PodResources,
		m.Resizes.Asked, m.Resizes.Took, m.Resizes.Pending, m.Resizes.InProgress, m.Resizes.Infeasible, m.Resizes.Accepted, m.Resizes.DeferredFor}
	all = append(all, m.Alignment.list()...)
	for _, of := range m.PodsAPIOf {
		all = append(all, of)
	}
	for _, of := range m.PodResourcesOf {
		all = append(all, of.Asked, of.Failed)
	}
	return all, []metrics.Registerable{m.ProbeTotal, m.ProbeDuration}
}

var requestLabels = []string{"method", "path", "server_type", "long_running"}

const (
	ours    = instruments.Of("kubelet")
	dras    = instruments.Of("dra")
	probers = instruments.Of("prober")
)

func counter(name, help string) *metrics.Counter {
	return ours.Counter(instruments.Alpha, name, help)
}

func betaCounter(name, help string) *metrics.Counter {
	return ours.Counter(instruments.Beta, name, help)
}

func counters(name, help string, labels ...string) *metrics.CounterVec {
	return ours.Counters(instruments.Alpha, name, help, labels...)
}

func gauge(name, help string) *metrics.Gauge {
	return ours.Gauge(instruments.Alpha, name, help)
}

func gauges(name, help string, labels ...string) *metrics.GaugeVec {
	return ours.Gauges(instruments.Alpha, name, help, labels...)
}

func histogram(name, help string, buckets []float64) *metrics.Histogram {
	return ours.Histogram(instruments.Alpha, name, help, buckets)
}

func histograms(name, help string, buckets []float64, labels ...string) *metrics.HistogramVec {
	return ours.Histograms(instruments.Alpha, name, help, buckets, labels...)
}

func ofDRA(name, help string, labels ...string) *metrics.HistogramVec {
	return dras.Histograms(instruments.Alpha, name, help, metrics.ExponentialBucketsRange(.1, 40, 15), labels...)
}

// CSICall notes how long a call of a CSI driver took, and how it ended. No volume is another's in disguise here (migrated).
func (m *Metrics) CSICall(driver, method, code string, took time.Duration) {
	m.csiCalls.WithLabelValues(driver, method, code, "false").Observe(took.Seconds())
}

// StorageOperation notes how long something was done to a volume, which began then.
func (m *Metrics) StorageOperation(plugin, operation string, began time.Time, err error) {
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	m.storage.WithLabelValues(plugin, operation, status, "false").Observe(time.Since(began).Seconds())
}

// Conn counts the calls that go over a connection to a container runtime.
func (m *Metrics) Conn(to grpc.ClientConnInterface) grpc.ClientConnInterface { return conn{to, m} }

type conn struct {
	grpc.ClientConnInterface
	m *Metrics
}

func (c conn) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	operation := operations[path.Base(method)]
	if operation == "" {
		operation = path.Base(method)
	}
	began := time.Now()
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, options...)
	c.m.operations.WithLabelValues(operation).Inc()
	c.m.operationDurations.WithLabelValues(operation).Observe(time.Since(began).Seconds())
	if err != nil {
		c.m.operationErrors.WithLabelValues(operation).Inc()
	}
	return err
}

// operations are the calls of CRI as operation_type names them.
var operations = map[string]string{
	"Version": "version", "Status": "status", "RuntimeConfig": "runtime_config", "UpdateRuntimeConfig": "update_runtime_config",
	"RunPodSandbox": "run_podsandbox", "StopPodSandbox": "stop_podsandbox", "RemovePodSandbox": "remove_podsandbox", "PodSandboxStatus": "podsandbox_status",
	"ListPodSandbox": "list_podsandbox", "PodSandboxStats": "podsandbox_stats", "ListPodSandboxStats": "list_podsandbox_stats",
	"CreateContainer": "create_container", "StartContainer": "start_container", "StopContainer": "stop_container", "RemoveContainer": "remove_container",
	"ListContainers": "list_containers", "ContainerStatus": "container_status", "UpdateContainerResources": "update_container",
	"ReopenContainerLog": "reopen_container_log", "ContainerStats": "container_stats", "ListContainerStats": "list_container_stats",
	"ExecSync": "exec_sync", "Exec": "exec", "Attach": "attach", "PortForward": "port_forward",
	"ListImages": "list_images", "ImageStatus": "image_status", "PullImage": "pull_image", "RemoveImage": "remove_image", "ImageFsInfo": "image_fs_info",
}
