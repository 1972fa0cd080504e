// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// Resources that quotas count, besides huge pages and what has a domain.
var quotaResources = sets.New(
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

// What a quota of some pods, or of some claims, can count.
var (
	podQuotas = []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	}
	scopeQuotas = map[corev1.ResourceQuotaScope][]corev1.ResourceName{
		corev1.ResourceQuotaScopeTerminating:               podQuotas,
		corev1.ResourceQuotaScopeNotTerminating:            podQuotas,
		corev1.ResourceQuotaScopeNotBestEffort:             podQuotas,
		corev1.ResourceQuotaScopePriorityClass:             podQuotas,
		corev1.ResourceQuotaScopeCrossNamespacePodAffinity: podQuotas,
		corev1.ResourceQuotaScopeBestEffort:                {corev1.ResourcePods},
		corev1.ResourceQuotaScopeVolumeAttributesClass:     {corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage},
	}
)

const existsOnly = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, " +
	"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"

func defaultResourceQuota(q *corev1.ResourceQuota) {
	podspec.DefaultResourceList(q.Spec.Hard)
	podspec.DefaultResourceList(q.Status.Hard)
	podspec.DefaultResourceList(q.Status.Used)
}

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	errs := rule.ObjectMeta(&q.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateQuotaSpec(&q.Spec)...)
}

func validateResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := append(rule.ObjectMetaUpdate(&q.ObjectMeta), validateQuotaSpec(&q.Spec)...)
	return append(errs, rule.If(!sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)),
		field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, rule.Immutable))...)
}

func validateResourceQuotaStatusUpdate(q, _ *corev1.ResourceQuota) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&q.ObjectMeta)
	errs = append(errs, rule.Required(field.NewPath("resourceVersion"), q.ResourceVersion)...)
	errs = append(errs, validateQuotaList(field.NewPath("status", "hard"), q.Status.Hard)...)
	return append(errs, validateQuotaList(field.NewPath("status", "used"), q.Status.Used)...)
}

func validateQuotaSpec(spec *corev1.ResourceQuotaSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateQuotaList(path.Child("hard"), spec.Hard)
	scopes := path.Child("scopes")
	for _, scope := range spec.Scopes {
		if _, known := scopeQuotas[scope]; !known {
			errs = append(errs, field.Invalid(scopes, spec.Scopes, "unsupported scope"))
		}
		for range uncounted(scope, spec.Hard) {
			errs = append(errs, field.Invalid(scopes, spec.Scopes, "unsupported scope applied to resource"))
		}
	}
	for range conflicts(spec.Scopes) {
		errs = append(errs, field.Invalid(scopes, spec.Scopes, "conflicting scopes"))
	}
	if spec.ScopeSelector != nil {
		errs = append(errs, validateScopeSelector(path.Child("scopeSelector", "matchExpressions"), spec)...)
	}
	return errs
}

func validateScopeSelector(path *field.Path, spec *corev1.ResourceQuotaSpec) field.ErrorList {
	var errs field.ErrorList
	var scopes []corev1.ResourceQuotaScope
	for _, r := range spec.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if _, known := scopeQuotas[r.ScopeName]; !known {
			errs = append(errs, field.Invalid(path.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		for range uncounted(r.ScopeName, spec.Hard) {
			errs = append(errs, field.Invalid(path, spec.ScopeSelector, "unsupported scope applied to resource"))
		}
		switch r.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
			corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			errs = append(errs, rule.If(r.Operator != corev1.ScopeSelectorOpExists, field.Invalid(path.Child("operator"), r.Operator, existsOnly))...)
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			errs = append(errs, rule.If(len(r.Values) == 0, field.Required(path.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))...)
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			errs = append(errs, rule.If(len(r.Values) > 0, field.Invalid(path.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))...)
		default:
			errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	for range conflicts(scopes) {
		errs = append(errs, field.Invalid(path, spec.Scopes, "conflicting scopes"))
	}
	return errs
}

// uncounted lists the resources of a quota that cannot be counted in a scope.
func uncounted(scope corev1.ResourceQuotaScope, hard corev1.ResourceList) []corev1.ResourceName {
	allowed, known := scopeQuotas[scope]
	var list []corev1.ResourceName
	for name := range hard {
		if known && isQuotaResource(name) && !slices.Contains(allowed, name) {
			list = append(list, name)
		}
	}
	return list
}

// conflicts lists the pairs of scopes of which no pod is in both.
func conflicts(scopes []corev1.ResourceQuotaScope) [][2]corev1.ResourceQuotaScope {
	var list [][2]corev1.ResourceQuotaScope
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			list = append(list, pair)
		}
	}
	return list
}

func isQuotaResource(name corev1.ResourceName) bool {
	return quotaResources.Has(name) || podspec.IsHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

func validateQuotaList(path *field.Path, list corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sets.List(sets.KeySet(list)) {
		at := path.Key(string(name))
		errs = append(errs, podspec.ValidateResourceName(at, name)...)
		errs = append(errs, rule.If(!strings.Contains(string(name), "/") && !isQuotaResource(name), field.Invalid(at, name, "must be a standard resource for quota"))...)
		errs = append(errs, podspec.ValidateQuantity(at, name, list[name])...)
	}
	return errs
}

// resourceQuotaWarnings warn of requests that could never be used, since limits are lower.
func resourceQuotaWarnings(q *corev1.ResourceQuota) []string {
	var list []string
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		requested := "requests." + name
		request, ok := q.Spec.Hard[requested]
		if !ok && name != corev1.ResourceEphemeralStorage {
			requested = name
			request, ok = q.Spec.Hard[name]
		}
		limit, limited := q.Spec.Hard["limits."+name]
		if ok && limited && request.Cmp(limit) > 0 {
			list = append(list, fmt.Sprintf("ResourceQuota %s (%s) should be less than limits.%s (%s)", requested, request.String(), name, limit.String()))
		}
	}
	return list
}
