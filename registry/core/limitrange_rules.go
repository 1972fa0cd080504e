// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// defaultLimitRange completes limits of containers: the limit is the maximum, the request is the limit,
// or else the minimum.
func defaultLimitRange(r *corev1.LimitRange) {
	for i := range r.Spec.Limits {
		l := &r.Spec.Limits[i]
		if l.Type == corev1.LimitTypeContainer {
			l.Default = withMissing(l.Default, l.Max)
			l.DefaultRequest = withMissing(withMissing(l.DefaultRequest, l.Default), l.Min)
		}
		for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
			podspec.DefaultResourceList(list)
		}
	}
}

func withMissing(list, from corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, q := range from {
		if _, ok := list[name]; !ok {
			list[name] = q.DeepCopy()
		}
	}
	return list
}

func validateLimitRange(r *corev1.LimitRange) field.ErrorList {
	errs := rule.ObjectMeta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	types := sets.New[corev1.LimitType]()
	for i := range r.Spec.Limits {
		l, at := &r.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(at.Child("type"), l.Type)...)
		errs = append(errs, rule.If(types.Has(l.Type), field.Duplicate(at.Child("type"), l.Type))...)
		types.Insert(l.Type)
		errs = append(errs, validateLimit(at, l)...)
	}
	return errs
}

func validateLimitType(path *field.Path, t corev1.LimitType) field.ErrorList {
	if errs := rule.Invalid(path, t, validation.IsQualifiedName(string(t))); len(errs) > 0 {
		return errs
	}
	known := slices.Contains([]corev1.LimitType{corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}, t)
	return rule.If(!known && !strings.Contains(string(t), "/"), field.Invalid(path, t, "must be a standard limit type or fully qualified"))
}

func validateLimit(path *field.Path, l *corev1.LimitRangeItem) field.ErrorList {
	isPod := l.Type == corev1.LimitTypePod
	checkName := podspec.ValidateResourceName
	if isPod || l.Type == corev1.LimitTypeContainer {
		checkName = podspec.ValidateContainerResourceName
	}
	var errs field.ErrorList
	names := sets.New[corev1.ResourceName]()
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
		notOfPods bool
	}{
		{"max", l.Max, false}, {"min", l.Min, false}, {"default", l.Default, true},
		{"defaultRequest", l.DefaultRequest, true}, {"maxLimitRequestRatio", l.MaxLimitRequestRatio, false},
	} {
		if isPod && list.notOfPods {
			errs = append(errs, rule.If(len(list.resources) > 0, field.Forbidden(path.Child(list.name), "may not be specified when `type` is 'Pod'"))...)
			continue
		}
		for _, name := range sets.List(sets.KeySet(list.resources)) {
			errs = append(errs, checkName(path.Child(list.name).Key(string(name)), name)...)
			names.Insert(name)
		}
	}
	_, hasMin := l.Min[corev1.ResourceStorage]
	_, hasMax := l.Max[corev1.ResourceStorage]
	if l.Type == corev1.LimitTypePersistentVolumeClaim && !hasMin && !hasMax {
		errs = append(errs, field.Required(path.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
	}
	for _, name := range sets.List(names) {
		errs = append(errs, validateLimitOrder(path, l, name)...)
	}
	return errs
}

// validateLimitOrder: of one resource, min <= default request <= default <= max.
func validateLimitOrder(path *field.Path, l *corev1.LimitRangeItem, name corev1.ResourceName) field.ErrorList {
	type amount struct {
		label string
		q     resource.Quantity
		ok    bool
	}
	of := func(label string, list corev1.ResourceList) amount {
		q, ok := list[name]
		return amount{label, q, ok}
	}
	least, most := of("min value", l.Min), of("max value", l.Max)
	limit, request := of("default value", l.Default), of("default request value", l.DefaultRequest)
	ratio := of("ratio", l.MaxLimitRequestRatio)
	if l.Type == corev1.LimitTypePod {
		limit.ok, request.ok = false, false
	}
	var errs field.ErrorList
	check := func(a, b amount, at string, bad amount) {
		errs = append(errs, rule.If(a.ok && b.ok && a.q.Cmp(b.q) > 0, field.Invalid(path.Child(at).Key(string(name)), bad.q,
			fmt.Sprintf("%s %s is greater than %s %s", a.label, a.q.String(), b.label, b.q.String())))...)
	}
	check(least, most, "min", least)
	check(least, request, "defaultRequest", request)
	check(request, most, "defaultRequest", request)
	check(request, amount{"default limit value", limit.q, limit.ok}, "defaultRequest", request)
	check(least, limit, "default", least)
	check(limit, most, "default", most)
	if ratio.ok {
		errs = append(errs, validateRatio(path.Child("maxLimitRequestRatio").Key(string(name)), ratio.q, least.q, most.q, least.ok && most.ok)...)
	}
	overcommit := podspec.IsNativeResource(name) && !podspec.IsHugePages(name)
	return append(errs, rule.If(!overcommit && limit.ok && request.ok && limit.q.Cmp(request.q) != 0, field.Invalid(
		path.Child("defaultRequest").Key(string(name)), request.q,
		fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.q.String(), request.q.String(), name)))...)
}

func validateRatio(path *field.Path, ratio, least, most resource.Quantity, bounded bool) field.ErrorList {
	errs := rule.If(ratio.Cmp(resource.MustParse("1")) < 0, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	if limit := most.AsApproximateFloat64() / least.AsApproximateFloat64(); bounded && ratio.AsApproximateFloat64() > limit {
		errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), limit)))
	}
	return errs
}
