// SPDX-License-Identifier: Apache-2.0

// Package podresources tells programs on this node, such as monitors of GPUs, which pod has which devices and CPUs: the
// pod resources API (v1, v1alpha1) at <root>/pod-resources/kubelet.sock. It only reads.
// Reference: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#monitoring-device-plugin-resources
package podresources

import (
	"context"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	apiv1alpha1 "k8s.io/kubelet/pkg/apis/podresources/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/devices"
	"github.com/skiff-k8s/skiff/kubelet/dra"
	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
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
	socket  string
	node    Node
	metrics *metrics.Metrics
}

// New makes a Server in the kubelet's root.
func New(root string, node Node, counts *metrics.Metrics) *Server {
	return &Server{socket: filepath.Join(root, "pod-resources", "kubelet.sock"), node: node, metrics: counts}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	err := localgrpc.Serve(ctx, s.socket, func(server *grpc.Server) {
		api.RegisterPodResourcesListerServer(server, s)
		apiv1alpha1.RegisterPodResourcesListerServer(server, old{server: s})
	}, grpc.ChainUnaryInterceptor(localgrpc.Limit(), s.count))
	if err != nil {
		return fmt.Errorf("serve pod resources: %w", err)
	}
	return nil
}

// count counts a call, by its method such as "/v1.PodResourcesLister/List".
func (s *Server) count(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	version, _, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), ".")
	s.metrics.PodResources.WithLabelValues(version).Inc()
	of := s.metrics.PodResourcesOf[path.Base(info.FullMethod)]
	of.Asked.WithLabelValues(version).Inc()
	response, err := handle(ctx, request)
	if err != nil {
		of.Failed.WithLabelValues(version).Inc()
	}
	return response, err
}

// old is the API's first version, which only lists devices.
type old struct {
	apiv1alpha1.UnimplementedPodResourcesListerServer
	server *Server
}

// List tells which devices all pods have.
func (o old) List(ctx context.Context, _ *apiv1alpha1.ListPodResourcesRequest) (*apiv1alpha1.ListPodResourcesResponse, error) {
	all, err := o.server.List(ctx, nil)
	resp := &apiv1alpha1.ListPodResourcesResponse{}
	for _, pod := range all.GetPodResources() {
		p := &apiv1alpha1.PodResources{Name: pod.Name, Namespace: pod.Namespace}
		for _, c := range pod.Containers {
			var devices []*apiv1alpha1.ContainerDevices
			for _, d := range c.Devices {
				devices = append(devices, &apiv1alpha1.ContainerDevices{ResourceName: d.ResourceName, DeviceIds: d.DeviceIds})
			}
			p.Containers = append(p.Containers, &apiv1alpha1.ContainerResources{Name: c.Name, Devices: devices})
		}
		resp.PodResources = append(resp.PodResources, p)
	}
	return resp, err
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
