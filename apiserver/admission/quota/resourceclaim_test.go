// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// listing is a lister of these objects.
func listing(t *testing.T, objects ...runtime.Object) func(schema.GroupVersionResource) (cache.GenericLister, error) {
	t.Helper()
	indexers := map[schema.GroupVersionResource]cache.Indexer{}
	for _, gvr := range []schema.GroupVersionResource{Pods, ResourceClaims, DeviceClasses} {
		indexers[gvr] = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	for _, object := range objects {
		gvr := Pods
		switch object.(type) {
		case *resourcev1.ResourceClaim:
			gvr = ResourceClaims
		case *resourcev1.DeviceClass:
			gvr = DeviceClasses
		}
		if err := indexers[gvr].Add(object); err != nil {
			t.Fatal(err)
		}
	}
	return func(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
		return cache.NewGenericLister(indexers[gvr], gvr.GroupResource()), nil
	}
}

// A claim is charged as the extended resources that its class offers, too, less what the pod is charged for which it was made.
func TestExtendedResourceUsage(t *testing.T) {
	gpu := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}}
	nic := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "nic"}}
	created := metav1.Now()
	claim := func(name string, change func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		ask := func(class string, n int64) resourcev1.DeviceRequest {
			return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n}}
		}
		c := &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: "ns", CreationTimestamp: created, Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "1", Controller: ptr.To(true)}},
			},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{ask("gpu", 4), ask("nic", 2)}}},
		}
		if change != nil {
			change(c)
		}
		return c
	}
	pod := func(claim string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "1"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Resources: corev1.ResourceRequirements{Requests: list("example.com/gpu", "1", "deviceclass.resource.kubernetes.io/gpu", "3", "deviceclass.resource.kubernetes.io/nic", "2")},
		}}}}
		if claim != "" {
			p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: claim}
		}
		return p
	}
	const (
		devices = "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=4 nic.deviceclass.resource.k8s.io/devices=2"
		whole   = devices + " requests.deviceclass.resource.kubernetes.io/gpu=4 requests.deviceclass.resource.kubernetes.io/nic=2 requests.example.com/gpu=4"
		rest    = devices + " requests.deviceclass.resource.kubernetes.io/gpu=1 requests.example.com/gpu=3"
	)
	for _, c := range []struct {
		name  string
		known []runtime.Object
		claim *resourcev1.ResourceClaim
		want  string
	}{
		{"no class is known", nil, claim("c", nil), devices},
		{"the pod is gone", []runtime.Object{gpu, nic}, claim("c", nil), whole},
		{"the pod has this claim", []runtime.Object{gpu, nic, pod("c")}, claim("c", nil), rest},
		{"the pod has another", []runtime.Object{gpu, nic, pod("d")}, claim("c", nil), whole},
		{"the pod does not say yet", []runtime.Object{gpu, nic, pod(""), claim("c", nil)}, claim("c", nil), rest},
		{"and there is an older one", []runtime.Object{gpu, nic, pod(""), claim("d", func(c *resourcev1.ResourceClaim) {
			c.CreationTimestamp = metav1.NewTime(created.Add(-time.Second))
		})}, claim("c", nil), whole},
		{"and there is one as old", []runtime.Object{gpu, nic, pod(""), claim("b", nil)}, claim("c", nil), whole},
		{"the user's own claim", []runtime.Object{gpu, nic, pod("c")}, claim("c", func(c *resourcev1.ResourceClaim) { c.Annotations = nil }), whole},
		{"of an earlier pod", []runtime.Object{gpu, nic, pod("c")}, claim("c", func(c *resourcev1.ResourceClaim) { c.OwnerReferences[0].UID = "0" }), whole},
		{"of something else", []runtime.Object{gpu, nic, pod("c")}, claim("c", func(c *resourcev1.ResourceClaim) { c.OwnerReferences[0].Kind = "Job" }), whole},
	} {
		e := resourceClaimEvaluator(listing(t, c.known...))
		usage, err := e.Usage(c.claim)
		if got := text(usage); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
		for name := range usage {
			if len(e.MatchingResources([]corev1.ResourceName{name})) != 1 {
				t.Errorf("%s: %s is charged, but not by quotas", c.name, name)
			}
		}
	}
	e := resourceClaimEvaluator(listing(t, gpu))
	if got := e.MatchingResources([]corev1.ResourceName{"requests.cpu", "requests.example.com/nic", "requests.deviceclass.resource.kubernetes.io/nic"}); len(got) != 0 {
		t.Errorf("claims are charged to %v, which no class offers", got)
	}
}
