// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// plugin is a device plugin for tests. It prefers the devices with the highest names.
type plugin struct {
	api.UnimplementedDevicePluginServer
	lists   chan []*api.Device
	ended   chan struct{}
	started []string // that PreStartContainer was told
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		select {
		case list := <-p.lists:
			if err := stream.Send(&api.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		case <-p.ended:
			return nil
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (p *plugin) GetPreferredAllocation(_ context.Context, r *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	ids := slices.Clone(r.ContainerRequests[0].AvailableDeviceIDs)
	slices.Sort(ids)
	slices.Reverse(ids)
	return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{{DeviceIDs: ids[:r.ContainerRequests[0].AllocationSize]}}}, nil
}

func (p *plugin) Allocate(_ context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{{
		Envs: map[string]string{"DEVICES": strings.Join(r.ContainerRequests[0].DevicesIds, ",")},
	}}}, nil
}

func (p *plugin) PreStartContainer(_ context.Context, r *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	p.started = append(p.started, r.DevicesIds...)
	return &api.PreStartContainerResponse{}, nil
}

// offer starts a plugin and registers it.
func (n *node) offer(t *testing.T, name string, options *api.DevicePluginOptions, devices ...*api.Device) *plugin {
	t.Helper()
	p := &plugin{lists: make(chan []*api.Device, 10), ended: make(chan struct{})}
	listener, err := net.Listen("unix", filepath.Join(n.root, "device-plugins", "test.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go func() { _ = server.Serve(listener) }()
	go func() { <-p.ended; server.Stop() }()
	p.lists <- devices
	if err := n.register(t, &api.RegisterRequest{Version: api.Version, Endpoint: "test.sock", ResourceName: name, Options: options}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (n *node) register(t *testing.T, r *api.RegisterRequest) error {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.root, "device-plugins", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(t.Context(), r, grpc.WaitForReady(true))
	return err
}

// node is a Manager that runs.
type node struct {
	*Manager
	root    string
	changed chan struct{}
	woken   chan types.UID
	stop    func()
}

func start(t *testing.T, root string) *node {
	t.Helper()
	n := &node{root: root, changed: make(chan struct{}, 100), woken: make(chan types.UID, 100)}
	n.Manager = New(root, metrics.New("n1"), func() { n.changed <- struct{}{} }, func(uid types.UID) { n.woken <- uid })
	if err := n.Load(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	n.stop = func() { cancel(); <-done }
	t.Cleanup(n.stop)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) { // until plugins may register
		n.mu.Lock()
		up := n.ctx != nil
		n.mu.Unlock()
		if up {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Run has not begun")
		}
	}
	return n
}

// has waits until the node has so many devices, and so many that are healthy.
func (n *node) has(t *testing.T, name v1.ResourceName, capacity, usable int64) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		all, healthy := n.Resources()
		c, u := all[name], healthy[name]
		if c.Value() == capacity && u.Value() == usable {
			return
		}
		select {
		case <-n.changed:
		case <-deadline:
			t.Fatalf("the node has %d devices, %d healthy; want %d and %d", c.Value(), u.Value(), capacity, usable)
		}
	}
}

// allocate gives a pod what its containers ask for, near some NUMA nodes.
func (n *node) allocate(ctx context.Context, pod *v1.Pod, near ...int) error {
	g := n.Begin(pod)
	for i := range pod.Spec.InitContainers {
		if err := g.Give(ctx, &pod.Spec.InitContainers[i], true, numa.Of(near...)); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := g.Give(ctx, &pod.Spec.Containers[i], false, numa.Of(near...)); err != nil {
			return err
		}
	}
	return g.Commit()
}

func pod(uid string, name v1.ResourceName, counts ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: uid, UID: types.UID(uid)}}
	for i, count := range counts {
		c := v1.Container{Name: string(rune('a' + i)), Resources: v1.ResourceRequirements{Limits: v1.ResourceList{name: resource.MustParse(count)}}}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func (n *node) env(t *testing.T, uid, container string) string {
	t.Helper()
	responses, err := n.Of(t.Context(), types.UID(uid), container)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range responses {
		all = append(all, r.Envs["DEVICES"])
	}
	return strings.Join(all, ";")
}

func device(id, health string) *api.Device { return &api.Device{ID: id, Health: health} }

// Devices come, are given away, stay with their pods over a restart, and are taken back.
func TestDevices(t *testing.T) {
	const name = "example.org/gpu"
	n := start(t, t.TempDir())
	options := &api.DevicePluginOptions{GetPreferredAllocationAvailable: true, PreStartRequired: true}
	p := n.offer(t, name, options, device("d1", api.Healthy), device("d2", api.Healthy), device("d3", api.Healthy), device("d4", api.Unhealthy))
	n.has(t, name, 4, 3)
	if err := n.allocate(t.Context(), pod("p0", "example.org/unknown", "1")); err != nil {
		t.Errorf("a resource that no plugin offers: %v", err)
	}
	if err := n.allocate(t.Context(), pod("p1", name, "1", "1")); err != nil {
		t.Fatal(err)
	}
	if a, b := n.env(t, "p1", "a"), n.env(t, "p1", "b"); a != "d3" || b != "d2" {
		t.Errorf("the containers have %s and %s, want those that the plugin prefers, d3 and d2", a, b)
	}
	if !slices.Equal(p.started, []string{"d3", "d2"}) {
		t.Errorf("the plugin was told that %v start", p.started)
	}
	err := n.allocate(t.Context(), pod("p2", name, "2"))
	if want := "Allocate failed due to requested number of devices unavailable for example.org/gpu. Requested: 2, Available: 1, which is unexpected"; err == nil || err.Error() != want {
		t.Errorf("more than there is: %v", err)
	}

	n.stop() // another process
	n = start(t, n.root)
	n.has(t, name, 0, 0)
	if got := n.env(t, "p1", "a"); got != "d3" {
		t.Errorf("after a restart the container has %q", got)
	}
	if err := n.allocate(t.Context(), pod("p3", name, "1")); err == nil || !strings.Contains(err.Error(), "no healthy devices present") {
		t.Errorf("before the plugin is back: %v", err)
	}
	p = n.offer(t, name, nil, device("d1", api.Healthy), device("d2", api.Healthy), device("d3", api.Healthy))
	n.has(t, name, 3, 3)
	if err := n.Forget("p1"); err != nil {
		t.Fatal(err)
	}
	if err := n.allocate(t.Context(), pod("p4", name, "3")); err != nil {
		t.Errorf("after a pod has ended: %v", err)
	}
	p.lists <- []*api.Device{device("d1", api.Unhealthy), device("d2", api.Healthy)}
	n.has(t, name, 2, 1)
	close(p.ended)
	n.has(t, name, 2, 0)
}

// Init containers' devices go to later ones.
func TestInitContainersReuse(t *testing.T) {
	const name = "example.org/gpu"
	n := start(t, t.TempDir())
	n.offer(t, name, nil, device("d1", api.Healthy), device("d2", api.Healthy))
	n.has(t, name, 2, 2)
	p := pod("p1", name, "1")
	p.Spec.InitContainers = pod("", name, "2").Spec.Containers
	p.Spec.InitContainers[0].Name = "init"
	if err := n.allocate(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := n.env(t, "p1", "a"); got != "d1" {
		t.Errorf("the container has %q", got)
	}
}

// Devices come from near NUMA nodes, as far as they go.
func TestNear(t *testing.T) {
	const name = "example.org/gpu"
	at := func(id string, nodes ...int64) *api.Device {
		d := device(id, api.Healthy)
		d.Topology = &api.TopologyInfo{}
		for _, n := range nodes {
			d.Topology.Nodes = append(d.Topology.Nodes, &api.NUMANode{ID: n})
		}
		return d
	}
	n := start(t, t.TempDir())
	n.offer(t, name, nil, at("d1", 0), at("d2", 0), at("d3", 1), at("d4", 1), at("d5"))
	n.has(t, name, 5, 5)
	hints := func(count int) string { return fmt.Sprint(n.Begin(pod("p", name)).Hints(name, count, numa.Of(0, 1))) }
	if got := hints(2); got != "[{1 true} {2 true} {3 false}]" {
		t.Errorf("Hints(2) = %s", got)
	}
	if err := n.allocate(t.Context(), pod("p1", name, "1"), 1); err != nil {
		t.Fatal(err)
	}
	if got := n.env(t, "p1", "a"); got != "d3" {
		t.Errorf("one near the second node is %s, want d3", got)
	}
	if got := hints(2); got != "[{1 true} {3 false}]" {
		t.Errorf("then Hints(2) = %s", got)
	}
	if err := n.allocate(t.Context(), pod("p2", name, "2"), 1); err != nil {
		t.Fatal(err)
	}
	if got := n.env(t, "p2", "a"); got != "d4,d5" {
		t.Errorf("two near the second node are %s, want d4 and the one that is nowhere", got)
	}
	if got := n.Begin(pod("p", "example.org/other")).Hints("example.org/other", 1, numa.Of(0, 1)); got != nil {
		t.Errorf("hints for what nobody offers: %v", got)
	}
}

func TestRegisterRefuses(t *testing.T) {
	n := start(t, t.TempDir())
	for _, r := range []*api.RegisterRequest{
		{Version: "v0", Endpoint: "a.sock", ResourceName: "example.org/gpu"},
		{Version: api.Version, Endpoint: "a.sock", ResourceName: "cpu"},
		{Version: api.Version, Endpoint: "a.sock", ResourceName: "kubernetes.io/gpu"},
		{Version: api.Version, Endpoint: "../a.sock", ResourceName: "example.org/gpu"},
	} {
		if err := n.register(t, r); err == nil {
			t.Errorf("%v was registered", r)
		}
	}
	if _, err := os.Stat(filepath.Join(n.root, "device-plugins", "allocations.json")); err == nil {
		t.Error("a file was written for nothing")
	}
}
