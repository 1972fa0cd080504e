// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
	"k8s.io/utils/ptr"
)

// priority turns a pod's priority class into a number, and keeps the default class the only one.
type priority struct {
	*admission.Handler
	classes schedulinglisters.PriorityClassLister
	synced  synced
}

var _ interface {
	admission.MutationInterface
	admission.ValidationInterface
} = (*priority)(nil)

func newPriority(d *Deps) admission.Interface {
	informer := d.Informers.Scheduling().V1().PriorityClasses()
	return &priority{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		classes: informer.Lister(),
		synced:  waitFor(informer.Informer()),
	}
}

func (p *priority) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !isFor(a, pods, "") {
		return nil
	}
	if old, ok := a.GetOldObject().(*corev1.Pod); ok && a.GetOperation() == admission.Update {
		keepPriority(pod, old)
		return nil
	}
	if err := p.synced.wait(ctx, a); err != nil {
		return err
	}
	class, err := p.classOf(a, pod)
	if err != nil {
		return err
	}
	pod.Spec.PriorityClassName = class.Name
	if pod.Spec.Priority != nil && *pod.Spec.Priority != class.Value {
		return forbid(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, class.Value))
	}
	pod.Spec.Priority = ptr.To(class.Value)
	if class.PreemptionPolicy == nil {
		return nil
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != *class.PreemptionPolicy {
		return forbid(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, *class.PreemptionPolicy))
	}
	pod.Spec.PreemptionPolicy = ptr.To(*class.PreemptionPolicy)
	return nil
}

// keepPriority forgives clients that leave out what the first write filled in.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

// classOf is the pod's class, the default class, or one without name and with priority 0.
func (p *priority) classOf(a admission.Attributes, pod *corev1.Pod) (*schedulingv1.PriorityClass, error) {
	if name := pod.Spec.PriorityClassName; name != "" {
		class, err := p.classes.Get(name)
		if apierrors.IsNotFound(err) {
			return nil, forbid(a, fmt.Errorf("no PriorityClass with name %v was found", name))
		}
		return class, err
	}
	class, err := p.defaultClass()
	if class == nil && err == nil {
		class = &schedulingv1.PriorityClass{PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)}
	}
	return class, err
}

// defaultClass is the lowest, if two were made default at the same moment.
func (p *priority) defaultClass() (lowest *schedulingv1.PriorityClass, err error) {
	classes, err := p.classes.List(labels.Everything())
	for _, c := range classes {
		if c.GlobalDefault && (lowest == nil || c.Value < lowest.Value) {
			lowest = c
		}
	}
	return lowest, err
}

func (p *priority) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	class, ok := a.GetObject().(*schedulingv1.PriorityClass)
	if !ok || a.GetSubresource() != "" || !class.GlobalDefault {
		return nil
	}
	if err := p.synced.wait(ctx, a); err != nil {
		return err
	}
	other, err := p.defaultClass()
	if err != nil {
		return fmt.Errorf("get default priority class: %w", err)
	}
	if other != nil && (a.GetOperation() == admission.Create || other.Name != class.Name) {
		return forbid(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
	}
	return nil
}
