// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// text is a usage in order, without what is zero.
func text(l corev1.ResourceList) string {
	var parts []string
	for name, q := range l {
		if !q.IsZero() {
			parts = append(parts, fmt.Sprintf("%s=%s", name, q.String()))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func TestUsage(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: list("cpu", "1", "example.com/gpu", "2", "hugepages-2Mi", "4Mi"), Limits: list("memory", "1Gi")}}}}}
		change(p)
		return p
	}
	service := func(spec corev1.ServiceSpec) *corev1.Service { return &corev1.Service{Spec: spec} }
	ports := []corev1.ServicePort{{Port: 1}, {Port: 2, NodePort: 30000}}
	claim := func(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")}}}
		change(c)
		return c
	}
	for _, tc := range []struct {
		name string
		e    *evaluator
		item runtime.Object
		want string
	}{
		{"pod", podEvaluator(nil), pod(func(*corev1.Pod) {}),
			"count/pods=1 cpu=1 hugepages-2Mi=4Mi limits.memory=1Gi pods=1 requests.cpu=1 requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi"},
		{"sidecar and init container", podEvaluator(nil), pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("cpu", "1")}
			p.Spec.InitContainers = []corev1.Container{
				{RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Resources: corev1.ResourceRequirements{Requests: list("cpu", "1")}},
				{Resources: corev1.ResourceRequirements{Requests: list("cpu", "4")}}}
		}), "count/pods=1 cpu=5 pods=1 requests.cpu=5"},
		{"pod that has ended", podEvaluator(nil), pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "count/pods=1"},
		{"pod on a lost node", podEvaluator(nil), pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(time.Now().Add(-time.Minute))), ptr.To[int64](30)
		}), "count/pods=1"},
		{"ClusterIP", serviceEvaluator(nil), service(corev1.ServiceSpec{Ports: ports}), "count/services=1 services=1"},
		{"NodePort", serviceEvaluator(nil), service(corev1.ServiceSpec{Type: "NodePort", Ports: ports}), "count/services=1 services.nodeports=2 services=1"},
		{"LoadBalancer", serviceEvaluator(nil), service(corev1.ServiceSpec{Type: "LoadBalancer", Ports: ports}),
			"count/services=1 services.loadbalancers=1 services.nodeports=2 services=1"},
		{"LoadBalancer without ports", serviceEvaluator(nil), service(corev1.ServiceSpec{Type: "LoadBalancer", Ports: ports, AllocateLoadBalancerNodePorts: ptr.To(false)}),
			"count/services=1 services.loadbalancers=1 services.nodeports=1 services=1"},
		{"claim", claimEvaluator(nil), claim(func(*corev1.PersistentVolumeClaim) {}),
			"count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=1Gi"},
		{"claim of a class", claimEvaluator(nil), claim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.StorageClassName = ptr.To("gold")
			c.Status.AllocatedResources = list("storage", "2Gi")
		}), "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi " +
			"persistentvolumeclaims=1 requests.storage=2Gi"},
		{"devices", resourceClaimEvaluator(nil), &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}},
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeAll}},
			{FirstAvailable: []resourcev1.DeviceSubRequest{
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
				{DeviceClassName: "tpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 4},
				{DeviceClassName: "tpu", AllocationMode: "Some", Count: 9},
			}},
		}}}}, "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=32 tpu.deviceclass.resource.k8s.io/devices=4"},
	} {
		usage, err := tc.e.Usage(tc.item)
		if got := text(usage); err != nil || got != tc.want {
			t.Errorf("%s: %s, %v, want %s", tc.name, got, err, tc.want)
		}
		for name := range usage {
			if len(tc.e.MatchingResources([]corev1.ResourceName{name})) != 1 {
				t.Errorf("%s: %s is charged, but not by quotas", tc.name, name)
			}
		}
		if _, err := tc.e.Usage(&corev1.Secret{}); err == nil {
			t.Errorf("%s: another type is no error", tc.name)
		}
	}
}

