// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/shutdown"
)

// Observed is what changes while a node runs.
type Observed struct {
	Runtime         *runtimeapi.StatusResponse
	RuntimeErr      error
	RuntimeVersion  string
	Images          []*runtimeapi.Image
	Pressure        []v1.NodeConditionType
	ShuttingDown    bool
	Devices         v1.ResourceList // that plugins offer
	UsableDevices   v1.ResourceList
	VolumesInUse    []v1.UniqueVolumeName
	VolumesAttached []v1.AttachedVolume
}

// The most images, and names of one, that a status lists.
const (
	maxImages = 50
	maxNames  = 5
)

func (o *Observed) condition(name string) *runtimeapi.RuntimeCondition {
	for _, c := range o.Runtime.GetStatus().GetConditions() {
		if c.GetType() == name {
			return c
		}
	}
	return nil
}

func (o *Observed) networkError() error {
	return o.conditionError(runtimeapi.NetworkReady, "container runtime network not ready")
}

func (o *Observed) runtimeError() error {
	if o.RuntimeErr != nil {
		return fmt.Errorf("container runtime is down: %w", o.RuntimeErr)
	}
	return o.conditionError(runtimeapi.RuntimeReady, "container runtime not ready")
}

func (o *Observed) conditionError(name, what string) error {
	c := o.condition(name)
	if c.GetStatus() {
		return nil
	}
	return fmt.Errorf("%s: %s=%t reason:%s message:%s", what, name, c.GetStatus(), c.GetReason(), c.GetMessage())
}

func (o *Observed) ready() error { return errors.Join(o.runtimeError(), o.networkError()) }

// node is the object that registers this machine, without its status.
func (c *Config) node() *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.Name, Labels: map[string]string{
		v1.LabelHostname: c.Hostname, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}}}
	set(&n.Labels, c.Labels)
	n.Annotations = map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
	set(&n.Annotations, c.Annotations)
	n.Spec.Taints, n.Spec.ProviderID = c.Taints, c.ProviderID
	return n
}

// Describe is the Node of a machine that was observed at a moment, as it is registered.
func (c *Config) Describe(m Machine, o Observed, now time.Time) *v1.Node {
	n := c.node()
	n.Status = c.status(n, m, o, now)
	return n
}

// Usable is an observation of a node that can run pods.
func Usable(runtimeVersion string) Observed {
	return Observed{RuntimeVersion: runtimeVersion, Runtime: &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}}}
}

// status decides the whole status of the node; what others write into it is kept.
func (c *Config) status(have *v1.Node, m Machine, o Observed, now time.Time) v1.NodeStatus {
	s := *have.Status.DeepCopy()
	s.Addresses = nil
	for _, ip := range c.IPs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: c.Hostname})
	s.Capacity = withForeign(c.capacity(m), have.Status.Capacity)
	s.Allocatable = withForeign(c.allocatable(c.capacity(m)), s.Capacity) // who offers a resource says so in the capacity alone
	maps.Copy(s.Capacity, o.Devices)
	maps.Copy(s.Allocatable, o.UsableDevices)
	s.DeclaredFeatures = declaredFeatures()
	s.DaemonEndpoints = v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: c.KubeletPort}}
	s.NodeInfo = v1.NodeSystemInfo{
		MachineID: m.MachineID, SystemUUID: m.SystemUUID, BootID: m.BootID, KernelVersion: m.Kernel, OSImage: m.OSImage,
		ContainerRuntimeVersion: cmp.Or(o.RuntimeVersion, have.Status.NodeInfo.ContainerRuntimeVersion),
		KubeletVersion:          c.KubeletVersion, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		RunningInUserNamespace: &m.UserNamespace,
	}
	if m.Swap > 0 {
		s.NodeInfo.Swap = &v1.NodeSwapStatus{Capacity: &m.Swap}
	}
	if o.Runtime != nil {
		s.Images = images(o.Images, ptr.Deref(c.MaxImages, maxImages))
		s.RuntimeHandlers, s.Features = handlers(o.Runtime), features(o.Runtime)
	}
	s.VolumesInUse, s.VolumesAttached = o.VolumesInUse, cmpNil(o.VolumesAttached, have.Status.VolumesAttached)
	for _, condition := range o.conditions() {
		setCondition(&s, condition, metav1.NewTime(now).Rfc3339Copy())
	}
	return s
}

// cmpNil keeps what the attach controller wrote unless we have a list of our own.
func cmpNil(own, have []v1.AttachedVolume) []v1.AttachedVolume {
	if own == nil {
		return have
	}
	return own
}

