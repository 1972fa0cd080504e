// SPDX-License-Identifier: Apache-2.0

// Package node keeps this machine's Node object and its Lease.
//
// The Node is registered once and its status is patched when it differs from what the API has, or at the latest every five
// minutes. Until the node is Ready the runtime is asked at first 20 times a second and then ever more rarely, afterwards
// every ten seconds, and when somebody calls Poke. machine.go reads what the machine has; status.go turns it into a NodeStatus without I/O.
package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apimachinery/lease"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// Config is what the operator chose.
type Config struct {
	Name           string
	Hostname       string
	IPs            []string
	Labels         map[string]string
	Annotations    map[string]string
	Taints         []v1.Taint
	KubeletVersion string
	KubeletPort    int32
	MaxPods        int64
	DataDir        string          // its file system is the node's ephemeral storage
	Reserved       v1.ResourceList // kube-reserved and system-reserved together
	EvictionHard   v1.ResourceList // what is always kept free: memory, ephemeral-storage
	RuntimeName    string
	ProviderID     string // of the machine, at who provides it
	MaxImages      *int32 // that the status names; nil: 50, -1: all

	// The rhythm of the node; what is 0 is as every other component expects it.
	CheckPeriod  time.Duration // between looks at its status; 10 s
	ReportPeriod time.Duration // until a status is written that has not changed; 5 min
	LeaseSeconds int32         // after which it is taken for dead; 40, and it is renewed four times as often
}

const (
	checkPeriod   = 10 * time.Second
	reportPeriod  = 5 * time.Minute
	notReadyCheck = 50 * time.Millisecond // at first; a runtime that is still starting will soon be ready
	notReadyMost  = 2 * time.Second
	leaseSeconds  = 40
	leaseRenewals = 4 // while it lasts
)

// Agent keeps the Node.
type Agent struct {
	// Pressure says which pressure conditions the node has. It is set before Run; nil for none.
	Pressure func() []v1.NodeConditionType
	// Devices says what plugins offer: all, and what can be used of it. It is set before Run; nil for nothing.
	Devices func() (capacity, allocatable v1.ResourceList)

	// ShuttingDown says whether the machine is being shut down. It is set before Run; nil for never.
	ShuttingDown func() bool

	cfg        Config
	client     kubernetes.Interface
	cri        runtimeapi.RuntimeServiceClient
	images     runtimeapi.ImageServiceClient
	events     record.EventRecorder
	volumes    func() ([]v1.UniqueVolumeName, []v1.AttachedVolume)
	usable     func()
	machine    Machine
	poke       chan struct{}
	registered chan struct{} // closed when there is a Node

	mu         sync.Mutex
	node       *v1.Node  // guarded by mu: as our last write returned it, or the informer; nil until registered
	reported   time.Time // guarded by mu: when the status was last written
	networkErr error     // guarded by mu
	asked      bool      // guarded by mu: networkErr is an answer of the runtime
}

// New makes an Agent. volumes tells which volumes are in use, nil for none; usable is called whenever the node has
// become able to run pods: it is registered and its network is ready.
func New(cfg Config, client kubernetes.Interface, cri runtimeapi.RuntimeServiceClient, images runtimeapi.ImageServiceClient, events record.EventRecorder,
	volumes func() ([]v1.UniqueVolumeName, []v1.AttachedVolume), usable func()) (*Agent, error) {
	machine, err := ReadMachine(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	cfg.CheckPeriod, cfg.ReportPeriod = cmp.Or(cfg.CheckPeriod, checkPeriod), cmp.Or(cfg.ReportPeriod, reportPeriod)
	cfg.LeaseSeconds = cmp.Or(cfg.LeaseSeconds, leaseSeconds)
	return &Agent{cfg: cfg, client: client, cri: cri, images: images, events: events, volumes: volumes, usable: usable, machine: machine, poke: make(chan struct{}, 1), registered: make(chan struct{})}, nil
}

// Poke asks for a look at the node's status now.
func (a *Agent) Poke() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// Machine is what was found at the start.
func (a *Agent) Machine() Machine { return a.machine }

// Node is the newest known version of the Node; nil before it is registered. It must not be changed.
func (a *Agent) Node() *v1.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.node
}

// Observe takes the Node as the API has it now.
func (a *Agent) Observe(node *v1.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.node != nil {
		a.keepLocked(node)
	}
}

