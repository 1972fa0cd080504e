// SPDX-License-Identifier: Apache-2.0

// Package devices hands out the devices that device plugins offer (API v1beta1).
//
// A plugin registers at <root>/device-plugins/kubelet.sock and serves at a socket beside it. What it lists becomes a
// resource of the node; when it goes away its devices are unhealthy, and the resource is dropped five minutes later.
// A pod is given its devices when it is admitted; which, and what the plugin wants of its containers, lies in a file
// beside the socket, so that a new process knows it. choose.go decides without I/O who gets which device.
// Reference: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

const (
	socketName      = "kubelet.sock"
	gracePeriod     = 5 * time.Minute // a plugin that restarts gets its resource back
	dialTimeout     = 10 * time.Second
	allocateTimeout = 30 * time.Second
)

// Manager knows all devices of a node and who has them.
type Manager struct {
	api.UnimplementedRegistrationServer

	dir     string
	metrics *metrics.Metrics
	changed func()
	wake    func(types.UID)

	plugins sync.WaitGroup

	mu     sync.Mutex
	ctx    context.Context      // guarded by mu: that of Run
	offers map[string]*offer    // guarded by mu: by resource
	given  map[types.UID]*Given // guarded by mu
}

// offer is one resource.
type offer struct {
	plugin  api.DevicePluginClient // nil while there is none
	stop    context.CancelFunc     // ends the connection
	options *api.DevicePluginOptions
	devices map[string]*api.Device
	lost    *time.Timer // drops the resource when the plugin stays away
	gone    bool        // it is dropped: the node has none any more
}

// Given is what a pod has: by container, and there by resource.
type Given struct {
	Containers map[string]map[string]Assignment `json:"containers"`
}

// Assignment is some devices of one resource in a container, and what the plugin wants the container to have for them.
type Assignment struct {
	IDs      []string                       `json:"ids"`
	Response *api.ContainerAllocateResponse `json:"-"`
	Encoded  []byte                         `json:"response"` // Response
}

// New makes a Manager in the kubelet's root. changed is called when Resources has another answer, and wake for pods whose
// devices have another health; they must not block.
func New(root string, counts *metrics.Metrics, changed func(), wake func(types.UID)) *Manager {
	return &Manager{dir: filepath.Join(root, "device-plugins"), metrics: counts, changed: changed, wake: wake, offers: map[string]*offer{}, given: map[types.UID]*Given{}}
}

// Run lets plugins register until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	err := m.removeSockets()
	if err == nil {
		err = localgrpc.Serve(ctx, filepath.Join(m.dir, socketName), func(server *grpc.Server) { api.RegisterRegistrationServer(server, m) })
	}
	m.plugins.Wait()
	if err != nil {
		return fmt.Errorf("serve the registration of device plugins: %w", err)
	}
	return nil
}

