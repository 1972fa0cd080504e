// SPDX-License-Identifier: Apache-2.0

// Package podresources tells programs on this node, such as monitors of GPUs, which pod has which devices and CPUs: the
// pod resources API (v1) at <root>/pod-resources/kubelet.sock. It only reads.
// Reference: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#monitoring-device-plugin-resources
package podresources

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/devices"
	"github.com/skiff-k8s/skiff/kubelet/dra"
	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
	"github.com/skiff-k8s/skiff/kubelet/memory"
)

// Node has what is told.
type Node struct {
	Pods    func() []*v1.Pod // that hold resources
	Devices *devices.Manager
	Claims  *dra.Manager
	CPUs    func() *cpus.Manager   // nil: containers have no CPUs of their own
	Memory  func() *memory.Manager // nil: they have memory of any node
}

// Server serves the API.
type Server struct {
	api.UnimplementedPodResourcesListerServer
	socket string
	node   Node
}

// New makes a Server in the kubelet's root.
func New(root string, node Node) *Server {
	return &Server{socket: filepath.Join(root, "pod-resources", "kubelet.sock"), node: node}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	err := localgrpc.Serve(ctx, s.socket, func(server *grpc.Server) { api.RegisterPodResourcesListerServer(server, s) })
	if err != nil {
		return fmt.Errorf("serve pod resources: %w", err)
	}
	return nil
}

// List tells what all pods have.
func (s *Server) List(context.Context, *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	resp := &api.ListPodResourcesResponse{}
	for _, pod := range s.node.Pods() {
		resp.PodResources = append(resp.PodResources, s.of(pod))
	}
	return resp, nil
}

// Get tells what one pod has.
func (s *Server) Get(_ context.Context, r *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	for _, pod := range s.node.Pods() {
		if pod.Namespace == r.PodNamespace && pod.Name == r.PodName {
			return &api.GetPodResourcesResponse{PodResources: s.of(pod)}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", r.PodName, r.PodNamespace)
}

// GetAllocatableResources tells what there is to have.
func (s *Server) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	resp := &api.AllocatableResourcesResponse{}
	for name, list := range s.node.Devices.All() {
		for _, d := range list {
			resp.Devices = append(resp.Devices, devicesOf(name, []string{d.ID}, map[string]*deviceplugin.Device{d.ID: d})...)
		}
	}
	if m := s.node.CPUs(); m != nil {
		resp.CpuIds = ids(m.Allocatable().List())
	}
	resp.Memory = memoryOf(s.node.Memory().Allocatable())
	return resp, nil
}

func memoryOf(blocks []memory.Block) []*api.ContainerMemory {
	var all []*api.ContainerMemory
	for _, b := range blocks {
		m := &api.ContainerMemory{MemoryType: string(b.Type), Size: uint64(b.Size), Topology: &api.TopologyInfo{}}
		for _, node := range b.Nodes.List() {
			m.Topology.Nodes = append(m.Topology.Nodes, &api.NUMANode{ID: int64(node)})
		}
		all = append(all, m)
	}
	return all
}

func (s *Server) of(pod *v1.Pod) *api.PodResources {
	resources := &api.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	assigned, known := s.node.Devices.Assigned(pod.UID), map[string]map[string]*deviceplugin.Device{}
	for name, list := range s.node.Devices.All() {
		known[name] = map[string]*deviceplugin.Device{}
		for _, d := range list {
			known[name][d.ID] = d
		}
	}
	add := func(c *v1.Container) {
		r := &api.ContainerResources{Name: c.Name, CpuIds: s.cpusOf(pod.UID, c.Name), DynamicResources: s.claimsOf(pod, c), Memory: memoryOf(s.node.Memory().Of(pod.UID, c.Name))}
		for _, name := range slices.Sorted(maps.Keys(assigned[c.Name])) {
			r.Devices = append(r.Devices, devicesOf(name, assigned[c.Name][name], known[name])...)
		}
		resources.Containers = append(resources.Containers, r)
	}
	for i := range pod.Spec.InitContainers { // the others end before the pod runs
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return resources
}

// devicesOf groups devices of a resource by where they are.
func devicesOf(name string, has []string, known map[string]*deviceplugin.Device) []*api.ContainerDevices {
	var all []*api.ContainerDevices
	for _, id := range has {
		d := &api.ContainerDevices{ResourceName: name, DeviceIds: []string{id}}
		if nodes := known[id].GetTopology().GetNodes(); len(nodes) > 0 {
			d.Topology = &api.TopologyInfo{}
			for _, n := range nodes {
				d.Topology.Nodes = append(d.Topology.Nodes, &api.NUMANode{ID: n.ID})
			}
		}
		all = append(all, d)
	}
	return all
}

func (s *Server) cpusOf(pod types.UID, container string) []int64 {
	m := s.node.CPUs()
	if m == nil {
		return nil
	}
	return ids(m.Exclusive(pod, container).List())
}

func ids(list []int) []int64 {
	var all []int64
	for _, n := range list {
		all = append(all, int64(n))
	}
	return all
}

func (s *Server) claimsOf(pod *v1.Pod, c *v1.Container) []*api.DynamicResource {
	var all []*api.DynamicResource
	for _, claim := range s.node.Claims.Of(pod, c) {
		r := &api.DynamicResource{ClaimName: claim.Name, ClaimNamespace: claim.Namespace}
		for _, d := range claim.Devices {
			resource := &api.ClaimResource{DriverName: d.Driver, PoolName: d.Pool, DeviceName: d.Name, ShareId: d.Share}
			for _, name := range d.CDI {
				resource.CdiDevices = append(resource.CdiDevices, &api.CDIDevice{Name: name})
			}
			r.ClaimResources = append(r.ClaimResources, resource)
		}
		all = append(all, r)
	}
	return all
}
