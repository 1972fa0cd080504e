// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// What pods ask for is shown with its unit; what ended pods asked for is not.
func TestResources(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec: corev1.PodSpec{NodeName: "n", SchedulerName: "s", Priority: ptr.To[int32](7), Containers: []corev1.Container{{
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{
						"cpu": resource.MustParse("250m"), "memory": resource.MustParse("1Ki"), "hugepages-2Mi": resource.MustParse("2Mi"),
						"example.com/gpu": resource.MustParse("2"), "attachable-volumes-x": resource.MustParse("3"), "ephemeral-storage": resource.MustParse("0"),
					},
					Limits: corev1.ResourceList{"cpu": resource.MustParse("1")},
				},
			}}},
			Status: corev1.PodStatus{Phase: phase},
		}
	}
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, p := range []*corev1.Pod{pod("runs", corev1.PodRunning), pod("ended", corev1.PodSucceeded)} {
		if err := pods.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	answer := httptest.NewRecorder()
	NewResources(corelisters.NewPodLister(pods)).Handler().ServeHTTP(answer, httptest.NewRequest("GET", ResourcesPath, nil))
	body := answer.Body.String()
	for _, want := range []string{
		`kube_pod_resource_limit{namespace="ns",node="n",pod="runs",priority="7",resource="cpu",scheduler="s",unit="cores"} 1`,
		`kube_pod_resource_request{namespace="ns",node="n",pod="runs",priority="7",resource="attachable-volumes-x",scheduler="s",unit="integer"} 3`,
		`kube_pod_resource_request{namespace="ns",node="n",pod="runs",priority="7",resource="cpu",scheduler="s",unit="cores"} 0.25`,
		`kube_pod_resource_request{namespace="ns",node="n",pod="runs",priority="7",resource="example.com/gpu",scheduler="s",unit=""} 2`,
		`kube_pod_resource_request{namespace="ns",node="n",pod="runs",priority="7",resource="hugepages-2Mi",scheduler="s",unit="bytes"} 2.097152e+06`,
		`kube_pod_resource_request{namespace="ns",node="n",pod="runs",priority="7",resource="memory",scheduler="s",unit="bytes"} 1024`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
	for _, not := range []string{"ended", "ephemeral-storage"} {
		if strings.Contains(body, not) {
			t.Errorf("%s is among\n%s", not, body)
		}
	}
}