// capacity is all that the machine has.
func (c *Config) capacity(m Machine) v1.ResourceList {
	list := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(m.CPUs, resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(m.Memory, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(c.MaxPods, resource.DecimalSI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(m.Disk, resource.BinarySI),
	}
	for size, bytes := range m.HugePages {
		list[v1.ResourceName(v1.ResourceHugePagesPrefix+resource.NewQuantity(size, resource.BinarySI).String())] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

// allocatable is what is left for pods.
func (c *Config) allocatable(capacity v1.ResourceList) v1.ResourceList {
	out := capacity.DeepCopy()
	keep := func(name v1.ResourceName, q resource.Quantity) {
		have, ok := out[name]
		if !ok {
			return
		}
		have.Sub(q)
		if have.Sign() < 0 {
			have = *resource.NewQuantity(0, have.Format)
		}
		out[name] = have
	}
	for _, kept := range []v1.ResourceList{c.Reserved, c.EvictionHard} {
		for name, q := range kept {
			keep(name, q)
		}
	}
	for name, q := range capacity {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			keep(v1.ResourceMemory, q)
		}
	}
	return out
}

// withForeign keeps resources that somebody else offers through the node's status (extended resources).
func withForeign(own, have v1.ResourceList) v1.ResourceList {
	for name, q := range have {
		if _, ours := own[name]; !ours && strings.Contains(string(name), "/") {
			own[name] = q
		}
	}
	return own
}

func (o *Observed) conditions() []v1.NodeCondition {
	pressure := func(t v1.NodeConditionType, yes, no [2]string) v1.NodeCondition {
		if slices.Contains(o.Pressure, t) {
			return v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: yes[0], Message: yes[1]}
		}
		return v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: no[0], Message: no[1]}
	}
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	err := o.ready()
	if o.ShuttingDown {
		err = errors.Join(err, errors.New(shutdown.NotReady))
	}
	if err != nil {
		ready = v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionFalse, Reason: "KubeletNotReady", Message: strings.ReplaceAll(err.Error(), "\n", ", ")}
	}
	return []v1.NodeCondition{
		pressure(v1.NodeMemoryPressure,
			[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
			[2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"}),
		pressure(v1.NodeDiskPressure,
			[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
			[2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"}),
		pressure(v1.NodePIDPressure,
			[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
			[2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"}),
		ready, // the last, as everybody expects it there
	}
}

func setCondition(s *v1.NodeStatus, c v1.NodeCondition, now metav1.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	i := slices.IndexFunc(s.Conditions, func(have v1.NodeCondition) bool { return have.Type == c.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[i].Status == c.Status {
		c.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	s.Conditions[i] = c
}

// images lists the largest, at most so many unless that is negative.
func images(all []*runtimeapi.Image, most int32) []v1.ContainerImage {
	var out []v1.ContainerImage
	for _, i := range all {
		names := append(slices.Clone(i.GetRepoDigests()), i.GetRepoTags()...)
		if len(names) == 0 {
			continue
		}
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), maxNames)], SizeBytes: int64(i.GetSize())})
	}
	slices.SortFunc(out, func(a, b v1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Names[0], b.Names[0]))
	})
	if most < 0 {
		return out
	}
	return out[:min(len(out), int(most))]
}

func handlers(s *runtimeapi.StatusResponse) []v1.NodeRuntimeHandler {
	var out []v1.NodeRuntimeHandler
	for _, h := range s.GetRuntimeHandlers() {
		recursive, users := h.GetFeatures().GetRecursiveReadOnlyMounts(), h.GetFeatures().GetUserNamespaces()
		out = append(out, v1.NodeRuntimeHandler{Name: h.GetName(), Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &recursive, UserNamespaces: &users}})
	}
	slices.SortFunc(out, func(a, b v1.NodeRuntimeHandler) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func features(s *runtimeapi.StatusResponse) *v1.NodeFeatures {
	if s.GetFeatures() == nil {
		return nil
	}
	groups := s.GetFeatures().GetSupplementalGroupsPolicy()
	return &v1.NodeFeatures{SupplementalGroupsPolicy: &groups}
}

// Allocatable is what pods may use together; with eviction, also without what is always kept free.
func (c *Config) Allocatable(m Machine, eviction bool) v1.ResourceList {
	if eviction {
		return c.allocatable(c.capacity(m))
	}
	kept := *c
	kept.EvictionHard = nil
	return kept.allocatable(kept.capacity(m))
}
