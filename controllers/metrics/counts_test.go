// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	claimmetrics "k8s.io/dynamic-resource-allocation/resourceclaim/metrics"
	"k8s.io/utils/ptr"
)

// Objects are counted by what matters of them, when somebody asks.
func TestCounts(t *testing.T) {
	volume := func(phase corev1.PersistentVolumePhase, source corev1.PersistentVolumeSource, mode corev1.PersistentVolumeMode) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{
			Spec:   corev1.PersistentVolumeSpec{StorageClassName: "fast", PersistentVolumeSource: source, VolumeMode: &mode},
			Status: corev1.PersistentVolumeStatus{Phase: phase},
		}
	}
	device := func(admin bool, allocated *resourcev1.AllocationResult, annotations map[string]string) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Annotations: annotations},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
				{Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: &admin}},
			}}},
			Status: resourcev1.ResourceClaimStatus{Allocation: allocated},
		}
	}
	csi := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "x.io"}}
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{}}
	s := New()
	s.Counts.Volumes = func() []*corev1.PersistentVolume {
		return []*corev1.PersistentVolume{
			volume(corev1.VolumeBound, csi, corev1.PersistentVolumeBlock), volume(corev1.VolumeBound, csi, corev1.PersistentVolumeBlock),
			volume(corev1.VolumeReleased, local, corev1.PersistentVolumeFilesystem),
		}
	}
	s.Counts.Claims = func() []*corev1.PersistentVolumeClaim {
		return []*corev1.PersistentVolumeClaim{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns"},
			Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("fast"), VolumeAttributesClassName: ptr.To("gold")},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}, {ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}}
	}
	s.Counts.ResourceClaims = func() []*resourcev1.ResourceClaim {
		return []*resourcev1.ResourceClaim{
			device(true, nil, nil),
			device(false, &resourcev1.AllocationResult{}, map[string]string{resourcev1.PodResourceClaimAnnotation: "gpu"}),
			device(false, nil, map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}),
		}
	}
	s.Attachment.List = func() (needed, attached []Attachment) {
		return []Attachment{{"n", "x.io"}, {"m", "x.io"}}, []Attachment{{"n", "x.io"}}
	}
	registry := metrics.NewKubeRegistry()
	if err := registry.CustomRegister(s.Counts); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, m := range family.Metric {
			words := []string{family.GetName()}
			for _, label := range m.Label {
				words = append(words, label.GetName()+"="+label.GetValue())
			}
			got = append(got, strings.Join(append(words, strings.Repeat("I", int(m.GetGauge().GetValue()))), " "))
		}
	}
	want := []string{
		"attachdetach_controller_total_volumes plugin_name=kubernetes.io/csi:x.io state=actual_state_of_world I",
		"attachdetach_controller_total_volumes plugin_name=kubernetes.io/csi:x.io state=desired_state_of_world II",
		"dynamic_resource_allocation_resource_claims admin_access=false allocated=false source=extended_resource I",
		"dynamic_resource_allocation_resource_claims admin_access=false allocated=true source=resource_claim_template I",
		"dynamic_resource_allocation_resource_claims admin_access=true allocated=false source= I",
		"pv_collector_bound_pv_count storage_class=fast II",
		"pv_collector_bound_pvc_count namespace=ns storage_class=fast volume_attributes_class=gold I",
		"pv_collector_total_pv_count plugin_name=kubernetes.io/csi:x.io volume_mode=Block II",
		"pv_collector_total_pv_count plugin_name=kubernetes.io/local-volume volume_mode=Filesystem I",
		"pv_collector_unbound_pv_count storage_class=fast I",
		"pv_collector_unbound_pvc_count namespace=ns storage_class= volume_attributes_class= I",
		"storage_count_attachable_volumes_in_use node=m volume_plugin=kubernetes.io/csi:x.io I",
		"storage_count_attachable_volumes_in_use node=n volume_plugin=kubernetes.io/csi:x.io I",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A claim is counted by how it went and who is to have it.
func TestClaimCreated(t *testing.T) {
	s, registry := New(), metrics.NewKubeRegistry()
	if err := s.Register(registry); err != nil {
		t.Fatal(err)
	}
	const name = "dynamic_resource_allocation_resourceclaim_creates_total"
	claimmetrics.ResourceClaimCreate.Reset() // it is the process's
	claim := func(admin bool, apiVersion, kind string) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Controller: ptr.To(true)}}},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
				{Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: &admin}},
			}}},
		}
	}
	ClaimCreated(claim(false, "v1", "Pod"), nil)
	ClaimCreated(claim(true, "scheduling.k8s.io/v1alpha2", "PodGroup"), errors.New("no answer"))
	want := `# HELP dynamic_resource_allocation_resourceclaim_creates_total [ALPHA] Number of ResourceClaims creation requests, categorized by creation status, admin access, and owning API group and kind (either Pod or scheduling.k8s.io/PodGroup)
# TYPE dynamic_resource_allocation_resourceclaim_creates_total counter
dynamic_resource_allocation_resourceclaim_creates_total{admin_access="false",owner_api_group="",owner_api_kind="Pod",status="success"} 1
dynamic_resource_allocation_resourceclaim_creates_total{admin_access="true",owner_api_group="scheduling.k8s.io",owner_api_kind="PodGroup",status="failure"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), name); err != nil {
		t.Error(err)
	}
}
