// SPDX-License-Identifier: Apache-2.0

// Package volumebinding brings pods and their PersistentVolumeClaims to the same node. A bound claim's volume
// limits the nodes; a claim that waits for its first consumer is matched with a volume that the node can use, or its
// provisioner is told the node; the pod is bound only after its claims.
//
// Reference: https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode
package volumebinding

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podvolumes"
	"github.com/skiff-k8s/skiff/scheduler/plugins/shape"
)

const (
	// bindPoll is how often a pod looks whether its claims are bound.
	bindPoll = 100 * time.Millisecond // of memory
	// notSupported is the provisioner of classes whose volumes are all made by hand.
	notSupported = "kubernetes.io/no-provisioner"
)

// Args configures the plugin; the zero value is the default.
type Args struct {
	// BindTimeout is how long a pod waits for its claims to be bound; 10 min if zero.
	BindTimeout time.Duration
	// Shape rates nodes by how much of a volume, or of the storage that the node can reach, the claims would use. Without, nodes where more is
	// left rate higher.
	Shape shape.Shape
}

type plugin struct {
	Args
	handle     *framework.Handle
	rejections [lacks]*framework.Status // made once: there may be one for each node

	mu sync.Mutex
	// reserved volumes, by name, are promised to a claim but not yet reported as such; and so are selected nodes, by the claims whose volumes are to be
	// made there. Another pod with the same claim has to follow.
	reserved map[string]types.UID
	selected map[types.UID]string
}

// New returns a constructor of the plugin.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	if args.BindTimeout == 0 {
		args.BindTimeout = 10 * time.Minute
	}
	if args.Shape == nil {
		args.Shape = shape.Shape{{Utilization: 0, Score: shape.MaxPoint}, {Utilization: shape.Full, Score: 0}}
	}
	return func(h *framework.Handle) (framework.Plugin, error) {
		if err := args.Shape.Validate(); err != nil {
			return nil, fmt.Errorf("VolumeBinding: %w", err)
		}
		p := &plugin{Args: args, handle: h, reserved: make(map[string]types.UID), selected: make(map[types.UID]string)}
		for l := range lacks {
			p.rejections[l] = framework.RejectForGood(l.reasons()...)
		}
		return p, nil
	}
}

func (*plugin) Name() string { return "VolumeBinding" }

var unbound = framework.RejectForGood("pod has unbound immediate PersistentVolumeClaims")

// lack is a set of what a node has not for the pod's claims.
type lack uint8

const (
	nodeConflict lack = 1 << iota
	noVolume
	noSpace
	volumeGone
	lacks
)

