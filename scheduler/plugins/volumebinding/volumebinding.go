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
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podvolumes"
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
}

type plugin struct {
	Args
	handle *framework.Handle

	mu sync.Mutex
	// reserved volumes, by name, are promised to a claim but not yet reported as such.
	reserved map[string]types.UID
}

// New returns a constructor of the plugin.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	if args.BindTimeout == 0 {
		args.BindTimeout = 10 * time.Minute
	}
	return func(h *framework.Handle) (framework.Plugin, error) {
		return &plugin{Args: args, handle: h, reserved: make(map[string]types.UID)}, nil
	}
}

func (*plugin) Name() string { return "VolumeBinding" }

var (
	nodeConflict = framework.RejectForGood("node(s) didn't match PersistentVolume's node affinity")
	noVolume     = framework.RejectForGood("node(s) didn't find available persistent volumes to bind")
	noSpace      = framework.RejectForGood("node(s) did not have enough free storage")
	volumeGone   = framework.RejectForGood("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	unbound      = framework.RejectForGood("pod has unbound immediate PersistentVolumeClaims")
)

// state sorts the pod's claims.
type state struct {
	listers *podvolumes.Listers
	bound   []*v1.PersistentVolumeClaim
	waiting []*v1.PersistentVolumeClaim // for their first consumer; the smallest first
	chosen  []decision                  // by Reserve, for waiting
}

// decision is what becomes of a waiting claim: it gets a volume, or, if that is nil, has one provisioned.
type decision struct {
	claim  *v1.PersistentVolumeClaim
	volume *v1.PersistentVolume
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
	s := &state{listers: listers}
	for _, claim := range claims {
		switch delayed, err := s.isDelayed(claim); {
		case claim.DeletionTimestamp != nil:
			return nil, nil, framework.RejectForGood(fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name))
		case claim.Status.Phase == v1.ClaimLost:
			return nil, nil, framework.RejectForGood(fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName))
		case isBound(claim):
			s.bound = append(s.bound, claim)
		case err != nil:
			return nil, nil, framework.RejectForGood(err.Error())
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
	for _, claim := range s.bound {
		pv, err := s.listers.Volumes.Get(claim.Spec.VolumeName)
		if err != nil {
			return volumeGone
		}
		if volume.CheckNodeAffinity(pv, node.Node.Labels) != nil {
			return nodeConflict
		}
	}
	_, status := p.decide(s, node.Node)
	return status
}

// decide says what would become of the waiting claims on the node.
func (p *plugin) decide(s *state, node *v1.Node) ([]decision, *framework.Status) {
	var decisions []decision
	taken := make(map[string]*v1.PersistentVolume)
	for _, claim := range s.waiting {
		selected, ok := claim.Annotations[volume.AnnSelectedNode]
		if ok && selected != node.Name {
			return nil, noVolume
		}
		class := volume.GetPersistentVolumeClaimClass(claim)
		if !ok {
			pv, err := volume.FindMatchingVolume(claim, p.available(s, class, claim), node, taken, true, true)
			if err != nil {
				return nil, framework.AsStatus(err)
			}
			if pv != nil {
				taken[pv.Name] = pv
				decisions = append(decisions, decision{claim, pv})
				continue
			}
		}
		if status := p.canProvision(s, claim, class, node); status != nil {
			return nil, status
		}
		decisions = append(decisions, decision{claim: claim})
	}
	return decisions, nil
}

// available lists the volumes of a class that are not promised to another claim.
func (p *plugin) available(s *state, class string, claim *v1.PersistentVolumeClaim) []*v1.PersistentVolume {
	all, _ := s.listers.Volumes.List(labels.Everything()) // reads memory; does not fail
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(all, func(pv *v1.PersistentVolume) bool {
		owner, promised := p.reserved[pv.Name]
		return pv.Spec.StorageClassName != class || promised && owner != claim.UID
	})
}

// canProvision says whether the claim's class makes volumes that the node can use.
func (p *plugin) canProvision(s *state, claim *v1.PersistentVolumeClaim, className string, node *v1.Node) *framework.Status {
	class, err := s.listers.Classes.Get(className)
	if err != nil || class.Provisioner == "" || class.Provisioner == notSupported || !allows(class.AllowedTopologies, node.Labels) {
		return noVolume
	}
	storage := p.handle.Informers.Storage().V1()
	driver, err := storage.CSIDrivers().Lister().Get(class.Provisioner)
	if err != nil || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return nil // nothing is known of its capacity
	}
	capacities, _ := storage.CSIStorageCapacities().Lister().List(labels.Everything())
	for _, c := range capacities {
		if c.StorageClassName == class.Name && sufficient(c, claim) && reaches(c, node) {
			return nil
		}
	}
	return noSpace
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
	limit := c.Capacity
	if c.MaximumVolumeSize != nil {
		limit = c.MaximumVolumeSize
	}
	return limit != nil && limit.Cmp(*claim.Spec.Resources.Requests.Storage()) >= 0
}

