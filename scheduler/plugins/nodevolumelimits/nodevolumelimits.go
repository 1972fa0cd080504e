// SPDX-License-Identifier: Apache-2.0

// Package nodevolumelimits keeps pods off nodes that cannot attach all their volumes, by the limits that CSI drivers
// report in CSINode, and off nodes that lack a driver whose CSIDriver asks for that. What is attached to a node without any pod using it, as while it
// is being detached, counts too.
package nodevolumelimits

import (
	"context"
	"errors"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podvolumes"
)

type plugin struct{ handle *framework.Handle }

// New makes the plugin.
func New(h *framework.Handle) (framework.Plugin, error) { return plugin{h}, nil }

func (plugin) Name() string { return "NodeVolumeLimits" }

var exceeded = framework.Reject("node(s) exceed max volume count")

type state struct {
	listers  *podvolumes.Listers
	csiNodes storagelisters.CSINodeLister
	wanted   attachments
	required []string // drivers that the node must have
	// byNode has what VolumeAttachments say of the nodes. They are read once a node with limits is looked at.
	byNode func() (map[string]attachments, error)
}

// attachments has the driver of each volume, by a name that is unique.
type attachments map[string]string

func (p plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if !podvolumes.HasClaims(pod.Pod) {
		return nil, nil, framework.SkipStatus
	}
	listers, err := podvolumes.NewListers(ctx, p.handle)
	if err == nil {
		err = p.handle.Need(ctx, framework.CSINode, framework.CSIDriver)
	}
	if err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	storage := p.handle.Informers.Storage().V1()
	s := &state{listers: listers, csiNodes: storage.CSINodes().Lister(), wanted: make(attachments)}
	if err := s.wanted.add(listers, pod.Pod); err != nil {
		if m := (*podvolumes.Missing)(nil); errors.As(err, &m) {
			return nil, nil, framework.RejectForGood(m.Error())
		}
		return nil, nil, framework.AsStatus(err)
	}
	if len(s.wanted) == 0 {
		return nil, nil, framework.SkipStatus
	}
	s.required = required(storage.CSIDrivers().Lister(), s.wanted)
	s.byNode = sync.OnceValues(func() (map[string]attachments, error) {
		if err := p.handle.Need(ctx, framework.VolumeAttachment); err != nil {
			return nil, err
		}
		return attached(storage.VolumeAttachments().Lister(), listers), nil
	})
	return s, nil, nil
}

// required returns the drivers of volumes that say that no pod is to come to a node which does not have them.
func required(drivers storagelisters.CSIDriverLister, volumes attachments) []string {
	names := sets.New[string]()
	for _, name := range volumes {
		if driver, err := drivers.Get(name); err == nil && ptr.Deref(driver.Spec.PreventPodSchedulingIfMissing, false) {
			names.Insert(name)
		}
	}
	return sets.List(names)
}

// attached lists by node what VolumeAttachments tell.
func attached(lister storagelisters.VolumeAttachmentLister, listers *podvolumes.Listers) map[string]attachments {
	all, _ := lister.List(labels.Everything()) // reads memory; does not fail
	byNode := make(map[string]attachments)
	for _, a := range all {
		name := a.Spec.Source.PersistentVolumeName
		if name == nil || a.Spec.Attacher == "" {
			continue
		}
		pv, err := listers.Volumes.Get(*name)
		if err != nil || pv.Spec.CSI == nil {
			continue
		}
		if byNode[a.Spec.NodeName] == nil {
			byNode[a.Spec.NodeName] = make(attachments)
		}
		byNode[a.Spec.NodeName][unique(a.Spec.Attacher, pv.Spec.CSI.VolumeHandle)] = a.Spec.Attacher
	}
	return byNode
}

func unique(driver, handle string) string { return driver + "/" + handle }

// add counts in the volumes behind a pod's claims.
func (a attachments) add(listers *podvolumes.Listers, pod *v1.Pod) error {
	claims, err := listers.Of(pod)
	if err != nil {
		return err
	}
	for _, claim := range claims {
		driver, handle := csiVolume(listers, claim)
		if driver != "" {
			a[unique(driver, handle)] = driver
		}
	}
	return nil
}