func (l lack) reasons() []string {
	var reasons []string
	for i, reason := range []string{
		"node(s) didn't match PersistentVolume's node affinity", "node(s) didn't find available persistent volumes to bind",
		"node(s) did not have enough free storage", "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
	} {
		if l&(1<<i) != 0 {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// state sorts the pod's claims.
type state struct {
	listers *podvolumes.Listers
	bound   []*v1.PersistentVolumeClaim
	waiting []*v1.PersistentVolumeClaim // for their first consumer; the smallest first
	chosen  []decision                  // by Reserve, for waiting
}

// decision is what becomes of a waiting claim: it gets a volume, or, if that is nil, has one provisioned.
type decision struct {
	claim    *v1.PersistentVolumeClaim
	volume   *v1.PersistentVolume
	capacity *storagev1.CSIStorageCapacity // where it would be provisioned; nil if nothing is known about that
	written  string                        // resource version of what PreBind has written; empty if it did not have to
}

func (p *plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if !podvolumes.HasClaims(pod.Pod) {
		return nil, nil, framework.SkipStatus
	}
	listers, err := podvolumes.NewListers(ctx, p.handle)
	if err == nil {
		err = p.handle.Need(ctx, framework.CSIDriver, framework.CSIStorageCapacity)
	}
	if err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	claims, err := listers.Of(pod.Pod)
	if err != nil {
		return nil, nil, missing(err)
	}
	for _, claim := range claims {
		switch {
		case claim.Status.Phase == v1.ClaimLost:
			return nil, nil, framework.RejectForGood(fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName))
		case claim.DeletionTimestamp != nil:
			return nil, nil, framework.RejectForGood(fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name))
		}
	}
	s := &state{listers: listers}
	for _, claim := range claims {
		switch delayed, err := s.isDelayed(claim); {
		case isBound(claim):
			s.bound = append(s.bound, claim)
		case err != nil:
			return nil, nil, framework.AsStatus(err)
		case !delayed || claim.Spec.VolumeName != "":
			return nil, nil, unbound
		default:
			s.waiting = append(s.waiting, claim)
		}
	}
	slices.SortStableFunc(s.waiting, func(a, b *v1.PersistentVolumeClaim) int {
		return a.Spec.Resources.Requests.Storage().Cmp(*b.Spec.Resources.Requests.Storage())
	})
	return s, nil, nil
}

// missing tells what the pod's owner can mend from what is wrong with the scheduler.
func missing(err error) *framework.Status {
	if m := (*podvolumes.Missing)(nil); errors.As(err, &m) {
		return framework.RejectForGood(m.Error())
	}
	return framework.AsStatus(err)
}

func (s *state) isDelayed(claim *v1.PersistentVolumeClaim) (bool, error) {
	if isBound(claim) {
		return false, nil
	}
	return volume.IsDelayBindingMode(claim, s.listers.Classes)
}

// isBound says whether the claim has its volume, and the controller says so too.
func isBound(claim *v1.PersistentVolumeClaim) bool {
	_, done := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && done
}

func (p *plugin) Filter(st framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := st.(*state)
	lack := s.checkBound(node.Node)
	_, more, err := p.decide(s, node.Node)
	if err != nil {
		return p.failed("predicate", err)
	}
	if lack |= more; lack == 0 {
		return nil
	}
	return p.rejections[lack]
}

// failed counts an error.
func (p *plugin) failed(operation string, err error) *framework.Status {
	p.handle.Metrics.VolumeErrors.WithLabelValues(operation).Inc()
	return framework.AsStatus(err)
}

// checkBound says whether the node can use the volumes of the bound claims.
func (s *state) checkBound(node *v1.Node) lack {
	for _, claim := range s.bound {
		pv, err := s.listers.Volumes.Get(claim.Spec.VolumeName)
		if err != nil {
			return volumeGone
		}
		if volume.CheckNodeAffinity(pv, node.Labels) != nil {
			return nodeConflict
		}
	}
	return 0
}

// decide says what would become of the waiting claims on the node. A claim that has a node selected already is provisioned there or nowhere.
func (p *plugin) decide(s *state, node *v1.Node) ([]decision, lack, error) {
	var decisions, provisions []decision
	for _, claim := range s.waiting {
		if selected := p.selectedNode(claim); selected != "" {
			if selected != node.Name {
				return nil, noVolume, nil
			}
			provisions = append(provisions, decision{claim: claim})
		}
	}
	taken := make(map[string]*v1.PersistentVolume)
	for _, claim := range s.waiting {
		if p.selectedNode(claim) != "" {
			continue
		}
		available, promised := p.available(s, volume.GetPersistentVolumeClaimClass(claim), claim)
		pv, err := volume.FindMatchingVolume(claim, available, node, taken, true, true)
		switch {
		case err != nil:
			return nil, 0, err
		case pv == nil && promised:
			return nil, noVolume, nil
		case pv == nil:
			provisions = append(provisions, decision{claim: claim})
		default:
			taken[pv.Name] = pv
			decisions = append(decisions, decision{claim: claim, volume: pv})
		}
	}
	for i := range provisions {
		d := &provisions[i]
		var lack lack
		if d.capacity, lack = p.canProvision(s, d.claim, node); lack != 0 {
			return nil, lack, nil
		}
	}
	return append(decisions, provisions...), 0, nil
}

// selectedNode is where the claim's volume is to be made; empty if nobody has said so.
func (p *plugin) selectedNode(claim *v1.PersistentVolumeClaim) string {
	if node := claim.Annotations[volume.AnnSelectedNode]; node != "" {
		return node
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.selected[claim.UID]
}

// available lists the volumes of a class that the claim may get: the one that it is promised, or those that are promised to nobody.
func (p *plugin) available(s *state, class string, claim *v1.PersistentVolumeClaim) (volumes []*v1.PersistentVolume, promised bool) {
	all, _ := s.listers.Volumes.List(labels.Everything()) // reads memory; does not fail
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pv := range all {
		owner, taken := p.reserved[pv.Name]
		switch {
		case pv.Spec.StorageClassName != class:
		case taken && owner == claim.UID:
			return []*v1.PersistentVolume{pv}, true
		case !taken:
			volumes = append(volumes, pv)
		}
	}
	return volumes, false
}

// canProvision says whether the claim's class makes volumes that the node can use, and from which capacity if that is known.
func (p *plugin) canProvision(s *state, claim *v1.PersistentVolumeClaim, node *v1.Node) (*storagev1.CSIStorageCapacity, lack) {
	class, err := s.listers.Classes.Get(volume.GetPersistentVolumeClaimClass(claim))
	if err != nil || class.Provisioner == "" || class.Provisioner == notSupported || !allows(class.AllowedTopologies, node.Labels) {
		return nil, noVolume
	}
	storage := p.handle.Informers.Storage().V1()
	driver, err := storage.CSIDrivers().Lister().Get(class.Provisioner)
	if err != nil || !tellsCapacity(driver) {
		return nil, 0 // nothing is known of its capacity
	}
	capacities, _ := storage.CSIStorageCapacities().Lister().List(labels.Everything())
	for _, c := range capacities {
		if c.StorageClassName == class.Name && sufficient(c, claim) && reaches(c, node) {
			return c, 0
		}
	}
	return nil, noSpace
}

func tellsCapacity(driver *storagev1.CSIDriver) bool {
	return ptr.Deref(driver.Spec.StorageCapacity, false)
}

// allows says whether a node with the labels is in one of the topologies; none means everywhere.
func allows(terms []v1.TopologySelectorTerm, nodeLabels map[string]string) bool {
	for _, term := range terms {
		if !slices.ContainsFunc(term.MatchLabelExpressions, func(e v1.TopologySelectorLabelRequirement) bool {
			value, ok := nodeLabels[e.Key]
			return !ok || !slices.Contains(e.Values, value)
		}) && len(term.MatchLabelExpressions) > 0 {
			return true
		}
	}
	return len(terms) == 0
}

func sufficient(c *storagev1.CSIStorageCapacity, claim *v1.PersistentVolumeClaim) bool {
	limit := limit(c)
	return limit != nil && limit.Cmp(*claim.Spec.Resources.Requests.Storage()) >= 0
}

// limit is the largest volume that the capacity has room for; nil if there is none.
func limit(c *storagev1.CSIStorageCapacity) *resource.Quantity {
	if c.MaximumVolumeSize != nil {
		return c.MaximumVolumeSize
	}
	return c.Capacity
}

func reaches(c *storagev1.CSIStorageCapacity, node *v1.Node) bool {
	selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
	return err == nil && selector.Matches(labels.Set(node.Labels))
}

// Score rates the node by how much of the volumes that the claims would get, or else of the storage that volumes would be made from, they would use.
// All classes weigh the same.
func (p *plugin) Score(st framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	s := st.(*state)
	if len(s.waiting) == 0 {
		return 0
	}
	decisions, lack, err := p.decide(s, node.Node)
	if lack != 0 || err != nil {
		return 0
	}
	static := slices.ContainsFunc(decisions, func(d decision) bool { return d.volume != nil })
	type use struct{ requested, capacity int64 }
	classes := make(map[string]use)
	for i := range decisions {
		d := &decisions[i]
		class := volume.GetPersistentVolumeClaimClass(d.claim)
		u := classes[class]
		switch {
		case static && d.volume != nil:
			u.capacity += d.volume.Spec.Capacity.Storage().Value()
		case !static && d.capacity != nil && d.capacity.Capacity != nil:
			u.capacity = d.capacity.Capacity.Value() // of all claims of the class
		default:
			continue
		}
		u.requested += d.claim.Spec.Resources.Requests.Storage().Value()
		classes[class] = u
	}
	if len(classes) == 0 {
		return 0
	}
	sum := int64(0)
	for _, u := range classes {
		sum += p.Shape.Of(u.requested, u.capacity)
	}
	return int64(math.Round(float64(sum) / float64(len(classes))))
}