// keepLocked keeps the newest version of the Node, and tells if it was cordoned or uncordoned. The caller holds mu.
func (a *Agent) keepLocked(node *v1.Node) {
	if a.node != nil && node.Spec.Unschedulable != a.node.Spec.Unschedulable {
		reason := "NodeSchedulable"
		if node.Spec.Unschedulable {
			reason = "NodeNotSchedulable"
		}
		a.events.Eventf(a.Ref(), v1.EventTypeNormal, reason, "Node %s status is now: %s", a.cfg.Name, reason)
	}
	a.node = node
}

// NetworkError is why pods cannot have a network; nil when they can.
func (a *Agent) NetworkError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.asked {
		return fmt.Errorf("container runtime status check may not have completed yet")
	}
	return a.networkErr
}

// Run registers the node and keeps its status and lease until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	a.events.Event(a.Ref(), v1.EventTypeNormal, "Starting", "Starting kubelet.")
	var wg sync.WaitGroup
	wg.Go(func() { a.renewLease(ctx) })
	a.keepStatus(ctx)
	wg.Wait()
	return nil
}

// Ref names the node as the object of an event.
func (a *Agent) Ref() *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", Name: a.cfg.Name, UID: types.UID(a.cfg.Name)}
}

// renewLease begins when there is a Node for the lease to belong to.
func (a *Agent) renewLease(ctx context.Context) {
	select {
	case <-a.registered:
	case <-ctx.Done():
		return
	}
	renew := time.Duration(a.cfg.LeaseSeconds) * time.Second / leaseRenewals
	lease.NewController(clock.RealClock{}, a.client, a.cfg.Name, a.cfg.LeaseSeconds, nil, renew, a.cfg.Name, v1.NamespaceNodeLease, a.ownLease).Run(ctx)
}

