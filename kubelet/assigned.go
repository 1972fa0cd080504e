// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/admit"
	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/devices"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// assign gives a pod that is being admitted the devices, CPUs and memory that only one can have, on NUMA nodes that suit all of them.
func (k *Kubelet) assign(ctx context.Context, pod *v1.Pod) *admit.Rejection {
	began, g := time.Now(), givings{k.devices.Begin(pod), k.cpus.Begin(pod), k.memory.Begin(pod)}
	refused := k.give(ctx, pod, g)
	if k.aligns() {
		k.metrics.Alignment.Asked.Inc()
		k.metrics.Alignment.Took.Observe(float64(time.Since(began).Milliseconds()))
		if refused != nil {
			k.metrics.Alignment.Refused.Inc()
		}
	}
	if refused != nil {
		return refused
	}
	if err := errors.Join(g.devices.Commit(), g.cpus.Commit(), g.memory.Commit()); err != nil {
		return unexpected(errors.Join(err, k.unassign(ctx, pod.UID)))
	}
	k.countCPUs()
	return nil
}

// give gives all containers of the pod what they want.
func (k *Kubelet) give(ctx context.Context, pod *v1.Pod, g givings) *admit.Rejection {
	scope, near, fits := k.cfg.Topology.Scope, numa.Mask(0), false
	if scope == numa.PodScope {
		if near, fits = k.place(g, g.wantedByPod(pod)); !fits {
			return k.tooFar(scope)
		}
	}
	for c, ends := range inOrder(pod) {
		if scope != numa.PodScope {
			if near, fits = k.place(g, g.wantedBy(c)); !fits {
				return k.tooFar(scope)
			}
		}
		err := g.devices.Give(ctx, c, ends, near)
		if err == nil {
			err = k.giveCPUs(g.cpus, c, ends, near)
		}
		if err == nil {
			err = k.giveMemory(g.memory, c, ends, near)
		}
		if err != nil {
			return unexpected(err)
		}
		if scope != numa.PodScope {
			k.aligned(scope)
		}
	}
	if scope == numa.PodScope {
		k.aligned(scope)
	}
	return nil
}

// aligns says whether what pods get has to be near to each other.
func (k *Kubelet) aligns() bool {
	return k.cfg.Topology.Policy != numa.None && k.cfg.Topology.Policy != ""
}

// aligned and tooFar count what the policy with one NUMA node for all has been able to do.
func (k *Kubelet) aligned(scope string) {
	if k.cfg.Topology.Policy == numa.SingleNode {
		k.metrics.Alignment.Aligned.WithLabelValues(scope, "numa_node").Inc()
	}
}

func (k *Kubelet) tooFar(scope string) *admit.Rejection {
	if k.cfg.Topology.Policy == numa.SingleNode {
		k.metrics.Alignment.NotAligned.WithLabelValues(scope, "numa_node").Inc()
	}
	return &admit.Rejection{Reason: numa.Reason, Message: "Pod was rejected: " + numa.Message}
}

func (k *Kubelet) giveCPUs(g *cpus.Giving, c *v1.Container, ends bool, near numa.Mask) error {
	if g.Wants(c) == 0 {
		return nil
	}
	count := &k.metrics.Alignment
	count.CPURequests.Inc()
	err := g.Give(c, ends, k.nodes.CPUs(near))
	if err != nil {
		count.CPUErrors.Inc()
	} else if g.OneCache(c) {
		count.Aligned.WithLabelValues(numa.ContainerScope, "uncore_cache").Inc()
	}
	if k.cfg.CPUOptions.WholeCores {
		of := count.Aligned
		if err != nil {
			of = count.NotAligned
		}
		of.WithLabelValues(numa.ContainerScope, "physical_cpu").Inc()
	}
	return err
}

func (k *Kubelet) giveMemory(g *memory.Giving, c *v1.Container, ends bool, near numa.Mask) error {
	if len(g.Wants(c)) == 0 {
		return nil
	}
	k.metrics.Alignment.MemoryRequests.Inc()
	err := g.Give(c, ends, near)
	if err != nil {
		k.metrics.Alignment.MemoryErrors.Inc()
	}
	return err
}

// countCPUs shows how many CPUs are whose.
func (k *Kubelet) countCPUs() {
	if k.cpus == nil {
		return
	}
	left, own := k.cpus.Use()
	all := 0
	for node, count := range own {
		all += count
		k.metrics.Alignment.OwnCPUsOn.WithLabelValues(strconv.Itoa(node)).Set(float64(count))
	}
	k.metrics.Alignment.SharedCPUs.Set(float64(left * 1000))
	k.metrics.Alignment.OwnCPUs.Set(float64(all))
}

func unexpected(err error) *admit.Rejection {
	var misaligned *cpus.AlignmentError
	if errors.As(err, &misaligned) {
		return &admit.Rejection{Reason: cpus.AlignmentReason, Message: "Pod was rejected: " + err.Error()}
	}
	return &admit.Rejection{Reason: "UnexpectedAdmissionError", Message: "Pod was rejected: " + err.Error()}
}

// givings are what is being given to one pod.
type givings struct {
	devices *devices.Giving
	cpus    *cpus.Giving
	memory  *memory.Giving
}

// wanted is how much of what only one can have a container, or a pod, is to have.
type wanted struct {
	cpus    int
	devices map[string]int
	memory  memory.Amounts
}

