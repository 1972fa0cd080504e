// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"
)

// declaredFeatures refuses to change a pod into something that its node says it cannot do.
type declaredFeatures struct {
	*admission.Handler
	nodes     corelisters.NodeLister
	framework *nodedeclaredfeatures.Framework
	version   *version.Version
}

var _ admission.ValidationInterface = (*declaredFeatures)(nil)

func newDeclaredFeatures(d *Deps) admission.Interface {
	return &declaredFeatures{
		Handler:   admission.NewHandler(admission.Update),
		nodes:     d.Informers.Core().V1().Nodes().Lister(),
		framework: nodedeclaredfeatures.DefaultFramework,
		version:   d.Version.BinaryVersion(),
	}
}

func (p *declaredFeatures) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	old, okOld := a.GetOldObject().(*corev1.Pod)
	if !ok || !okOld || !isFor(a, pods, "") && !isFor(a, pods, "resize") || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	needed, err := p.framework.InferForPodUpdate(
		&nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status},
		&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, p.version)
	if err != nil {
		return forbid(a, fmt.Errorf("failed to infer pod capability requirements: %w", err))
	}
	if needed.IsEmpty() {
		return nil
	}
	node, err := p.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return forbid(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if err != nil {
		return forbid(a, fmt.Errorf("failed to get node %q: %w", pod.Spec.NodeName, err))
	}
	result, err := p.framework.MatchNode(needed, node)
	if err != nil {
		return forbid(a, fmt.Errorf("failed to match pod requirements against node %q: %w", node.Name, err))
	}
	if !result.IsMatch {
		return forbid(a, fmt.Errorf("pod update requires features %s which are not available on node %q", strings.Join(result.UnsatisfiedRequirements, ", "), node.Name))
	}
	return nil
}
