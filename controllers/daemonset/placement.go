// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// templateGenerationLabel tells pods of different templates apart that come from before there were hashes.
const templateGenerationLabel = "pod-template-generation"

// placement says which nodes a DaemonSet is for.
type placement struct {
	node        string // "" for any
	tolerations []corev1.Toleration
	affinity    nodeaffinity.RequiredNodeAffinity
}

func newPlacement(set *appsv1.DaemonSet) *placement {
	spec := &set.Spec.Template.Spec
	return &placement{
		node:        spec.NodeName,
		tolerations: tolerations(spec),
		affinity:    nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity),
	}
}

// on tells whether a pod should run on the node, and whether one that is there may stay.
func (p *placement) on(node *corev1.Node) (run, stay bool) {
	if p.node != "" && p.node != node.Name {
		return false, false
	}
	if fits, _ := p.affinity.Match(node); !fits {
		return false, false
	}
	if p.hurtBy(node, corev1.TaintEffectNoExecute) {
		return false, false
	}
	return !p.hurtBy(node, corev1.TaintEffectNoSchedule), true
}

func (p *placement) hurtBy(node *corev1.Node, effect corev1.TaintEffect) bool {
	ofEffect := func(t *corev1.Taint) bool { return t.Effect == effect }
	_, hurt := scheduling.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, p.tolerations, ofEffect, false)
	return hurt
}

// tolerations are those of the template and those that every daemon pod has: trouble with a node is no reason to do
// without what runs on each node.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	type taint struct {
		key    string
		effect corev1.TaintEffect
	}
	tolerated := []taint{
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute},
		{corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule},
		{corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule},
		{corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule},
		{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule},
	}
	if spec.HostNetwork {
		tolerated = append(tolerated, taint{corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule})
	}
	all := slices.Clone(spec.Tolerations)
	for _, t := range tolerated {
		add := corev1.Toleration{Key: t.key, Operator: corev1.TolerationOpExists, Effect: t.effect}
		if i := slices.IndexFunc(all, func(have corev1.Toleration) bool { return have.MatchToleration(&add) }); i >= 0 {
			all[i] = add // for ever, not just for a while
		} else {
			all = append(all, add)
		}
	}
	return all
}

// newPod makes the pod for a node.
func (s *state) newPod(node string) *corev1.Pod {
	pod := podcontrol.FromTemplate(&s.set.Spec.Template, s.set, metav1.NewControllerRef(s.set, kind))
	maps.Copy(pod.Labels, s.revisionLabels())
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	pod.Spec.Affinity = onlyOn(pod.Spec.Affinity, node)
	return pod
}

// onlyOn replaces the nodes that an affinity requires by one, which satisfied it.
func onlyOn(affinity *corev1.Affinity, node string) *corev1.Affinity {
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}
	return affinity
}

// nodeOf returns the node that a pod is bound to, or else was made for; "" if it is for no node in particular.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}