func (g givings) wantedBy(c *v1.Container) wanted {
	return wanted{g.cpus.Wants(c), g.devices.Wants(c), g.memory.Wants(c)}
}

// place finds NUMA nodes for it, if there may be any for the operator.
func (k *Kubelet) place(g givings, w wanted) (numa.Mask, bool) {
	if len(k.nodes) == 0 {
		return 0, true
	}
	all := []numa.Hints{g.cpus.Hints(w.cpus)}
	for _, name := range slices.Sorted(maps.Keys(w.devices)) {
		all = append(all, g.devices.Hints(name, w.devices[name], k.nodes.All()))
	}
	for _, name := range slices.Sorted(maps.Keys(w.memory)) {
		all = append(all, g.memory.Hints(name, w.memory[name]))
	}
	return numa.Choose(k.cfg.Topology.Policy, k.nodes.All(), k.distances, all)
}

// inOrder are the containers of a pod in the order in which they start, each with whether it ends before the next one starts.
func inOrder(pod *v1.Pod) iter.Seq2[*v1.Container, bool] {
	return func(yield func(*v1.Container, bool) bool) {
		for i := range pod.Spec.InitContainers {
			if c := &pod.Spec.InitContainers[i]; !yield(c, !containers.IsSidecar(c)) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i], false) {
				return
			}
		}
	}
}

// wantedByPod is the most that a pod has at any moment.
func (g givings) wantedByPod(pod *v1.Pod) wanted {
	stays, most := wanted{devices: map[string]int{}, memory: memory.Amounts{}}, wanted{devices: map[string]int{}, memory: memory.Amounts{}}
	for c, ends := range inOrder(pod) {
		now := g.wantedBy(c)
		now.cpus += stays.cpus
		add(now.devices, stays.devices)
		add(now.memory, stays.memory)
		most.cpus = max(most.cpus, now.cpus)
		raise(most.devices, now.devices)
		raise(most.memory, now.memory)
		if !ends {
			stays = now
		}
	}
	return most
}

// add adds amounts to others; raise makes them at least as large.
func add[K comparable, N int | int64](to, amounts map[K]N) {
	for name, n := range amounts {
		to[name] += n
	}
}

func raise[K comparable, N int | int64](to, amounts map[K]N) {
	for name, n := range amounts {
		to[name] = max(to[name], n)
	}
}

// unassign takes back what only one can have, once the pod's containers have ended.
func (k *Kubelet) unassign(ctx context.Context, pod types.UID) error {
	had := k.cpus.Has(pod)
	err := errors.Join(k.devices.Forget(pod), k.cpus.Forget(pod), k.memory.Forget(pod))
	if had {
		k.countCPUs()
		k.shareCPUs(ctx)
	}
	return err
}

// shareCPUs lets the running containers that have no CPUs of their own use exactly those that nobody has.
func (k *Kubelet) shareCPUs(ctx context.Context) {
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	list, err := k.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Sharing the CPUs that no container has for itself")
		return
	}
	for _, c := range list.GetContainers() {
		uid, name := containers.Owner(c)
		if uid == "" {
			continue
		}
		_, err := k.cri.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: c.GetId(), Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: k.cpus.Of(uid, name).String()},
		})
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Changing the CPUs of a container", "container", c.GetId())
		}
	}
}

// Assigned collects what plugins and the CPU manager want the container to have.
func (h host) Assigned(ctx context.Context, pod *v1.Pod, c *v1.Container) (*containers.Assigned, error) {
	a := &containers.Assigned{Annotations: map[string]string{}}
	responses, err := h.k.devices.Of(ctx, pod.UID, c.Name)
	if err != nil {
		return nil, err
	}
	for _, r := range responses {
		for name, value := range r.GetEnvs() {
			a.Envs = append(a.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
		}
		for _, m := range r.GetMounts() {
			a.Mounts = append(a.Mounts, &runtimeapi.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly})
		}
		for _, d := range r.GetDevices() {
			a.Devices = append(a.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
		}
		for _, d := range r.GetCdiDevices() {
			a.CDI = append(a.CDI, &runtimeapi.CDIDevice{Name: d.Name})
		}
		maps.Copy(a.Annotations, r.GetAnnotations())
	}
	for _, claim := range h.k.claims.Of(pod, c) {
		for _, device := range claim.Devices {
			for _, name := range device.CDI {
				a.CDI = append(a.CDI, &runtimeapi.CDIDevice{Name: name})
			}
		}
	}
	if h.k.cpus != nil {
		a.CPUs = h.k.cpus.Of(pod.UID, c.Name).String()
	}
	a.MemoryNodes = memory.Nodes(h.k.memory.Of(pod.UID, c.Name))
	return a, nil
}

func (h host) OwnCPUs(pod *v1.Pod, c *v1.Container) bool {
	return h.k.cpus != nil && !h.k.cpus.Exclusive(pod.UID, c.Name).IsEmpty()
}

// prepareClaims has drivers prepare the pod's ResourceClaims.
func (k *Kubelet) prepareClaims(ctx context.Context, pod *v1.Pod) error {
	err := k.claims.Prepare(ctx, pod)
	if err != nil && ctx.Err() == nil {
		k.events.Eventf(pod, v1.EventTypeWarning, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: %v", err)
	}
	if err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}
