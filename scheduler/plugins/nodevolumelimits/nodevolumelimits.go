// SPDX-License-Identifier: Apache-2.0

// Package nodevolumelimits keeps pods off nodes that cannot attach all their volumes, by the limits that CSI drivers
// report in CSINode.
package nodevolumelimits

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/component-helpers/storage/volume"

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
}

// attachments has the driver of each volume, by a name that is unique.
type attachments map[string]string

func (p plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if !podvolumes.HasClaims(pod.Pod) {
		return nil, nil, framework.SkipStatus
	}
	listers, err := podvolumes.NewListers(ctx, p.handle)
	if err == nil {
		err = p.handle.Need(ctx, framework.CSINode)
	}
	if err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	s := &state{listers: listers, csiNodes: p.handle.Informers.Storage().V1().CSINodes().Lister(), wanted: make(attachments)}
	if err := s.wanted.add(listers, pod.Pod); err != nil {
		if m := (*podvolumes.Missing)(nil); errors.As(err, &m) {
			return nil, nil, framework.RejectForGood(m.Error())
		}
		return nil, nil, framework.AsStatus(err)
	}
	if len(s.wanted) == 0 {
		return nil, nil, framework.SkipStatus
	}
	return s, nil, nil
}

// add counts in the volumes behind a pod's claims.
func (a attachments) add(listers *podvolumes.Listers, pod *v1.Pod) error {
	claims, err := listers.Of(pod)
	if err != nil {
		return err
	}
	for _, claim := range claims {
		driver, handle := csiVolume(listers, claim)
		if driver != "" {
			a[driver+"/"+handle] = driver
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
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return framework.AsStatus(err)
	}
	limits := limits(csiNode)
	if len(limits) == 0 {
		return nil
	}
	attached := make(attachments)
	for _, other := range node.Pods {
		if podvolumes.HasClaims(other.Pod) {
			_ = attached.add(s.listers, other.Pod) // a claim that is gone takes no place
		}
	}
	counts := make(map[string]int)
	for _, driver := range attached {
		counts[driver]++
	}
	for name, driver := range s.wanted {
		if _, shared := attached[name]; !shared {
			counts[driver]++
		}
	}
	for name, driver := range s.wanted {
		limit, limited := limits[driver]
		if _, shared := attached[name]; !shared && limited && counts[driver] > limit {
			return exceeded
		}
	}
	return nil
}

func limits(node *storagev1.CSINode) map[string]int {
	limits := make(map[string]int)
	for _, driver := range node.Spec.Drivers {
		if driver.Allocatable != nil && driver.Allocatable.Count != nil {
			limits[driver.Name] = int(*driver.Allocatable.Count)
		}
	}
	return limits
}

func (plugin) Hints() []framework.Hint {
	return append(podvolumes.Hints(),
		framework.Hint{Kind: framework.AssignedPod, Action: framework.Delete},
		framework.Hint{Kind: framework.CSINode, Action: framework.Add | framework.UpdateOther},
	)
}
