// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
)

// upstream are kube-controller-manager's metrics in 1.37, with their labels, that somebody may have a dashboard for. It has
// others: conformance/rules compares with its source, and lists with reasons what is absent.
const upstream = `
attach_detach_controller_attachdetach_controller_forced_detaches reason
dynamic_resource_allocation_resourceclaim_creates_total status admin_access owner_api_group owner_api_kind
endpoint_slice_controller_changes operation
endpoint_slice_controller_desired_endpoint_slices
endpoint_slice_controller_endpoints_added_per_sync
endpoint_slice_controller_endpoints_desired
endpoint_slice_controller_endpoints_removed_per_sync
endpoint_slice_controller_endpointslices_changed_per_sync topology traffic_distribution
endpoint_slice_controller_num_endpoint_slices
endpoint_slice_controller_services_count_by_traffic_distribution traffic_distribution
endpoint_slice_controller_syncs result
running_managed_controllers name manager
daemonset_controller_stale_sync_skips_total group resource
job_controller_stale_sync_skips_total group resource
replicaset_controller_sorting_deletion_age_ratio
replicaset_controller_stale_sync_skips_total group resource
retroactive_storageclass_errors_total
retroactive_storageclass_total
statefulset_controller_statefulset_max_unavailable statefulset_namespace statefulset_name pod_management_policy
statefulset_controller_statefulset_unavailable_replicas statefulset_namespace statefulset_name pod_management_policy
volume_operation_errors_total plugin_name operation_name
volume_operation_total_seconds plugin_name operation_name
cronjob_controller_job_creation_skew_duration_seconds
clustertrustbundle_publisher_sync_duration_seconds code
clustertrustbundle_publisher_sync_total code
device_taint_eviction_controller_pod_deletion_duration_seconds
device_taint_eviction_controller_pod_deletions_total
endpoint_slice_mirroring_controller_addresses_skipped_per_sync
endpoint_slice_mirroring_controller_changes operation
endpoint_slice_mirroring_controller_desired_endpoint_slices
endpoint_slice_mirroring_controller_endpoints_added_per_sync
endpoint_slice_mirroring_controller_endpoints_desired
endpoint_slice_mirroring_controller_endpoints_removed_per_sync
endpoint_slice_mirroring_controller_endpoints_sync_duration
endpoint_slice_mirroring_controller_endpoints_updated_per_sync
endpoint_slice_mirroring_controller_num_endpoint_slices
ephemeral_volume_controller_create_failures_total
ephemeral_volume_controller_create_total
garbagecollector_controller_resources_sync_error_total
horizontal_pod_autoscaler_controller_desired_replicas namespace hpa_name
horizontal_pod_autoscaler_controller_metric_computation_duration_seconds action error metric_type
horizontal_pod_autoscaler_controller_metric_computation_total action error metric_type
horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers
horizontal_pod_autoscaler_controller_reconciliation_duration_seconds action error
horizontal_pod_autoscaler_controller_reconciliations_total action error
job_controller_job_finished_indexes_total status backoffLimit
job_controller_job_pods_creation_total reason status
job_controller_job_pods_finished_total completion_mode result
job_controller_job_sync_duration_seconds completion_mode result action
job_controller_job_syncs_total completion_mode result action
job_controller_jobs_by_external_controller_total controller_name
job_controller_jobs_finished_total completion_mode result reason
job_controller_pod_failures_handled_by_failure_policy_total action
job_controller_terminated_pods_tracking_finalizer_total event
node_collector_evictions_total zone
node_collector_unhealthy_nodes_in_zone zone
node_collector_update_node_health_duration_seconds
node_collector_zone_health zone
node_collector_zone_size zone
node_ipam_controller_cidrset_allocation_tries_per_request clusterCIDR
node_ipam_controller_cidrset_cidrs_allocations_total clusterCIDR
node_ipam_controller_cidrset_cidrs_releases_total clusterCIDR
node_ipam_controller_cidrset_usage_cidrs clusterCIDR
node_ipam_controller_cirdset_max_cidrs clusterCIDR
pod_gc_collector_force_delete_pod_errors_total namespace reason
pod_gc_collector_force_delete_pods_total namespace reason
root_ca_cert_publisher_sync_duration_seconds code
root_ca_cert_publisher_sync_total code
taint_eviction_controller_pod_deletion_duration_seconds
taint_eviction_controller_pod_deletions_total
ttl_after_finished_controller_job_deletion_duration_seconds
`

// What is measured has upstream's names and labels.
func TestNamesAreUpstreams(t *testing.T) {
	s, registry := New(), metrics.NewKubeRegistry()
	if err := s.Register(registry); err != nil {
		t.Fatal(err)
	}
	s.touch(t)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		var labels []string
		for _, pair := range f.Metric[0].Label {
			labels = append(labels, pair.GetName())
		}
		slices.Sort(labels)
		got = append(got, strings.Join(append([]string{f.GetName()}, labels...), " "))
	}
	var want []string
	for line := range strings.Lines(strings.TrimSpace(upstream)) {
		words := strings.Fields(line)
		slices.Sort(words[1:])
		want = append(want, strings.Join(words, " "))
	}
	slices.Sort(got)
	slices.Sort(want)
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%s is missing", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("upstream has no %s", g)
		}
	}
}

// touch gives each metric with labels a value: those without are not shown.
func (s *Set) touch(t *testing.T) {
	t.Helper()
	for _, m := range s.all {
		for n := range 5 {
			values := slices.Repeat([]string{"x"}, n)
			if touchVec(m, values) {
				break
			}
			if n == 4 {
				t.Errorf("%s could not be touched", m.FQName())
			}
		}
	}
}

// touchVec tells whether a metric has as many labels as there are values, or is none with labels.
func touchVec(m metrics.Registerable, values []string) bool {
	var err error
	switch m := m.(type) {
	case *metrics.CounterVec:
		_, err = m.GetMetricWithLabelValues(values...)
	case *metrics.GaugeVec:
		_, err = m.GetMetricWithLabelValues(values...)
	case *metrics.HistogramVec:
		_, err = m.GetMetricWithLabelValues(values...)
	}
	return err == nil
}

// The code of a sync is that of the API's answer.
func TestPublisherCounts(t *testing.T) {
	s, registry := New(), metrics.NewKubeRegistry()
	if err := s.Register(registry); err != nil {
		t.Fatal(err)
	}
	s.RootCA.Synced(time.Now(), nil)
	s.RootCA.Synced(time.Now(), errors.New("no answer"))
	s.RootCA.Synced(time.Now(), fmt.Errorf("update: %w", apierrors.NewConflict(corev1.Resource("configmaps"), "c", errors.New("changed"))))
	want := `# HELP root_ca_cert_publisher_sync_total [ALPHA] How often it was seen to that all is published.
# TYPE root_ca_cert_publisher_sync_total counter
root_ca_cert_publisher_sync_total{code="200"} 1
root_ca_cert_publisher_sync_total{code="409"} 1
root_ca_cert_publisher_sync_total{code="500"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "root_ca_cert_publisher_sync_total"); err != nil {
		t.Error(err)
	}
}
