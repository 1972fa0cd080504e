// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

// defaultTolerationSeconds lets pods stay five minutes on a node that is lost or not ready.
type defaultTolerationSeconds struct{ *admission.Handler }

var _ admission.MutationInterface = defaultTolerationSeconds{}

const tolerationSeconds = 300

func newDefaultTolerationSeconds(*Deps) admission.Interface {
	return defaultTolerationSeconds{admission.NewHandler(admission.Create, admission.Update)}
}

func (defaultTolerationSeconds) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !isFor(a, pods, "") {
		return nil
	}
	said := slices.Clone(pod.Spec.Tolerations)
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if slices.ContainsFunc(said, func(t corev1.Toleration) bool {
			return (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		}) {
			continue
		}
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute,
			TolerationSeconds: ptr.To[int64](tolerationSeconds),
		})
	}
	return nil
}

// taintNodesByCondition keeps pods off a new node until it is known to be ready.
type taintNodesByCondition struct{ *admission.Handler }

var _ admission.MutationInterface = taintNodesByCondition{}

func newTaintNodesByCondition(*Deps) admission.Interface {
	return taintNodesByCondition{admission.NewHandler(admission.Create)}
}

func (taintNodesByCondition) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := a.GetObject().(*corev1.Node)
	if !ok || !isFor(a, nodes, "") {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}
