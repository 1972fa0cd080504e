// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	api "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// gpus is a driver for tests: it prepares two devices for each claim, and records what it is asked.
type gpus struct {
	api.UnimplementedDRAPluginServer
	log  []string
	fail string
}

func (g *gpus) NodePrepareResources(_ context.Context, r *api.NodePrepareResourcesRequest) (*api.NodePrepareResourcesResponse, error) {
	resp := &api.NodePrepareResourcesResponse{Claims: map[string]*api.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		g.log = append(g.log, "prepare "+c.Name)
		resp.Claims[c.Uid] = &api.NodePrepareResourceResponse{Error: g.fail, Devices: []*api.Device{
			{PoolName: "n1", DeviceName: "gpu-0", RequestNames: []string{"big"}, CdiDeviceIds: []string{"example.org/gpu=0"}},
			{PoolName: "n1", DeviceName: "gpu-1", RequestNames: []string{"small/fast"}, CdiDeviceIds: []string{"example.org/gpu=1"}},
		}}
	}
	return resp, nil
}

func (g *gpus) NodeUnprepareResources(_ context.Context, r *api.NodeUnprepareResourcesRequest) (*api.NodeUnprepareResourcesResponse, error) {
	resp := &api.NodeUnprepareResourcesResponse{Claims: map[string]*api.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		g.log = append(g.log, "unprepare "+c.Name)
		resp.Claims[c.Uid] = &api.NodeUnprepareResourceResponse{Error: g.fail}
	}
	return resp, nil
}

func serve(t *testing.T, g *gpus) (endpoint string) {
	t.Helper()
	return serveAPI(t, func(server *grpc.Server) { api.RegisterDRAPluginServer(server, g) })
}

// serveAPI serves what register adds, as a driver does.
func serveAPI(t *testing.T, register func(*grpc.Server)) (endpoint string) {
	t.Helper()
	endpoint = filepath.Join(t.TempDir(), "dra.sock")
	listener, err := net.Listen("unix", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return endpoint
}

// nobody is woken where the health of devices does not matter.
func nobody(types.UID) {}

func claimFor(name string, pods ...types.UID) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
			Results: []resourcev1.DeviceRequestAllocationResult{{Request: "big", Driver: "gpu.example.org", Pool: "n1", Device: "gpu-0"}, {Request: "small/fast", Driver: "gpu.example.org", Pool: "n1", Device: "gpu-1"}},
		}}},
	}
	for _, uid := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: string(uid), UID: uid})
	}
	return c
}

func podWith(uid, claim string, requests ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: uid, UID: types.UID(uid)}}
	p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
	for i, r := range requests {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: string(rune('a' + i)), Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "gpu", Request: r}}}})
	}
	return p
}

func (m *Manager) cdi(pod *v1.Pod, container int) string {
	var names []string
	for _, c := range m.Of(pod, &pod.Spec.Containers[container]) {
		for _, d := range c.Devices {
			names = append(names, d.CDI...)
		}
	}
	return strings.Join(names, " ")
}

// A claim is prepared once for all its pods, also over a restart, and unprepared after the last.
func TestClaim(t *testing.T) {
	client := fake.NewClientset(claimFor("c1", "p1", "p2"))
	root, g, woken := t.TempDir(), &gpus{}, 0
	m := New(client, "n1", root, metrics.New("n1"), func() { woken++ }, nobody)
	p1, p2, stranger := podWith("p1", "c1", "", "big", "small"), podWith("p2", "c1", "big"), podWith("p3", "c1", "")
	if err := m.Prepare(t.Context(), p1); err == nil || err.Error() != "DRA driver gpu.example.org is not registered" {
		t.Errorf("without the driver: %v", err)
	}
	if err := m.Register(t.Context(), "gpu.example.org", "/nowhere", []string{"v0.DRAPlugin"}); err == nil {
		t.Error("a driver of an unknown version was registered")
	}
	if err := m.Register(t.Context(), "gpu.example.org", serve(t, g), []string{api.DRAPluginService}); err != nil || woken != 1 {
		t.Fatalf("register: %v, woken %d times", err, woken)
	}
	if err := m.Prepare(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "is not allowed to use ResourceClaim c1") {
		t.Errorf("a pod for which the claim is not reserved: %v", err)
	}
	g.fail = "out of order"
	if err := m.Prepare(t.Context(), p1); err == nil || err.Error() != "NodePrepareResources failed for ResourceClaim c1: out of order" {
		t.Errorf("a driver that fails: %v", err)
	}
	g.fail = ""
	for _, p := range []*v1.Pod{p1, p1, p2} {
		if err := m.Prepare(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"example.org/gpu=0 example.org/gpu=1", "example.org/gpu=0", "example.org/gpu=1"} {
		if got := m.cdi(p1, i); got != want {
			t.Errorf("container %d has %q, want %q", i, got, want)
		}
	}

	m = New(client, "n1", root, metrics.New("n1"), func() {}, nobody) // another process
	if err := m.Load(); err != nil {
		t.Fatal(err)
	}
	if err := m.Prepare(t.Context(), p1); err != nil || m.cdi(p1, 1) != "example.org/gpu=0" {
		t.Errorf("after a restart: %v, %q", err, m.cdi(p1, 1))
	}
	if err := m.Unprepare(t.Context(), "p1"); err != nil {
		t.Errorf("the claim is still in use, so no driver is needed: %v", err)
	}
	if err := m.Unprepare(t.Context(), "p2"); err == nil {
		t.Error("unprepared without the driver")
	}
	if err := m.Register(t.Context(), "gpu.example.org", serve(t, g), []string{api.DRAPluginService}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Unprepare(t.Context(), "p2"); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"prepare c1", "prepare c1", "unprepare c1"}; !slices.Equal(g.log, want) {
		t.Errorf("the driver was asked %q, want %q", g.log, want)
	}
}

// A claim that is made for a pod is found by the pod's status, and belongs to it.
func TestClaimFromTemplate(t *testing.T) {
	c := claimFor("web-gpu-x", "p1")
	client := fake.NewClientset(c)
	m := New(client, "n1", t.TempDir(), metrics.New("n1"), func() {}, nobody)
	if err := m.Register(t.Context(), "gpu.example.org", serve(t, &gpus{}), []string{api.DRAPluginService}); err != nil {
		t.Fatal(err)
	}
	template := "gpu"
	p := podWith("p1", "", "")
	p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: &template}}
	if err := m.Prepare(t.Context(), p); err == nil || !strings.Contains(err.Error(), "not created yet") {
		t.Errorf("before the claim is made: %v", err)
	}
	p.Status.ResourceClaimStatuses = []v1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: &c.Name}}
	if err := m.Prepare(t.Context(), p); err == nil || !strings.Contains(err.Error(), "pod is not owner") {
		t.Errorf("the claim of another: %v", err)
	}
	yes := true
	c.OwnerReferences = []metav1.OwnerReference{{UID: "p1", Controller: &yes}}
	if _, err := client.ResourceV1().ResourceClaims("default").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Prepare(t.Context(), p); err != nil || m.cdi(p, 0) == "" {
		t.Errorf("its own claim: %v, %q", err, m.cdi(p, 0))
	}
}
