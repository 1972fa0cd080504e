// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"math/bits"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is a kind of object whose changes may make a rejected pod schedulable.
type Kind string

// The kinds that the scheduler watches. A pod is in one of three roles.
const (
	AnyKind            Kind = "*"
	Node               Kind = "Node"
	AssignedPod        Kind = "AssignedPod"    // a pod that has a node
	UnscheduledPod     Kind = "UnscheduledPod" // another pod that has none
	TargetPod          Kind = "TargetPod"      // the rejected pod itself
	Namespace          Kind = "Namespace"
	Service            Kind = "Service"
	PersistentVolume   Kind = "PersistentVolume"
	PersistentClaim    Kind = "PersistentVolumeClaim"
	StorageClass       Kind = "StorageClass"
	CSINode            Kind = "CSINode"
	CSIDriver          Kind = "CSIDriver"
	CSIStorageCapacity Kind = "CSIStorageCapacity"
	VolumeAttachment   Kind = "VolumeAttachment"
	ResourceClaim      Kind = "ResourceClaim"
	ResourceSlice      Kind = "ResourceSlice"
	DeviceClass        Kind = "DeviceClass"
	DeviceTaintRule    Kind = "DeviceTaintRule"
)

// Action is a set of things that happened to an object.
type Action uint

// The actions. One event may carry several updates.
const (
	Add Action = 1 << iota
	Delete
	UpdateNodeAllocatable
	UpdateNodeLabel
	UpdateNodeTaint // also when the node is uncordoned
	UpdateNodeDeclaredFeature
	UpdateNodeCondition // another status of a condition, as opposed to a heartbeat
	UpdateNodeAnnotation
	UpdatePodLabel
	UpdatePodScaleDown
	UpdatePodTolerations
	UpdatePodGates
	UpdatePodGeneratedClaim
	UpdateOther

	Update = UpdateNodeAllocatable | UpdateNodeLabel | UpdateNodeTaint | UpdateNodeDeclaredFeature | UpdateNodeCondition | UpdateNodeAnnotation |
		UpdatePodLabel | UpdatePodScaleDown | UpdatePodTolerations | UpdatePodGates | UpdatePodGeneratedClaim | UpdateOther
	Any = Add | Delete | Update
)

// String names an action as metrics do; of several updates the first.
func (a Action) String() string {
	names := [...]string{
		"Add", "Delete", "UpdateNodeAllocatable", "UpdateNodeLabel", "UpdateNodeTaint", "UpdateNodeDeclaredFeature",
		"UpdateNodeCondition", "UpdateNodeAnnotation", "UpdatePodLabel", "UpdatePodScaleDown", "UpdatePodToleration", "UpdatePodSchedulingGatesEliminated", "UpdatePodGeneratedResourceClaim", "Update",
	}
	return names[min(bits.TrailingZeros(uint(a)), len(names)-1)]
}

// Label names an event as metrics do.
func (e *Event) Label() string { return string(e.Kind) + e.Action.String() }

// Event is a change in the cluster. Old is nil when added, New when deleted.
type Event struct {
	Kind     Kind
	Action   Action
	Old, New any
	// UpTo is the priority of the most important pods that the event is for; nil for all.
	UpTo *int32
	// For is the only pod that the event is for; empty for all.
	For types.UID
}

// OldNode and NewNode are for hints on Node events; nil when there is none.
func (e *Event) OldNode() *v1.Node { n, _ := e.Old.(*v1.Node); return n }

// NewNode see OldNode.
func (e *Event) NewNode() *v1.Node { n, _ := e.New.(*v1.Node); return n }

// OldPod is for hints on pod events; nil when there is none.
func (e *Event) OldPod() *v1.Pod { p, _ := e.Old.(*v1.Pod); return p }

// NewPod see OldPod.
func (e *Event) NewPod() *v1.Pod { p, _ := e.New.(*v1.Pod); return p }

// Hint says which events may make a pod schedulable that the plugin rejected, and how to tell.
type Hint struct {
	Kind   Kind
	Action Action
	// Helps looks closer; nil means that every such event helps.
	Helps func(pod *PodInfo, event *Event) bool
}

// Covers says whether the hint is about the event at all.
func (h *Hint) Covers(event *Event) bool {
	return (h.Kind == AnyKind || event.Kind == AnyKind || h.Kind == event.Kind) && h.Action&event.Action != 0
}
