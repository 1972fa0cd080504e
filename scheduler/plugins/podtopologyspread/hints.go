// SPDX-License-Identifier: Apache-2.0

package podtopologyspread

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

func (p *plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.AssignedPod, Action: framework.Add | framework.Delete | framework.UpdatePodLabel | framework.UpdateOther, Helps: p.podHelps},
		{Kind: framework.TargetPod, Action: framework.UpdatePodLabel},
		{Kind: framework.TargetPod, Action: framework.UpdatePodTolerations, Helps: p.tolerationHelps},
		{Kind: framework.Node, Action: framework.Add | framework.Delete | framework.UpdateNodeLabel | framework.UpdateNodeTaint, Helps: p.nodeHelps},
	}
}

// podHelps says whether some constraint counts a pod that came or went, or counts it since its update and not before, or the other way round.
func (p *plugin) podHelps(pod *framework.PodInfo, event *framework.Event) bool {
	old, now := event.OldPod(), event.NewPod()
	counts := func(c *constraint, other *v1.Pod) bool {
		return other != nil && other.Namespace == pod.Pod.Namespace && c.selector.Matches(labels.Set(other.Labels))
	}
	constraints := p.hardConstraints(pod.Pod)
	for i := range constraints {
		c := &constraints[i]
		was, is := counts(c, old), counts(c, now)
		if was != is || is && old.DeletionTimestamp == nil && now.DeletionTimestamp != nil {
			return true
		}
	}
	return false
}

// tolerationHelps says whether there are constraints that leave out nodes with taints.
func (p *plugin) tolerationHelps(pod *framework.PodInfo, _ *framework.Event) bool {
	for _, c := range p.hardConstraints(pod.Pod) {
		if c.honorTaints {
			return true
		}
	}
	return false
}

// nodeHelps says whether a node has entered a domain that counts, left one, or changed from one to another.
func (p *plugin) nodeHelps(pod *framework.PodInfo, event *framework.Event) bool {
	constraints := p.hardConstraints(pod.Pod)
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	domain := func(c *constraint, node *v1.Node) (value string, counts bool) {
		if node == nil || !hasKeys(node, constraints) || !c.includes(pod.Pod, &required, node) {
			return "", false
		}
		return node.Labels[c.key], true
	}
	for i := range constraints {
		was, did := domain(&constraints[i], event.OldNode())
		is, does := domain(&constraints[i], event.NewNode())
		if did != does || was != is {
			return true
		}
	}
	return false
}

// hardConstraints are those that can reject the pod, as far as hints need them. Defaults have no selector yet and are taken to match
// everything.
func (p *plugin) hardConstraints(pod *v1.Pod) []constraint {
	of := pod.Spec.TopologySpreadConstraints
	if len(of) == 0 {
		of = p.defaults
	}
	constraints, _ := parse(of, pod.Labels, v1.DoNotSchedule)
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		for i := range constraints {
			constraints[i].selector = labels.Everything()
		}
	}
	return constraints
}