// removeSockets takes away ours, which plugins take as the sign to register again, and theirs, as they expect.
func (m *Manager) removeSockets() error {
	entries, err := os.ReadDir(m.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 {
			if err := os.Remove(filepath.Join(m.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Register takes a plugin. It is called by the plugin.
func (m *Manager) Register(ctx context.Context, r *api.RegisterRequest) (*api.Empty, error) {
	m.metrics.DeviceRegistered.WithLabelValues(r.ResourceName).Inc()
	if !slices.Contains(api.SupportedVersions[:], r.Version) {
		return nil, fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", r.Version, api.SupportedVersions)
	}
	if !isExtended(r.ResourceName) {
		return nil, fmt.Errorf("the ResourceName %q is invalid", r.ResourceName)
	}
	if r.Endpoint == "" || r.Endpoint != filepath.Base(r.Endpoint) {
		return nil, fmt.Errorf("the endpoint %q is not the name of a socket in %s", r.Endpoint, m.dir)
	}
	conn, err := localgrpc.Client(filepath.Join(m.dir, r.Endpoint), dialTimeout)
	if err != nil {
		return nil, fmt.Errorf("connect to device plugin: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return nil, m.ctx.Err()
	}
	o := m.offers[r.ResourceName]
	if o == nil {
		o = &offer{devices: map[string]*api.Device{}}
		m.offers[r.ResourceName] = o
	}
	if o.stop != nil {
		o.stop()
	}
	if o.lost != nil {
		o.lost.Stop()
	}
	following, stop := context.WithCancel(m.ctx)
	o.plugin, o.stop, o.options, o.gone = api.NewDevicePluginClient(conn), stop, r.Options, false
	plugin := o.plugin
	m.plugins.Go(func() {
		defer conn.Close()
		defer stop()
		err := m.follow(following, r.ResourceName, plugin)
		klog.FromContext(following).Info("Device plugin is gone", "resource", r.ResourceName, "err", err)
		m.lose(r.ResourceName, plugin)
	})
	klog.FromContext(ctx).Info("Device plugin registered", "resource", r.ResourceName, "endpoint", r.Endpoint)
	return &api.Empty{}, nil
}

// isExtended says whether a resource is one that plugins may offer.
func isExtended(name string) bool {
	prefix, _, qualified := strings.Cut(name, "/")
	native := prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io") || strings.HasPrefix(name, v1.DefaultResourceRequestsPrefix)
	return qualified && !native && len(validation.IsQualifiedName(name)) == 0
}

// follow takes the lists of devices that a plugin sends.
func (m *Manager) follow(ctx context.Context, name string, plugin api.DevicePluginClient) error {
	stream, err := plugin.ListAndWatch(ctx, &api.Empty{})
	if err != nil {
		return err
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			return err
		}
		devices := map[string]*api.Device{}
		for _, d := range list.Devices {
			devices[d.ID] = d
		}
		m.mu.Lock()
		o := m.offers[name]
		var users []types.UID
		current := o != nil && o.plugin == plugin
		if current {
			users = m.usersLocked(name, differ(o.devices, devices))
			o.devices = devices
		}
		m.mu.Unlock()
		if current {
			m.tell(users)
		}
	}
}

// lose takes note that a plugin is gone, unless there is another already.
func (m *Manager) lose(name string, plugin api.DevicePluginClient) {
	m.mu.Lock()
	o := m.offers[name]
	var users []types.UID
	current := o.plugin == plugin
	if current {
		o.plugin = nil
		users = m.usersLocked(name, slices.Collect(maps.Keys(o.devices)))
		for id, d := range o.devices {
			o.devices[id] = &api.Device{ID: d.ID, Health: api.Unhealthy, Topology: d.Topology}
		}
		if m.ctx.Err() == nil {
			o.lost = time.AfterFunc(gracePeriod, func() { m.drop(name) })
		}
	}
	m.mu.Unlock()
	if current {
		m.tell(users)
	}
}

func (m *Manager) drop(name string) {
	m.mu.Lock()
	o := m.offers[name]
	dropped := o.plugin == nil
	if dropped {
		o.gone, o.devices = true, map[string]*api.Device{}
	}
	m.mu.Unlock()
	if dropped {
		m.changed()
	}
}

// Resources are what plugins offer: all devices, and those that are healthy. A resource that was dropped is zero.
func (m *Manager) Resources() (capacity, allocatable v1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	for name, o := range m.offers {
		capacity[v1.ResourceName(name)] = *resource.NewQuantity(int64(len(o.devices)), resource.DecimalSI)
		allocatable[v1.ResourceName(name)] = *resource.NewQuantity(int64(len(o.healthy())), resource.DecimalSI)
	}
	return capacity, allocatable
}

func (o *offer) healthy() map[string]*api.Device {
	healthy := maps.Clone(o.devices)
	maps.DeleteFunc(healthy, func(_ string, d *api.Device) bool { return d.Health != api.Healthy })
	return healthy
}

// Giving gives devices to the containers of one pod that is being admitted, in their order. Nothing is noted before Commit.
// There can be one at a time.
type Giving struct {
	m        *Manager
	pod      *v1.Pod
	given    *Given
	reusable map[string][]string // of init containers that will have ended, by resource
}

// Begin begins to give.
func (m *Manager) Begin(pod *v1.Pod) *Giving {
	return &Giving{m: m, pod: pod, given: &Given{Containers: map[string]map[string]Assignment{}}, reusable: map[string][]string{}}
}

// Wants are how many devices of each resource of a plugin a container is to have.
func (g *Giving) Wants(c *v1.Container) map[string]int {
	wants := map[string]int{}
	for name, q := range c.Resources.Limits {
		if offered, count := string(name), int(q.Value()); count > 0 && g.m.offered(offered) {
			wants[offered] = count
		}
	}
	return wants
}

// Hints says on which NUMA nodes so many devices of a resource can be given. Where they are is nothing to a resource whose
// plugin does not say it.
func (g *Giving) Hints(name string, count int, nodes numa.Mask) numa.Hints {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	o := g.m.offers[name]
	if o == nil || !o.placed() {
		return nil
	}
	taken := g.m.takenLocked(name, g.given)
	free := o.healthy()
	maps.DeleteFunc(free, func(id string, _ *api.Device) bool { return taken[id] && !slices.Contains(g.reusable[name], id) })
	in := func(devices map[string]*api.Device) func(numa.Mask) int {
		return func(m numa.Mask) (n int) {
			for _, d := range devices {
				if place(d)&m != 0 {
					n++
				}
			}
			return n
		}
	}
	return numa.Possible(nodes, count, in(o.devices), in(free))
}

// placed says whether the plugin says of any device where it is.
func (o *offer) placed() bool {
	for _, d := range o.devices {
		if place(d) != 0 {
			return true
		}
	}
	return false
}

// place is where a device is, if its plugin says it.
func place(d *api.Device) (m numa.Mask) {
	for _, node := range d.GetTopology().GetNodes() {
		m |= numa.Of(int(node.GetID()))
	}
	return m
}

// Give gives a container its devices, of those that are near if those are enough; those of one that ends can go to later ones too.
func (g *Giving) Give(ctx context.Context, c *v1.Container, ends bool, near numa.Mask) error {
	for name, count := range g.Wants(c) {
		a, err := g.m.assign(ctx, name, count, g.reusable[name], g.given, near)
		if err != nil {
			return fmt.Errorf("Allocate failed due to %w, which is unexpected", err) //nolint:staticcheck // upstream's words
		}
		if g.given.Containers[c.Name] == nil {
			g.given.Containers[c.Name] = map[string]Assignment{}
		}
		g.given.Containers[c.Name][name] = a
		if ends {
			g.reusable[name] = union(g.reusable[name], a.IDs)
		} else {
			g.reusable[name] = slices.DeleteFunc(g.reusable[name], func(id string) bool { return slices.Contains(a.IDs, id) })
		}
	}
	return nil
}

// Commit notes what was given, also when that is nothing of something.
func (g *Giving) Commit() error {
	if len(g.given.Containers) == 0 {
		return nil
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.given[g.pod.UID] = g.given
	return g.m.save()
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func (m *Manager) offered(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.offers[name] != nil
}

// assign chooses devices for a container and asks the plugin for them.
func (m *Manager) assign(ctx context.Context, name string, count int, reusable []string, given *Given, near numa.Mask) (a Assignment, err error) {
	m.mu.Lock()
	o := m.offers[name]
	all := o.healthy()
	plugin, options, healthy := o.plugin, o.options, slices.Sorted(maps.Keys(all))
	taken := m.takenLocked(name, given)
	m.mu.Unlock()
	if len(healthy) == 0 || plugin == nil {
		return a, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
	}
	free := slices.DeleteFunc(healthy, func(id string) bool { return taken[id] && !slices.Contains(reusable, id) })
	must := slices.DeleteFunc(slices.Clone(free), func(id string) bool { return !slices.Contains(reusable, id) })
	must = must[:min(len(must), count)]
	if len(free) < count {
		return a, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, count, len(free))
	}
	free = byPlace(free, all, near, count, must)
	ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	var preferred []string
	if options.GetGetPreferredAllocationAvailable() && len(must) < count {
		resp, err := plugin.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs: free, MustIncludeDeviceIDs: must, AllocationSize: int32(count),
		}}})
		if err != nil {
			return a, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
		}
		if answers := resp.GetContainerResponses(); len(answers) > 0 {
			preferred = answers[0].DeviceIDs
		}
	}
	a.IDs = choose(free, must, preferred, count)
	began := time.Now()
	resp, err := plugin.Allocate(ctx, &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: a.IDs}}})
	m.metrics.DeviceAllocation.WithLabelValues(name).Observe(time.Since(began).Seconds())
	if err != nil {
		return a, err
	}
	if len(resp.GetContainerResponses()) == 0 {
		return a, errors.New("no containers return in allocation response " + resp.String())
	}
	a.Response = resp.ContainerResponses[0]
	return a, nil
}