// csiVolume names the claim's volume; if it has none yet, the claim stands for the one to come.
func csiVolume(listers *podvolumes.Listers, claim *v1.PersistentVolumeClaim) (driver, handle string) {
	if claim.Spec.VolumeName != "" {
		if pv, err := listers.Volumes.Get(claim.Spec.VolumeName); err == nil {
			if pv.Spec.CSI == nil {
				return "", ""
			}
			return pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle
		}
	}
	class, err := listers.Classes.Get(volume.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return "", ""
	}
	return class.Provisioner, claim.Namespace + "/" + claim.Name
}

func (plugin) Filter(st framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := st.(*state)
	csiNode, err := s.csiNodes.Get(node.Node.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return framework.AsStatus(err)
	}
	for _, driver := range s.required {
		if csiNode == nil || !hasDriver(csiNode, driver) {
			return framework.Reject(fmt.Sprintf("%s CSI driver is not installed on the node", driver))
		}
	}
	limits := limits(csiNode)
	if len(limits) == 0 {
		return nil
	}
	there := make(attachments)
	for _, other := range node.Pods {
		if podvolumes.HasClaims(other.Pod) {
			_ = there.add(s.listers, other.Pod) // a claim that is gone takes no place
		}
	}
	attached, err := s.byNode()
	if err != nil {
		return framework.AsStatus(err)
	}
	counts := make(map[string]int)
	for _, driver := range there {
		counts[driver]++
	}
	for name, driver := range attached[node.Node.Name] {
		if _, known := there[name]; !known {
			counts[driver]++
		}
	}
	for name, driver := range s.wanted {
		if _, shared := there[name]; !shared {
			counts[driver]++
		}
	}
	for name, driver := range s.wanted {
		limit, limited := limits[driver]
		if _, shared := there[name]; !shared && limited && counts[driver] > limit {
			return exceeded
		}
	}
	return nil
}

func hasDriver(node *storagev1.CSINode, name string) bool {
	for i := range node.Spec.Drivers {
		if node.Spec.Drivers[i].Name == name {
			return true
		}
	}
	return false
}

// limits by driver; one that has none is missing.
func limits(node *storagev1.CSINode) map[string]int {
	limits := make(map[string]int)
	if node == nil {
		return limits
	}
	for _, driver := range node.Spec.Drivers {
		if driver.Allocatable != nil && driver.Allocatable.Count != nil {
			limits[driver.Name] = int(*driver.Allocatable.Count)
		}
	}
	return limits
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.CSINode, Action: framework.Add},
		{Kind: framework.CSINode, Action: framework.UpdateOther, Helps: moreOfDriver},
		{Kind: framework.CSIDriver, Action: framework.UpdateOther | framework.Delete, Helps: noLongerRequired},
		{Kind: framework.AssignedPod, Action: framework.Delete, Helps: func(_ *framework.PodInfo, event *framework.Event) bool {
			return podvolumes.HasClaims(event.OldPod())
		}},
		podvolumes.ClaimHint(framework.Add),
		{Kind: framework.VolumeAttachment, Action: framework.Delete},
	}
}

// moreOfDriver says whether the node has a driver that it lacked, or one that attaches more volumes than before.
func moreOfDriver(_ *framework.PodInfo, event *framework.Event) bool {
	old, now := event.Old.(*storagev1.CSINode), event.New.(*storagev1.CSINode)
	before, after := limits(old), limits(now)
	for i := range now.Spec.Drivers {
		name := now.Spec.Drivers[i].Name
		limit, limited := after[name]
		was, wasLimited := before[name]
		if !hasDriver(old, name) || wasLimited && (!limited || limit > was) {
			return true
		}
	}
	return false
}

// noLongerRequired says whether the driver may be missing from now on.
func noLongerRequired(_ *framework.PodInfo, event *framework.Event) bool {
	old, _ := event.Old.(*storagev1.CSIDriver)
	now, _ := event.New.(*storagev1.CSIDriver)
	return old != nil && ptr.Deref(old.Spec.PreventPodSchedulingIfMissing, false) &&
		(now == nil || !ptr.Deref(now.Spec.PreventPodSchedulingIfMissing, false))
}
