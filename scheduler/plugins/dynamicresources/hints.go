// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

func (p *plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeLabel | framework.UpdateNodeAllocatable},
		{Kind: framework.ResourceClaim, Action: framework.Any, Helps: claimHelps},
		{Kind: framework.TargetPod, Action: framework.UpdatePodGeneratedClaim},
		{Kind: framework.DeviceClass, Action: framework.Add | framework.UpdateOther},
		{Kind: framework.ResourceSlice, Action: framework.Add | framework.UpdateOther},
		{Kind: framework.DeviceTaintRule, Action: framework.UpdateOther | framework.Delete},
	}
}

// claimHelps says whether a claim has given devices back, or is the pod's own and has changed in what matters.
func claimHelps(pod *framework.PodInfo, event *framework.Event) bool {
	old, _ := event.Old.(*resourcev1.ResourceClaim)
	now, _ := event.New.(*resourcev1.ResourceClaim)
	switch {
	case now == nil:
		return old == nil || old.Status.Allocation != nil
	case old != nil && old.Status.Allocation != nil && now.Status.Allocation == nil:
		return true
	case !uses(pod, now) && !metav1.IsControlledBy(now, pod.Pod):
		return false
	}
	return old == nil || !equality.Semantic.DeepEqual(old.Status, now.Status)
}

func uses(pod *framework.PodInfo, c *resourcev1.ResourceClaim) bool {
	if pod.Pod.Namespace != c.Namespace {
		return false
	}
	for i := range pod.Pod.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(pod.Pod, &pod.Pod.Spec.ResourceClaims[i]); err == nil && name != nil && *name == c.Name {
			return true
		}
	}
	return false
}