func reaches(c *storagev1.CSIStorageCapacity, node *v1.Node) bool {
	selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
	return err == nil && selector.Matches(labels.Set(node.Labels))
}

// Reserve decides for good, and keeps the volumes from other pods.
func (p *plugin) Reserve(_ context.Context, st framework.State, _ *v1.Pod, nodeName string) *framework.Status {
	s, ok := st.(*state)
	if !ok || len(s.waiting) == 0 {
		return nil
	}
	node, err := p.handle.Informers.Core().V1().Nodes().Lister().Get(nodeName)
	if err != nil {
		return framework.AsStatus(err)
	}
	decisions, status := p.decide(s, node)
	if status != nil {
		return status
	}
	s.chosen = decisions
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range decisions {
		if d.volume != nil {
			p.reserved[d.volume.Name] = d.claim.UID
		}
	}
	return nil
}

func (p *plugin) Unreserve(_ context.Context, st framework.State, _ *v1.Pod, _ string) {
	if s, ok := st.(*state); ok {
		p.release(s)
	}
}

func (p *plugin) release(s *state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range s.chosen {
		if d.volume != nil {
			delete(p.reserved, d.volume.Name)
		}
	}
}

// PreBind writes down the decisions and waits until the claims are bound.
func (p *plugin) PreBind(ctx context.Context, st framework.State, _ *v1.Pod, nodeName string) *framework.Status {
	s, ok := st.(*state)
	if !ok || len(s.chosen) == 0 {
		return nil
	}
	for _, d := range s.chosen {
		if err := p.write(ctx, d, nodeName); err != nil {
			return framework.AsStatus(err)
		}
	}
	err := wait.PollUntilContextTimeout(ctx, bindPoll, p.BindTimeout, false, func(context.Context) (bool, error) {
		return s.allBound(nodeName)
	})
	if err != nil {
		return framework.AsStatus(fmt.Errorf("binding volumes: %w", err))
	}
	p.release(s)
	return nil
}

func (p *plugin) write(ctx context.Context, d decision, nodeName string) error {
	if d.volume == nil {
		if d.claim.Annotations[volume.AnnSelectedNode] == nodeName {
			return nil
		}
		claim := d.claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, nodeName)
		_, err := p.handle.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("selecting node %s for claim %s/%s: %w", nodeName, claim.Namespace, claim.Name, err)
		}
		return nil
	}
	pv, changed, err := volume.GetBindVolumeToClaim(d.volume, d.claim)
	if err == nil && changed {
		_, err = p.handle.Client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("binding volume %s to claim %s/%s: %w", d.volume.Name, d.claim.Namespace, d.claim.Name, err)
	}
	return nil
}

// allBound fails when a provisioner has given the node back: another one has to be found.
func (s *state) allBound(nodeName string) (bool, error) {
	for _, d := range s.chosen {
		claim, err := s.listers.Claims.PersistentVolumeClaims(d.claim.Namespace).Get(d.claim.Name)
		if err != nil {
			return false, err
		}
		if isBound(claim) {
			continue
		}
		selected := claim.Annotations[volume.AnnSelectedNode]
		if d.volume == nil && selected != nodeName && claim.ResourceVersion != d.claim.ResourceVersion {
			return false, fmt.Errorf("selectedNode annotation value %q not set to scheduled node %q", selected, nodeName)
		}
		return false, nil
	}
	return true, nil
}

func (*plugin) Hints() []framework.Hint {
	return append(podvolumes.Hints(),
		framework.Hint{Kind: framework.CSIStorageCapacity, Action: framework.Add | framework.UpdateOther},
		framework.Hint{Kind: framework.CSIDriver, Action: framework.Add | framework.UpdateOther | framework.Delete},
	)
}