// takenLocked are the devices that pods have, and those that one is being given. The caller holds mu.
func (m *Manager) takenLocked(name string, more *Given) map[string]bool {
	taken := map[string]bool{}
	for _, g := range append(slices.Collect(maps.Values(m.given)), more) {
		for _, byResource := range g.Containers {
			for _, id := range byResource[name].IDs {
				taken[id] = true
			}
		}
	}
	return taken
}

// Of is what the plugins want a container to have. Plugins that asked for it are told that it is about to start.
func (m *Manager) Of(ctx context.Context, pod types.UID, container string) ([]*api.ContainerAllocateResponse, error) {
	m.mu.Lock()
	var assigned map[string]Assignment
	if g := m.given[pod]; g != nil {
		assigned = g.Containers[container]
	}
	offers := map[string]offer{}
	for name := range assigned {
		if o := m.offers[name]; o != nil {
			offers[name] = *o
		}
	}
	m.mu.Unlock()
	var all []*api.ContainerAllocateResponse
	for _, name := range slices.Sorted(maps.Keys(assigned)) {
		o := offers[name]
		if o.plugin != nil && o.options.GetPreStartRequired() {
			starting, cancel := context.WithTimeout(ctx, api.KubeletPreStartContainerRPCTimeoutInSecs*time.Second)
			_, err := o.plugin.PreStartContainer(starting, &api.PreStartContainerRequest{DevicesIds: assigned[name].IDs})
			cancel()
			if err != nil {
				return nil, fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
			}
		}
		all = append(all, assigned[name].Response)
	}
	return all, nil
}

// All are the healthy devices by resource.
func (m *Manager) All() map[string][]*api.Device {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string][]*api.Device{}
	for name, o := range m.offers {
		healthy := o.healthy()
		for _, id := range slices.Sorted(maps.Keys(healthy)) {
			all[name] = append(all[name], healthy[id])
		}
	}
	return all
}

// Assigned are the devices of a pod: by container, and there by resource.
func (m *Manager) Assigned(pod types.UID) map[string]map[string][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]map[string][]string{}
	if g := m.given[pod]; g != nil {
		for container, byResource := range g.Containers {
			all[container] = map[string][]string{}
			for name, a := range byResource {
				all[container][name] = a.IDs
			}
		}
	}
	return all
}

// Forget takes the devices of a pod back, once its containers have ended.
func (m *Manager) Forget(pod types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.given[pod] == nil {
		return nil
	}
	delete(m.given, pod)
	return m.save()
}
