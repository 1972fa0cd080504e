// SPDX-License-Identifier: Apache-2.0

// Package volumerestrictions keeps a pod from sharing what must not be shared: a ReadWriteOncePod claim that another
// pod uses, on any node, and a disk that another pod on the node has mounted.
package volumerestrictions

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podvolumes"
)

type plugin struct{ handle *framework.Handle }

// New makes the plugin.
func New(h *framework.Handle) (framework.Plugin, error) { return plugin{h}, nil }

func (plugin) Name() string { return "VolumeRestrictions" }

var (
	diskInUse  = framework.Reject("node(s) had no available disk")
	claimInUse = framework.Reject("node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
)

type state struct {
	exclusive sets.Set[string] // names of the pod's ReadWriteOncePod claims
	users     int              // of these, among the pods on nodes
	disks     bool             // the pod mounts disks directly
}

func (p plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, view *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	s := &state{disks: slices.ContainsFunc(pod.Pod.Spec.Volumes, isDisk)}
	usesClaim := func(v v1.Volume) bool { return v.PersistentVolumeClaim != nil }
	if slices.ContainsFunc(pod.Pod.Spec.Volumes, usesClaim) {
		listers, err := podvolumes.NewListers(ctx, p.handle)
		if err != nil {
			return nil, nil, framework.AsStatus(err)
		}
		if err := s.findExclusive(listers, pod.Pod, view); err != nil {
			return nil, nil, framework.RejectForGood(err.Error())
		}
	}
	if !s.disks && len(s.exclusive) == 0 {
		return nil, nil, framework.SkipStatus
	}
	return s, nil, nil
}

func (s *state) findExclusive(listers *podvolumes.Listers, pod *v1.Pod, view *framework.Snapshot) error {
	s.exclusive = sets.New[string]()
	for i := range pod.Spec.Volumes {
		source := pod.Spec.Volumes[i].PersistentVolumeClaim
		if source == nil || s.exclusive.Has(source.ClaimName) {
			continue
		}
		claim, err := listers.Claims.PersistentVolumeClaims(pod.Namespace).Get(source.ClaimName)
		if err != nil {
			return err
		}
		if slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) {
			s.exclusive.Insert(claim.Name)
			s.users += view.ClaimUsers(types.NamespacedName{Namespace: pod.Namespace, Name: claim.Name})
		}
	}
	return nil
}

func (plugin) Filter(st framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := st.(*state)
	if s.users > 0 {
		return claimInUse
	}
	if !s.disks {
		return nil
	}
	for i := range pod.Pod.Spec.Volumes {
		for _, other := range node.Pods {
			if conflicts(&pod.Pod.Spec.Volumes[i], other.Pod) {
				return diskInUse
			}
		}
	}
	return nil
}

func (plugin) Clone(st framework.State) framework.State {
	s := *st.(*state)
	return &s
}

func (plugin) PodAdded(st framework.State, pod, added *framework.PodInfo, _ *framework.NodeInfo) {
	s := st.(*state)
	s.users += s.uses(pod, added)
}

func (plugin) PodRemoved(st framework.State, pod, removed *framework.PodInfo, _ *framework.NodeInfo) {
	s := st.(*state)
	s.users -= s.uses(pod, removed)
}

func (s *state) uses(pod, other *framework.PodInfo) int {
	if pod.Pod.Namespace != other.Pod.Namespace {
		return 0
	}
	n := 0
	for i := range other.Pod.Spec.Volumes {
		if source := other.Pod.Spec.Volumes[i].PersistentVolumeClaim; source != nil && s.exclusive.Has(source.ClaimName) {
			n++
		}
	}
	return n
}

func isDisk(v v1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// conflicts says whether the other pod mounts the same disk. All but EBS may be shared for reading.
func conflicts(volume *v1.Volume, other *v1.Pod) bool {
	return slices.ContainsFunc(other.Spec.Volumes, func(o v1.Volume) bool {
		switch a := volume; {
		case a.GCEPersistentDisk != nil && o.GCEPersistentDisk != nil:
			return a.GCEPersistentDisk.PDName == o.GCEPersistentDisk.PDName && !(a.GCEPersistentDisk.ReadOnly && o.GCEPersistentDisk.ReadOnly)
		case a.AWSElasticBlockStore != nil && o.AWSElasticBlockStore != nil:
			return a.AWSElasticBlockStore.VolumeID == o.AWSElasticBlockStore.VolumeID
		case a.ISCSI != nil && o.ISCSI != nil:
			return a.ISCSI.IQN == o.ISCSI.IQN && !(a.ISCSI.ReadOnly && o.ISCSI.ReadOnly)
		case a.RBD != nil && o.RBD != nil:
			return sameRBD(a.RBD, o.RBD) && !(a.RBD.ReadOnly && o.RBD.ReadOnly)
		}
		return false
	})
}

func sameRBD(a, b *v1.RBDVolumeSource) bool {
	return a.RBDPool == b.RBDPool && a.RBDImage == b.RBDImage &&
		slices.ContainsFunc(a.CephMonitors, func(m string) bool { return slices.Contains(b.CephMonitors, m) })
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.AssignedPod, Action: framework.Delete, Helps: freesVolume},
		{Kind: framework.Node, Action: framework.Add},
		podvolumes.ClaimHint(framework.Add),
	}
}

// freesVolume says whether the pod that went had a disk, or a claim, that this one wants.
func freesVolume(pod *framework.PodInfo, event *framework.Event) bool {
	gone := event.OldPod()
	if gone.Namespace != pod.Pod.Namespace {
		return false
	}
	names := sets.New[string]()
	for i := range pod.Pod.Spec.Volumes {
		if source := pod.Pod.Spec.Volumes[i].PersistentVolumeClaim; source != nil {
			names.Insert(source.ClaimName)
		}
		if conflicts(&pod.Pod.Spec.Volumes[i], gone) {
			return true
		}
	}
	return slices.ContainsFunc(gone.Spec.Volumes, func(v v1.Volume) bool {
		return v.PersistentVolumeClaim != nil && names.Has(v.PersistentVolumeClaim.ClaimName)
	})
}
