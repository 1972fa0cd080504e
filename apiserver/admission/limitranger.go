// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in a namespace's default requests and limits, and keeps pods and claims within
// its bounds.
type limitRanger struct {
	*admission.Handler
	ranges corelisters.LimitRangeLister
	synced synced
}

var _ interface {
	admission.MutationInterface
	admission.ValidationInterface
} = (*limitRanger)(nil)

func newLimitRanger(d *Deps) admission.Interface {
	informer := d.Informers.Core().V1().LimitRanges()
	return &limitRanger{admission.NewHandler(admission.Create, admission.Update), informer.Lister(), waitFor(informer.Informer())}
}

// rangesFor are the LimitRanges that the request is subject to. A pod's resources change on create
// and resize only, and what is being deleted may go on.
func (l *limitRanger) rangesFor(ctx context.Context, a admission.Attributes) ([]*corev1.LimitRange, error) {
	update := a.GetOperation() == admission.Update
	switch {
	case isFor(a, pods, "resize") && update, isFor(a, pods, "") && !update, isFor(a, claims, ""):
	default:
		return nil, nil
	}
	if a.GetOldObject() != nil {
		old, err := meta.Accessor(a.GetOldObject())
		if err != nil {
			return nil, forbid(a, err)
		}
		if old.GetDeletionTimestamp() != nil {
			return nil, nil
		}
	}
	if err := l.synced.wait(ctx, a); err != nil {
		return nil, err
	}
	return l.ranges.LimitRanges(a.GetNamespace()).List(labels.Everything())
}

func (l *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ranges, err := l.rangesFor(ctx, a)
	if err != nil {
		return err
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil
	}
	for _, r := range ranges {
		setDefaultResources(r, pod)
	}
	return nil
}

func (l *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ranges, err := l.rangesFor(ctx, a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		var errs []error
		switch o := a.GetObject().(type) {
		case *corev1.Pod:
			errs = podErrors(r, o)
		case *corev1.PersistentVolumeClaim:
			errs = claimErrors(r, o)
		}
		if len(errs) > 0 {
			return forbid(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// setDefaultResources notes in an annotation what it changed.
func setDefaultResources(r *corev1.LimitRange, pod *corev1.Pod) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	var notes []string
	fill := func(kind string, containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if set := fillIn(&c.Resources.Requests, requests); len(set) > 0 {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", strings.Join(set, ", "), kind, c.Name))
			}
			if set := fillIn(&c.Resources.Limits, limits); len(set) > 0 {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", strings.Join(set, ", "), kind, c.Name))
			}
		}
	}
	fill("container", pod.Spec.Containers)
	fill("init container", pod.Spec.InitContainers)
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

// fillIn adds what the list lacks and names it in order.
func fillIn(list *corev1.ResourceList, defaults corev1.ResourceList) []string {
	var set []string
	for name, quantity := range defaults {
		if _, ok := (*list)[name]; ok {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = quantity.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

func podErrors(r *corev1.LimitRange, pod *corev1.Pod) (errs []error) {
	for _, item := range r.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
				errs = append(errs, outOfBounds(item, c.Resources.Requests, c.Resources.Limits)...)
			}
		case corev1.LimitTypePod:
			options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, outOfBounds(item, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))...)
		}
	}
	return errs
}

func claimErrors(r *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) (errs []error) {
	for _, item := range r.Spec.Limits {
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		requests := claim.Spec.Resources.Requests
		for name, bound := range item.Min {
			errs = appendError(errs, belowMin(item.Type, name, bound, requests, nil))
		}
		for name, bound := range item.Max {
			request, ok := requests[name]
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String()))
			case request.Cmp(bound) > 0:
				errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String()))
			}
		}
	}
	return errs
}

func outOfBounds(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for name, bound := range item.Min {
		errs = appendError(errs, belowMin(item.Type, name, bound, requests, limits))
	}
	for name, bound := range item.Max {
		errs = appendError(errs, aboveMax(item.Type, name, bound, requests, limits))
	}
	for name, bound := range item.MaxLimitRequestRatio {
		errs = appendError(errs, aboveRatio(item.Type, name, bound, requests, limits))
	}
	return errs
}

func appendError(errs []error, err error) []error {
	if err == nil {
		return errs
	}
	return append(errs, err)
}

func belowMin(of corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !requested:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, of, bound.String())
	case request.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, of, bound.String(), request.String())
	case limited && limit.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, of, bound.String(), limit.String())
	}
	return nil
}

func aboveMax(of corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, of, bound.String())
	case limit.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, of, bound.String(), limit.String())
	case requested && request.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, of, bound.String(), request.String())
	}
	return nil
}

func aboveRatio(of corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, limit := requests[name], limits[name]
	switch {
	case request.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, of, bound.String())
	case limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, of, bound.String())
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > bound.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, of, bound.String(), ratio)
	}
	return nil
}