func TestPodScopes(t *testing.T) {
	bestEffort := &corev1.Pod{Spec: corev1.PodSpec{PriorityClassName: "high", Containers: []corev1.Container{{}}}}
	sized := bestEffort.DeepCopy()
	sized.Spec.Containers[0].Resources.Limits = list("cpu", "1")
	job := bestEffort.DeepCopy()
	job.Spec.ActiveDeadlineSeconds = ptr.To[int64](5)
	near := bestEffort.DeepCopy()
	near.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
		{PodAffinityTerm: corev1.PodAffinityTerm{Namespaces: []string{"other"}}}}}}
	scope := func(name corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: op, Values: values}
	}
	for _, tc := range []struct {
		scope   corev1.ScopedResourceSelectorRequirement
		in, out *corev1.Pod
	}{
		{scope(corev1.ResourceQuotaScopeBestEffort, corev1.ScopeSelectorOpExists), bestEffort, sized},
		{scope(corev1.ResourceQuotaScopeNotBestEffort, corev1.ScopeSelectorOpExists), sized, bestEffort},
		{scope(corev1.ResourceQuotaScopeTerminating, corev1.ScopeSelectorOpExists), job, sized},
		{scope(corev1.ResourceQuotaScopeNotTerminating, corev1.ScopeSelectorOpExists), sized, job},
		{scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "high"), sized, &corev1.Pod{}},
		{scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpExists), sized, &corev1.Pod{}},
		{scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpNotIn, "high"), &corev1.Pod{}, sized},
		{scope(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ScopeSelectorOpExists), near, sized},
	} {
		e := podEvaluator(nil)
		in, err := e.MatchingScopes(tc.in, []corev1.ScopedResourceSelectorRequirement{tc.scope})
		if err != nil || len(in) != 1 {
			t.Errorf("%v: not in it: %v", tc.scope, err)
		}
		out, err := e.MatchingScopes(tc.out, []corev1.ScopedResourceSelectorRequirement{tc.scope})
		if err != nil || len(out) != 0 {
			t.Errorf("%v: in it: %v", tc.scope, err)
		}
	}
}

func TestHandles(t *testing.T) {
	attrs := func(op admission.Operation, subresource string, obj, old runtime.Object) admission.Attributes {
		return admission.NewAttributesRecord(obj, old, corev1.SchemeGroupVersion.WithKind("X"), "ns", "n", corev1.SchemeGroupVersion.WithResource("x"), subresource, op, nil, false, &user.DefaultInfo{})
	}
	job := &corev1.Pod{Spec: corev1.PodSpec{ActiveDeadlineSeconds: ptr.To[int64](5)}}
	grown := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{AllocatedResources: list("storage", "1Gi")}}
	for _, tc := range []struct {
		e    *evaluator
		a    admission.Attributes
		want bool
	}{
		{podEvaluator(nil), attrs(admission.Create, "", &corev1.Pod{}, nil), true},
		{podEvaluator(nil), attrs(admission.Update, "", &corev1.Pod{}, &corev1.Pod{}), false},
		{podEvaluator(nil), attrs(admission.Update, "", job, &corev1.Pod{}), true},
		{podEvaluator(nil), attrs(admission.Update, "resize", &corev1.Pod{}, &corev1.Pod{}), true},
		{podEvaluator(nil), attrs(admission.Update, "status", &corev1.Pod{}, &corev1.Pod{}), false},
		{serviceEvaluator(nil), attrs(admission.Update, "", &corev1.Service{}, &corev1.Service{}), true},
		{serviceEvaluator(nil), attrs(admission.Update, "status", &corev1.Service{}, &corev1.Service{}), false},
		{claimEvaluator(nil), attrs(admission.Update, "status", grown, &corev1.PersistentVolumeClaim{}), true},
		{claimEvaluator(nil), attrs(admission.Update, "status", grown, grown), false},
	} {
		if got := tc.e.Handles(tc.a); got != tc.want {
			t.Errorf("%s %s/%s: %v", tc.a.GetOperation(), tc.e.GroupResource().Resource, tc.a.GetSubresource(), got)
		}
	}
}
