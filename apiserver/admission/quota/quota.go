// SPDX-License-Identifier: Apache-2.0

// Package quota knows what objects cost: a Pod its requests and limits, a claim its storage or devices, a Service
// its node ports, everything else one. Admission charges by it, and the ResourceQuota controller adds
// up by it.
// Reference: https://kubernetes.io/docs/concepts/policy/resource-quotas/
package quota

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Configuration is what the quota machinery of k8s.io/apiserver takes. Where nothing is added up, as in admission, lister needs
// to know only Pods, ResourceClaims and DeviceClasses, on which the charge of claims depends.
func Configuration(lister quota.ListerForResourceFunc) quota.Configuration {
	return generic.NewConfiguration(Evaluators(lister), Ignored())
}

// Evaluators are those that do more than count. Whoever meets another resource makes a
// generic.NewObjectCountEvaluator for it.
func Evaluators(lister quota.ListerForResourceFunc) []quota.Evaluator {
	all := []quota.Evaluator{podEvaluator(lister), serviceEvaluator(lister), claimEvaluator(lister), resourceClaimEvaluator(lister)}
	for plural, name := range map[string]corev1.ResourceName{ // these had names of their own before all had
		"configmaps":             corev1.ResourceConfigMaps,
		"resourcequotas":         corev1.ResourceQuotas,
		"replicationcontrollers": corev1.ResourceReplicationControllers,
		"secrets":                corev1.ResourceSecrets,
	} {
		kind := corev1.SchemeGroupVersion.WithResource(plural)
		all = append(all, generic.NewObjectCountEvaluator(kind.GroupResource(), generic.ListResourceUsingListerFunc(lister, kind), name))
	}
	return all
}

// Ignored are resources that are not stored, and Events, which never counted.
func Ignored() map[schema.GroupResource]struct{} {
	return map[schema.GroupResource]struct{}{
		{Resource: "bindings"}:                                                 {},
		{Resource: "componentstatuses"}:                                        {},
		{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             {},
		{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:       {},
		{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      {},
		{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  {},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: {},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:   {},
		{Resource: "events"}:                         {},
		{Group: "events.k8s.io", Resource: "events"}: {},
	}
}

// evaluator is what one resource costs, as data and functions.
type evaluator struct {
	resource    schema.GroupVersionResource
	list        generic.ListFuncByNamespace
	handles     func(admission.Attributes) bool
	names       func(corev1.ResourceName) bool // the quota's resources that this one is charged to
	scope       generic.MatchesScopeFunc
	usage       generic.UsageFunc
	constraints func(required []corev1.ResourceName, item runtime.Object) error // nil: none
}

var _ quota.Evaluator = (*evaluator)(nil)

func (e *evaluator) GroupResource() schema.GroupResource { return e.resource.GroupResource() }
func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

// Constraints says what must be on an object so that it can be charged.
func (e *evaluator) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	if e.constraints == nil {
		return nil
	}
	return e.constraints(required, item)
}

// Matches tells whether the quota is about the object.
func (e *evaluator) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, e.scope)
}

// MatchingResources are those of the names that this resource is charged to.
func (e *evaluator) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	matching := []corev1.ResourceName{}
	for _, name := range names {
		if e.names(name) {
			matching = append(matching, name)
		}
	}
	return matching
}

// MatchingScopes are those of the scopes that the object is in.
func (e *evaluator) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	matching := []corev1.ScopedResourceSelectorRequirement{}
	for _, s := range scopes {
		ok, err := e.scope(s, item)
		if err != nil {
			return nil, fmt.Errorf("error on matching scope %v: %w", s, err)
		}
		if ok {
			matching = append(matching, s)
		}
	}
	return matching, nil
}

// UncoveredQuotaScopes are the limited scopes for which there is no quota.
func (e *evaluator) UncoveredQuotaScopes(limited, covered []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	has := map[corev1.ResourceQuotaScope]bool{}
	for _, s := range covered {
		has[s.ScopeName] = true
	}
	uncovered := []corev1.ScopedResourceSelectorRequirement{}
	for _, s := range limited {
		if !has[s.ScopeName] {
			uncovered = append(uncovered, s)
		}
	}
	return uncovered, nil
}

// Usage is what one object costs.
func (e *evaluator) Usage(item runtime.Object) (corev1.ResourceList, error) { return e.usage(item) }

// UsageStats is what all objects of a namespace cost.
func (e *evaluator) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.scope, e.usage)
}

func count(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// selects applies a scope's operator to the value that an object has, "" for none.
func selects(s corev1.ScopedResourceSelectorRequirement, value string) (bool, error) {
	op, ok := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[s.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", s.Operator)
	}
	requirement, err := labels.NewRequirement(string(s.ScopeName), op, s.Values)
	if err != nil {
		return false, fmt.Errorf("failed to parse and convert selector: %w", err)
	}
	set := labels.Set{}
	if value != "" {
		set[string(s.ScopeName)] = value
	}
	return requirement.Matches(set), nil
}
