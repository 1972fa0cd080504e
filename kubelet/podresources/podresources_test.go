// SPDX-License-Identifier: Apache-2.0

package podresources

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/metrics/testutil"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	apiv1alpha1 "k8s.io/kubelet/pkg/apis/podresources/v1alpha1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/devices"
	"github.com/skiff-k8s/skiff/kubelet/dra"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// A program on the node sees by the socket what pods have.
func TestAPI(t *testing.T) {
	root := t.TempDir()
	amounts := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Mi")}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"}, Spec: v1.PodSpec{
		Containers: []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{Requests: amounts, Limits: amounts}}},
	}}
	pod.Spec.InitContainers = []v1.Container{pod.Spec.Containers[0]}
	pod.Spec.InitContainers[0].Name = "before"
	manager, err := cpus.New(root, cpus.Topology{0: {}, 1: {Core: 1}, 2: {Core: 2}}, 0, cpuset.New(0), cpus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	giving := manager.Begin(pod)
	for i := range pod.Spec.Containers {
		if err := giving.Give(&pod.Spec.Containers[i], false, cpuset.New()); err != nil {
			t.Fatal(err)
		}
	}
	if err := giving.Commit(); err != nil {
		t.Fatal(err)
	}
	state := `{"given":{"uid":{"containers":{"main":{"example.org/gpu":{"ids":["d1"]}}}}},"resources":["example.org/gpu"]}`
	if err := os.MkdirAll(filepath.Join(root, "device-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "device-plugins", "allocations.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	gpus := devices.New(root, metrics.New("n1"), func() {}, func(types.UID) {})
	if err := gpus.Load(); err != nil {
		t.Fatal(err)
	}
	counts := metrics.New("n1")
	s := New(root, Node{
		Pods: func() []*v1.Pod { return []*v1.Pod{pod} }, Devices: gpus, CPUs: func() *cpus.Manager { return manager }, Memory: func() *memory.Manager { return nil },
		Claims: dra.New(fake.NewClientset(), "n1", root, metrics.New("n1"), func() {}, func(types.UID) {}),
	}, counts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := api.NewPodResourcesListerClient(conn)
	list, err := client.List(t.Context(), &api.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil || len(list.PodResources) != 1 || len(list.PodResources[0].Containers) != 1 {
		t.Fatalf("List = %v, %v", list, err)
	}
	got := list.PodResources[0].Containers[0]
	if got.Name != "main" || len(got.CpuIds) != 2 || got.CpuIds[0] != 1 || len(got.Devices) != 1 || got.Devices[0].ResourceName != "example.org/gpu" || got.Devices[0].DeviceIds[0] != "d1" {
		t.Errorf("the container has %v", got)
	}
	if one, err := client.Get(t.Context(), &api.GetPodResourcesRequest{PodNamespace: "default", PodName: "web"}); err != nil || one.PodResources.Name != "web" {
		t.Errorf("Get = %v, %v", one, err)
	}
	if _, err := client.Get(t.Context(), &api.GetPodResourcesRequest{PodNamespace: "default", PodName: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("Get of a pod that is not there: %v", err)
	}
	all, err := client.GetAllocatableResources(t.Context(), &api.AllocatableResourcesRequest{})
	if err != nil || len(all.CpuIds) != 2 {
		t.Errorf("GetAllocatableResources = %v, %v", all, err)
	}
	old, err := apiv1alpha1.NewPodResourcesListerClient(conn).List(t.Context(), &apiv1alpha1.ListPodResourcesRequest{})
	if err != nil || len(old.PodResources) != 1 || len(old.PodResources[0].Containers) != 1 || old.PodResources[0].Containers[0].Devices[0].DeviceIds[0] != "d1" {
		t.Errorf("List of v1alpha1 = %v, %v", old, err)
	}
	want := `
# HELP kubelet_pod_resources_endpoint_errors_get [ALPHA] Requests to Get of the pod resources API that failed.
# TYPE kubelet_pod_resources_endpoint_errors_get counter
kubelet_pod_resources_endpoint_errors_get{server_api_version="v1"} 1
# HELP kubelet_pod_resources_endpoint_requests_total [ALPHA] Requests to the pod resources API, by its version.
# TYPE kubelet_pod_resources_endpoint_requests_total counter
kubelet_pod_resources_endpoint_requests_total{server_api_version="v1"} 4
kubelet_pod_resources_endpoint_requests_total{server_api_version="v1alpha1"} 1
`
	if err := testutil.GatherAndCompare(counts.All, strings.NewReader(want), "kubelet_pod_resources_endpoint_errors_get", "kubelet_pod_resources_endpoint_requests_total"); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
