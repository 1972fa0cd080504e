// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	notInteger      = "must be an integer"
	requestsPrefix  = "requests."
	hugePagesPrefix = corev1.ResourceHugePagesPrefix
)

// Names without a domain that resources may have anywhere, in quotas too.
var standardResources = sets.New(
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

// Names that count objects.
var countedResources = sets.New(
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
)

// IsHugePages tells whether a resource is a size of huge pages.
func IsHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), hugePagesPrefix)
}

// IsNativeResource tells whether a resource is Kubernetes' own.
func IsNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// IsExtendedResource tells whether a resource is a device or the like, which somebody's plugin offers.
func IsExtendedResource(name corev1.ResourceName) bool {
	if IsNativeResource(name) || strings.HasPrefix(string(name), requestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(requestsPrefix+string(name))) == 0
}

func overcommitAllowed(name corev1.ResourceName) bool {
	return IsNativeResource(name) && !IsHugePages(name)
}

// ValidateResourceName checks a name of a resource that may appear anywhere.
func ValidateResourceName(path *field.Path, name corev1.ResourceName) field.ErrorList {
	if errs := rule.Invalid(path, name, validation.IsQualifiedName(string(name))); len(errs) > 0 {
		return errs
	}
	known := standardResources.Has(name) || IsHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
	return rule.If(!strings.Contains(string(name), "/") && !known,
		field.Invalid(path, name, "must be a standard resource type or fully qualified"))
}

// ValidateContainerResourceName checks the name of a resource that a container asks for.
func ValidateContainerResourceName(path *field.Path, name corev1.ResourceName) field.ErrorList {
	errs := ValidateResourceName(path, name)
	switch {
	case !strings.Contains(string(name), "/"):
		standard := slices.Contains([]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}, name)
		if !standard && !IsHugePages(name) {
			errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
		}
	case !IsNativeResource(name) && !IsExtendedResource(name):
		errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

func validatePodResourceName(path *field.Path, name corev1.ResourceName) field.ErrorList {
	if errs := ValidateResourceName(path, name); len(errs) > 0 {
		return errs
	}
	return rule.Supported(path, name, sets.List(resourcehelper.SupportedPodLevelResources())...)
}

// ValidateQuantity says that an amount of a resource must not be negative, and must be whole where the
// resource cannot be divided.
func ValidateQuantity(path *field.Path, name corev1.ResourceName, q resource.Quantity) field.ErrorList {
	errs := ValidateNonNegativeQuantity(path, q)
	if (countedResources.Has(name) || IsExtendedResource(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q, notInteger))
	}
	return errs
}

// ValidateNonNegativeQuantity says that a quantity must be zero or more.
func ValidateNonNegativeQuantity(path *field.Path, q resource.Quantity) field.ErrorList {
	return rule.If(q.Sign() < 0, field.Invalid(path, q.String(), rule.NotNegative))
}

// ValidatePositiveQuantity says that a quantity must be more than zero.
func ValidatePositiveQuantity(path *field.Path, q resource.Quantity) field.ErrorList {
	return rule.If(q.Sign() <= 0, field.Invalid(path, q.String(), rule.NotZero))
}

// ValidateContainerResources checks what a container requests and is limited to. claims are the names
// of the pod's resource claims.
func ValidateContainerResources(path *field.Path, r *corev1.ResourceRequirements, claims sets.Set[string], o Options) field.ErrorList {
	return validateResources(path, r, ValidateContainerResourceName, claims, o)
}

type checkResourceName func(*field.Path, corev1.ResourceName) field.ErrorList

func validateResources(path *field.Path, r *corev1.ResourceRequirements, checkName checkResourceName, claims sets.Set[string], o Options) field.ErrorList {
	var errs field.ErrorList
	var hugePages, cpuOrMemory bool
	check := func(path *field.Path, name corev1.ResourceName, q resource.Quantity) {
		hugePages = hugePages || IsHugePages(name)
		cpuOrMemory = cpuOrMemory || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		errs = append(errs, checkName(path, name)...)
		errs = append(errs, ValidateQuantity(path, name, q)...)
		if IsHugePages(name) && !o.IndivisibleHugePages && !wholePages(name, q) {
			errs = append(errs, field.Invalid(path, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name)))
		}
	}
	limits, requests := path.Child("limits"), path.Child("requests")
	for _, name := range sortedNames(r.Limits) {
		check(limits.Key(string(name)), name, r.Limits[name])
	}
	for _, name := range sortedNames(r.Requests) {
		request := r.Requests[name]
		check(requests.Key(string(name)), name, request)
		limit, limited := r.Limits[name]
		switch {
		case !limited && !overcommitAllowed(name):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		case limited && request.Cmp(limit) != 0 && !overcommitAllowed(name):
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	if hugePages && !cpuOrMemory {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, validateClaimReferences(path.Child("claims"), r.Claims, claims)...)
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return sets.List(sets.KeySet(list))
}

// wholePages tells whether an amount is a multiple of the page size in the resource's name.
func wholePages(name corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), hugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 {
		return false
	}
	return q.Value()%size.Value() == 0
}

// validateClaimReferences: a container may use each claim of the pod once, or several requests in it.
func validateClaimReferences(path *field.Path, references []corev1.ResourceClaim, claims sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]() // "claim" for a whole claim, "claim/request" for a part of one
	for i, ref := range references {
		at := path.Index(i)
		if ref.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		key := ref.Name
		if ref.Request != "" && !seen.Has(ref.Name) {
			errs = append(errs, rule.DNSLabel(at.Child("request"), ref.Request)...)
			key += "/" + ref.Request
		}
		overlaps := func(other string) bool {
			return other == key || ref.Request == "" && strings.HasPrefix(other, ref.Name+"/")
		}
		if slices.ContainsFunc(seen.UnsortedList(), overlaps) {
			errs = append(errs, field.Duplicate(at, key))
		}
		seen.Insert(key)
		if !claims.Has(ref.Name) {
			missing := field.NotFound(at, ref.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if claims.Len() > 0 {
				missing.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(claims), ", ")
			}
			errs = append(errs, missing)
		}
	}
	return errs
}

// validatePodResources checks the resources of a pod as a whole against those of its containers.
func validatePodResources(path *field.Path, spec *corev1.PodSpec, claims sets.Set[string], o Options) field.ErrorList {
	if spec.Resources == nil {
		return nil
	}
	path = path.Child("resources")
	if isWindows(spec) {
		return field.ErrorList{field.Forbidden(path, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if spec.Resources.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, validateResources(path, spec.Resources, validatePodResourceName, claims, o)...)
	return append(errs, validatePodResourcesSuffice(path, spec)...)
}

func validatePodResourcesSuffice(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	pod := &corev1.Pod{Spec: *spec}
	requests := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedNames(requests) {
		need := requests[name]
		if have, ok := spec.Resources.Requests[name]; ok && need.Cmp(have) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), have.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", need.String())))
		}
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedNames(limits) {
		need := limits[name]
		if have, ok := spec.Resources.Limits[name]; ok && IsHugePages(name) && need.Cmp(have) > 0 {
			errs = append(errs, field.Invalid(path.Child("limits").Key(string(name)), have.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", need.String())))
		}
	}
	for i, c := range spec.Containers {
		for _, name := range sortedNames(c.Resources.Limits) {
			limit := c.Resources.Limits[name]
			if whole, ok := spec.Resources.Limits[name]; ok && limit.Cmp(whole) > 0 {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String())))
			}
		}
	}
	return errs
}