// ownLease makes the lease go with its Node.
func (a *Agent) ownLease(l *coordinationv1.Lease) error {
	node := a.Node()
	if node == nil {
		return fmt.Errorf("node %q is not registered yet", a.cfg.Name)
	}
	if len(l.OwnerReferences) == 0 {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return nil
}

func (a *Agent) keepStatus(ctx context.Context) {
	logger := klog.FromContext(ctx)
	pause, was := notReadyCheck, false
	for {
		ready, err := a.update(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			logger.Error(err, "Updating the node's status; it is tried again")
			pause = min(2*pause, 7*time.Second)
		case !ready:
			pause = min(2*pause, notReadyMost)
		default:
			pause = a.cfg.CheckPeriod
		}
		if was && !ready {
			pause = notReadyCheck
		}
		was = ready
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-a.poke:
			pause = notReadyCheck
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// update looks at the runtime and writes the node if that changed anything.
func (a *Agent) update(ctx context.Context) (ready bool, err error) {
	observed := a.observe(ctx)
	a.mu.Lock()
	before := a.asked && a.networkErr == nil
	a.networkErr, a.asked = observed.networkError(), observed.Runtime != nil
	became := a.asked && a.networkErr == nil && !before
	have := a.node
	a.mu.Unlock()
	if have == nil {
		if have, err = a.register(ctx, observed); err != nil {
			return false, err
		}
		became = true
	}
	if became {
		defer a.usable() // when the status is written, without which no pod is admitted
	}
	now := time.Now()
	want := a.cfg.status(have, a.machine, observed, now)
	a.mu.Lock()
	due := now.Sub(a.reported) >= a.cfg.ReportPeriod
	a.mu.Unlock()
	ready = observed.ready() == nil
	if !due && !changed(&have.Status, &want) {
		return ready, nil
	}
	return ready, a.patch(ctx, have, want)
}

// register creates the Node, or takes over the one of an earlier start.
func (a *Agent) register(ctx context.Context, o Observed) (*v1.Node, error) {
	want := a.cfg.node()
	want.Status = a.cfg.status(want, a.machine, o, time.Now())
	node, err := a.client.CoreV1().Nodes().Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		node, err = a.adopt(ctx, want)
	}
	if err != nil {
		return nil, fmt.Errorf("register Node %s: %w", a.cfg.Name, err)
	}
	a.mu.Lock()
	first := a.node == nil
	a.node = node
	a.mu.Unlock()
	if first {
		close(a.registered)
	}
	klog.FromContext(ctx).Info("Registered node", "node", node.Name)
	return node, nil
}

// adopt brings the labels and annotations that are ours up to date.
func (a *Agent) adopt(ctx context.Context, want *v1.Node) (*v1.Node, error) {
	node, err := a.client.CoreV1().Nodes().Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	next := node.DeepCopy()
	set(&next.Labels, want.Labels)
	set(&next.Annotations, want.Annotations)
	if equality.Semantic.DeepEqual(node.ObjectMeta, next.ObjectMeta) {
		return node, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": next.Labels, "annotations": next.Annotations}})
	if err != nil {
		return nil, err
	}
	return a.client.CoreV1().Nodes().Patch(ctx, want.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

func set(into *map[string]string, from map[string]string) {
	if *into == nil && len(from) > 0 {
		*into = map[string]string{}
	}
	for k, v := range from {
		(*into)[k] = v
	}
}

func (a *Agent) patch(ctx context.Context, have *v1.Node, want v1.NodeStatus) error {
	from, err := json.Marshal(&v1.Node{Status: have.Status})
	if err != nil {
		return err
	}
	to, err := json.Marshal(&v1.Node{Status: want})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, v1.Node{})
	if err != nil {
		return fmt.Errorf("make patch of Node %s: %w", have.Name, err)
	}
	node, err := a.client.CoreV1().Nodes().Patch(ctx, have.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) { // deleted by somebody: register again
		a.mu.Lock()
		a.node = nil
		a.mu.Unlock()
		a.Poke()
	}
	if err != nil {
		return fmt.Errorf("patch status of Node %s: %w", have.Name, err)
	}
	a.mu.Lock()
	a.keepLocked(node)
	a.reported = time.Now()
	a.mu.Unlock()
	a.announce(have, node)
	return nil
}

// announce records which conditions of the node have changed, and that the machine was started anew.
func (a *Agent) announce(before, after *v1.Node) {
	if was, is := before.Status.NodeInfo.BootID, after.Status.NodeInfo.BootID; was != "" && was != is {
		a.events.Eventf(a.Ref(), v1.EventTypeWarning, "Rebooted", "Node %s has been rebooted, boot id: %s", a.cfg.Name, is)
	}
	for _, c := range after.Status.Conditions {
		reasons, known := conditionEvents[c.Type]
		if !known || conditionStatus(before, c.Type) == c.Status {
			continue
		}
		reason := reasons.no
		if c.Status == v1.ConditionTrue {
			reason = reasons.yes
		}
		a.events.Eventf(a.Ref(), v1.EventTypeNormal, reason, "Node %s status is now: %s", a.cfg.Name, reason)
	}
}

// conditionEvents are the reasons of the events that tell of a change.
var conditionEvents = map[v1.NodeConditionType]struct{ yes, no string }{
	v1.NodeReady:          {"NodeReady", "NodeNotReady"},
	v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

func conditionStatus(n *v1.Node, t v1.NodeConditionType) v1.ConditionStatus {
	i := slices.IndexFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == t })
	if i < 0 {
		return v1.ConditionUnknown
	}
	return n.Status.Conditions[i].Status
}

// observe asks the runtime, and reads what changes on the machine.
func (a *Agent) observe(ctx context.Context) Observed {
	var o Observed
	if a.Pressure != nil {
		o.Pressure = a.Pressure()
	}
	o.ShuttingDown = a.ShuttingDown != nil && a.ShuttingDown()
	if a.Devices != nil {
		o.Devices, o.UsableDevices = a.Devices()
	}
	if a.volumes != nil { // also when the runtime is away: what is not in use is detached
		o.VolumesInUse, o.VolumesAttached = a.volumes()
	}
	resp, err := a.cri.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		o.RuntimeErr = err
		return o
	}
	o.Runtime = resp
	if version, err := a.cri.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
		o.RuntimeVersion = version.GetRuntimeName() + "://" + version.GetRuntimeVersion()
	}
	if list, err := a.images.ListImages(ctx, &runtimeapi.ListImagesRequest{}); err == nil {
		o.Images = list.GetImages()
	}
	return o
}

// changed compares statuses without the times of the last report.
func changed(have, want *v1.NodeStatus) bool {
	strip := func(s *v1.NodeStatus) v1.NodeStatus {
		c := *s.DeepCopy()
		for i := range c.Conditions {
			c.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return c
	}
	return !equality.Semantic.DeepEqual(strip(have), strip(want))
}
