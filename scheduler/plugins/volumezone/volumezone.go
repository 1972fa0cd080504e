// SPDX-License-Identifier: Apache-2.0

// Package volumezone keeps pods in the zone and region that their volumes' labels name.
package volumezone

import (
	"context"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podvolumes"
)

type plugin struct{ handle *framework.Handle }

// New makes the plugin.
func New(h *framework.Handle) (framework.Plugin, error) { return plugin{h}, nil }

func (plugin) Name() string { return "VolumeZone" }

var otherZone = framework.RejectForGood("node(s) had no available volume zone")

// successor maps the labels that count to their present names.
var successor = map[string]string{
	v1.LabelFailureDomainBetaZone:   v1.LabelTopologyZone,
	v1.LabelFailureDomainBetaRegion: v1.LabelTopologyRegion,
	v1.LabelTopologyZone:            v1.LabelTopologyZone,
	v1.LabelTopologyRegion:          v1.LabelTopologyRegion,
}

// topology is one label of a volume: the zones that it can be used in.
type topology struct {
	key    string
	values []string
}

func (p plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if !podvolumes.HasClaims(pod.Pod) {
		return nil, nil, framework.SkipStatus
	}
	listers, err := podvolumes.NewListers(ctx, p.handle)
	if err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	claims, err := listers.Of(pod.Pod)
	if err != nil {
		return nil, nil, framework.RejectForGood(err.Error())
	}
	var topologies []topology
	for _, claim := range claims {
		of, status := ofClaim(listers, claim)
		if status != nil {
			return nil, nil, status
		}
		topologies = append(topologies, of...)
	}
	if len(topologies) == 0 {
		return nil, nil, framework.SkipStatus
	}
	return topologies, nil, nil
}

// ofClaim leaves out claims that get their volume once the pod has its node.
func ofClaim(listers *podvolumes.Listers, claim *v1.PersistentVolumeClaim) ([]topology, *framework.Status) {
	if claim.Spec.VolumeName != "" {
		pv, err := listers.Volumes.Get(claim.Spec.VolumeName)
		if err != nil {
			return nil, framework.RejectForGood(err.Error())
		}
		return ofVolume(pv), nil
	}
	className := volume.GetPersistentVolumeClaimClass(claim)
	if className == "" {
		return nil, framework.RejectForGood("PersistentVolumeClaim had no pv name and storageClass name")
	}
	class, err := listers.Classes.Get(className)
	switch {
	case err != nil:
		return nil, framework.RejectForGood(err.Error())
	case class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer:
		return nil, nil
	}
	return nil, framework.RejectForGood("PersistentVolume had no name")
}

func ofVolume(pv *v1.PersistentVolume) []topology {
	var found []topology
	for key := range successor {
		if value, ok := pv.Labels[key]; ok {
			found = append(found, topology{key, strings.Split(value, "__")})
		}
	}
	return found
}

// Filter lets nodes pass that know nothing of zones.
func (plugin) Filter(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	labels := node.Node.Labels
	zoned := false
	for key := range successor {
		_, ok := labels[key]
		zoned = zoned || ok
	}
	if !zoned {
		return nil
	}
	for _, t := range state.([]topology) {
		value, ok := labels[t.key]
		if !ok {
			value, ok = labels[successor[t.key]]
		}
		if !ok || !slices.Contains(t.values, value) {
			return otherZone
		}
	}
	return nil
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{
		podvolumes.ClaimHint(framework.Add | framework.UpdateOther),
		{Kind: framework.PersistentVolume, Action: framework.Add},
		{Kind: framework.PersistentVolume, Action: framework.UpdateOther, Helps: otherZones},
		{Kind: framework.StorageClass, Action: framework.Add, Helps: waitsForConsumer},
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeLabel},
	}
}

// otherZones says whether the volume's labels name others than before.
func otherZones(_ *framework.PodInfo, event *framework.Event) bool {
	old, now := event.Old.(*v1.PersistentVolume), event.New.(*v1.PersistentVolume)
	for key := range successor {
		if old.Labels[key] != now.Labels[key] {
			return true
		}
	}
	return false
}

// waitsForConsumer says whether claims of the class get their volume once the pod has its node.
func waitsForConsumer(_ *framework.PodInfo, event *framework.Event) bool {
	class := event.New.(*storagev1.StorageClass)
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}
