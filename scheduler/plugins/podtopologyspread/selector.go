// SPDX-License-Identifier: Apache-2.0

package podtopologyspread

import (
	"context"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// defaultSelector picks the pods that belong together with pod: those of the same Services and controller. It
// is empty if there are none.
func (p *plugin) defaultSelector(ctx context.Context, pod *v1.Pod) (labels.Selector, error) {
	set, err := p.serviceLabels(ctx, pod)
	if err != nil {
		return nil, err
	}
	selector := labels.NewSelector()
	if len(set) > 0 {
		selector = set.AsSelector()
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return selector, nil
	}
	ofOwner, err := p.ownerSelector(ctx, pod.Namespace, owner)
	if err != nil || ofOwner == nil {
		return selector, err
	}
	requirements, _ := ofOwner.Requirements()
	return selector.Add(requirements...), nil
}

// serviceLabels merges the selectors of all Services that select the pod.
func (p *plugin) serviceLabels(ctx context.Context, pod *v1.Pod) (labels.Set, error) {
	if len(pod.Labels) == 0 {
		return nil, nil
	}
	if err := p.handle.Need(ctx, framework.Service); err != nil {
		return nil, err
	}
	services, err := p.handle.Informers.Core().V1().Services().Lister().Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	set := labels.Set{}
	for _, service := range services {
		if len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			set = labels.Merge(set, service.Spec.Selector)
		}
	}
	return set, nil
}

// ownerSelector returns the selector of the controller that owns the pod; nil if it has none or is gone.
func (p *plugin) ownerSelector(ctx context.Context, namespace string, owner *metav1.OwnerReference) (labels.Selector, error) {
	apps, core := p.handle.Informers.Apps().V1(), p.handle.Informers.Core().V1()
	switch owner.APIVersion + "/" + owner.Kind {
	case "apps/v1/ReplicaSet":
		if err := p.handle.Need(ctx, framework.ReplicaSet); err != nil {
			return nil, err
		}
		if rs, err := apps.ReplicaSets().Lister().ReplicaSets(namespace).Get(owner.Name); err == nil {
			return metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		}
	case "apps/v1/StatefulSet":
		if err := p.handle.Need(ctx, framework.StatefulSet); err != nil {
			return nil, err
		}
		if set, err := apps.StatefulSets().Lister().StatefulSets(namespace).Get(owner.Name); err == nil {
			return metav1.LabelSelectorAsSelector(set.Spec.Selector)
		}
	case "v1/ReplicationController":
		if err := p.handle.Need(ctx, framework.ReplicationController); err != nil {
			return nil, err
		}
		if rc, err := core.ReplicationControllers().Lister().ReplicationControllers(namespace).Get(owner.Name); err == nil {
			return labels.SelectorFromSet(rc.Spec.Selector), nil
		}
	}
	return nil, nil
}
