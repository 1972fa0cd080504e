// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"errors"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// Rules of what is asked for: ResourceClaims, their templates and DeviceClasses.

const (
	maxRequests    = resourcev1.DeviceRequestsMaxSize
	unknownRequest = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	oneRequest     = "exactly one of `exactly` or `firstAvailable` is required"
	tooComplex     = "too complex, exceeds cost limit"
)

func defaultClaim(c *resourcev1.ResourceClaim) {
	defaultRequests(c.Spec.Devices.Requests)
	if c.Status.Allocation != nil {
		for i := range c.Status.Allocation.Devices.Results {
			defaultTolerations(c.Status.Allocation.Devices.Results[i].Tolerations)
		}
	}
}

func defaultClaimTemplate(t *resourcev1.ResourceClaimTemplate) {
	defaultRequests(t.Spec.Spec.Devices.Requests)
}

func defaultRequests(requests []resourcev1.DeviceRequest) {
	for i := range requests {
		if e := requests[i].Exactly; e != nil {
			defaultCount(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range requests[i].FirstAvailable {
			s := &requests[i].FirstAvailable[j]
			defaultCount(&s.AllocationMode, &s.Count)
			defaultTolerations(s.Tolerations)
		}
	}
}

func defaultTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		if tolerations[i].Operator == "" {
			tolerations[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

func defaultCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

// dropDerivedAttributes takes out what upstream has off by default (DRADerivedAttributes).
func dropDerivedAttributes(spec *resourcev1.ResourceClaimSpec) {
	for i := range spec.Devices.Requests {
		r := &spec.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

func validateClaim(c *resourcev1.ResourceClaim) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDeviceClaim(field.NewPath("spec", "devices"), &c.Spec.Devices)...)
}

func validateClaimUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, rule.Fixed(field.NewPath("spec"), c.Spec, old.Spec)...)
}

func validateClaimTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.ObjectMeta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidateTemplateMeta(path.Child("metadata"), &t.Spec.ObjectMeta)...)
	return append(errs, validateDeviceClaim(path.Child("spec", "devices"), &t.Spec.Spec.Devices)...)
}

func validateClaimTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	return append(validateClaimTemplate(t), rule.Unchanged(field.NewPath("spec"), t.Spec, old.Spec)...)
}

func validateDeviceClass(c *resourcev1.DeviceClass) field.ErrorList {
	return validateClass(c, &resourcev1.DeviceClass{})
}

func validateDeviceClassUpdate(c, old *resourcev1.DeviceClass) field.ErrorList {
	return validateClass(c, old)
}

// validateClass does not compile selectors again that are all as they were, nor measures such parameters.
func validateClass(c, old *resourcev1.DeviceClass) field.ErrorList {
	errs, path := rule.DeclaredName(&c.ObjectMeta, false, validate.LongName), field.NewPath("spec")
	same := equality.Semantic.DeepEqual(c.Spec.Selectors, old.Spec.Selectors)
	errs = append(errs, validateSelectors(path.Child("selectors"), c.Spec.Selectors, same)...)
	same = equality.Semantic.DeepEqual(c.Spec.Config, old.Spec.Config)
	errs = append(errs, list(path.Child("config"), c.Spec.Config, resourcev1.DeviceConfigMaxSize, func(path *field.Path, c resourcev1.DeviceClassConfiguration) field.ErrorList {
		return validateConfiguration(path, &c.DeviceConfiguration, same)
	})...)
	if name := c.Spec.ExtendedResourceName; name != nil {
		errs = append(errs, rule.Declared(path.Child("extendedResourceName"), *name, validate.ExtendedResourceName)...)
	}
	return errs
}

// list checks a list that is not too long, item by item. most is -1 for any length.
func list[T any](path *field.Path, items []T, most int, check func(*field.Path, T) field.ErrorList) field.ErrorList {
	if most >= 0 && len(items) > most {
		return field.ErrorList{field.TooMany(path, len(items), most)}
	}
	var errs field.ErrorList
	for i, item := range items {
		errs = append(errs, check(path.Index(i), item)...)
	}
	return errs
}

// set checks a list in which no key comes twice.
func set[T any, K comparable](path *field.Path, items []T, most int, key func(T) K, check func(*field.Path, T) field.ErrorList) field.ErrorList {
	seen := sets.New[K]()
	return list(path, items, most, func(path *field.Path, item T) field.ErrorList {
		errs, k := check(path, item), key(item)
		errs = append(errs, rule.If(seen.Has(k), field.Duplicate(path, item))...)
		seen.Insert(k)
		return errs
	})
}

func itself[T any](item T) T { return item }

func validateDeviceClaim(path *field.Path, c *resourcev1.DeviceClaim) field.ErrorList {
	names := namesOf(c)
	requestName := func(r resourcev1.DeviceRequest) string { return r.Name }
	errs := set(path.Child("requests"), c.Requests, maxRequests, requestName, validateRequest)
	errs = append(errs, list(path.Child("constraints"), c.Constraints, resourcev1.DeviceConstraintsMaxSize, func(path *field.Path, c resourcev1.DeviceConstraint) field.ErrorList {
		return validateConstraint(path, c, names)
	})...)
	return append(errs, list(path.Child("config"), c.Config, resourcev1.DeviceConfigMaxSize, func(path *field.Path, c resourcev1.DeviceClaimConfiguration) field.ErrorList {
		errs := names.validate(path.Child("requests"), c.Requests)
		return append(errs, validateConfiguration(path, &c.DeviceConfiguration, false)...)
	})...)
}

// requestNames are the names of a claim's requests, with those of their alternatives.
type requestNames map[string]sets.Set[string]

func namesOf(c *resourcev1.DeviceClaim) requestNames {
	out := requestNames{}
	for _, r := range c.Requests {
		out[r.Name] = nil
		if len(r.FirstAvailable) == 0 {
			continue
		}
		out[r.Name] = sets.New[string]()
		for _, s := range r.FirstAvailable {
			out[r.Name].Insert(s.Name)
		}
	}
	return out
}

func (n requestNames) validate(path *field.Path, names []string) field.ErrorList {
	return set(path, names, maxRequests, itself[string], n.validateOne)
}

func (n requestNames) validateOne(path *field.Path, name string) field.ErrorList {
	request, alternative, deep := strings.Cut(name, "/")
	if strings.Contains(alternative, "/") {
		return field.ErrorList{field.Invalid(path, name, unknownRequest)}
	}
	errs := rule.DNSLabel(path, request)
	if deep {
		errs = append(errs, rule.DNSLabel(path, alternative)...)
	}
	alternatives, known := n[request]
	return append(errs, rule.If(!known || deep && !alternatives.Has(alternative), field.Invalid(path, name, unknownRequest))...)
}

func validateRequest(path *field.Path, r resourcev1.DeviceRequest) field.ErrorList {
	errs := rule.DNSLabel(path.Child("name"), r.Name)
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(path, oneRequest))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		errs = append(errs, field.Invalid(path, nil, oneRequest+", but multiple fields are set"))
		return append(errs, validateTags(path, r)...)
	case r.Exactly != nil:
		e := r.Exactly
		errs = append(errs, rule.Required(path.Child("exactly", "deviceClassName"), e.DeviceClassName)...)
		if e.DeviceClassName != "" {
			errs = append(errs, rule.DNSSubdomain(path.Child("exactly", "deviceClassName"), e.DeviceClassName)...)
		}
		return append(errs, validateWanted(path.Child("exactly"), e.Selectors, e.AllocationMode, e.Count, e.Tolerations)...)
	}
	name := func(s resourcev1.DeviceSubRequest) string { return s.Name }
	return append(errs, set(path.Child("firstAvailable"), r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, name,
		func(path *field.Path, s resourcev1.DeviceSubRequest) field.ErrorList {
			errs := rule.DNSLabel(path.Child("name"), s.Name)
			errs = append(errs, rule.RequiredAnd(path.Child("deviceClassName"), s.DeviceClassName, validate.LongName)...)
			return append(errs, validateWanted(path, s.Selectors, s.AllocationMode, s.Count, s.Tolerations)...)
		})...)
}

// validateTags checks what is declared by tags, which hold also for a request that is two.
func validateTags(path *field.Path, r resourcev1.DeviceRequest) field.ErrorList {
	wanted := func(path *field.Path, mode resourcev1.DeviceAllocationMode, tolerations []resourcev1.DeviceToleration) field.ErrorList {
		errs := validateMode(path.Child("allocationMode"), mode)
		for i, t := range tolerations {
			at := path.Child("tolerations").Index(i)
			if t.Key != "" {
				errs = append(errs, rule.Declared(at.Child("key"), t.Key, validate.LabelKey)...)
			}
			errs = append(errs, rule.Supported(at.Child("operator"), t.Operator, resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
			if t.Effect != "" {
				errs = append(errs, rule.Supported(at.Child("effect"), t.Effect, effects...)...)
			}
		}
		return errs
	}
	name := func(s resourcev1.DeviceSubRequest) string { return s.Name }
	errs := wanted(path.Child("exactly"), r.Exactly.AllocationMode, r.Exactly.Tolerations)
	return append(errs, set(path.Child("firstAvailable"), r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, name,
		func(path *field.Path, s resourcev1.DeviceSubRequest) field.ErrorList {
			errs := rule.RequiredAnd(path.Child("deviceClassName"), s.DeviceClassName, validate.LongName)
			return append(errs, wanted(path, s.AllocationMode, s.Tolerations)...)
		})...)
}

func validateMode(path *field.Path, mode resourcev1.DeviceAllocationMode) field.ErrorList {
	return rule.Supported(path, mode, resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)
}

// validateWanted checks what a request and an alternative have in common.
func validateWanted(path *field.Path, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration) field.ErrorList {
	errs := validateSelectors(path.Child("selectors"), selectors, false)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		errs = append(errs, rule.If(count != 0, field.Invalid(path.Child("count"), count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode)))...)
	case resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, rule.Positive(path.Child("count"), count)...)
	default:
		errs = append(errs, validateMode(path.Child("allocationMode"), mode)...)
	}
	return append(errs, list(path.Child("tolerations"), tolerations, -1, validateToleration)...)
}

// validateSelectors compiles expressions, unless they are stored: they compiled once.
func validateSelectors(path *field.Path, selectors []resourcev1.DeviceSelector, stored bool) field.ErrorList {
	return list(path, selectors, resourcev1.DeviceSelectorsMaxSize, func(path *field.Path, s resourcev1.DeviceSelector) field.ErrorList {
		switch {
		case s.CEL == nil:
			return field.ErrorList{field.Required(path.Child("cel"), "")}
		case stored:
			return nil
		}
		return validateExpression(path.Child("cel", "expression"), s.CEL.Expression)
	})
}

func validateExpression(path *field.Path, expression string) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	env := environment.NewExpressions
	compiled := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).CompileCELExpression(expression, cel.Options{EnvType: &env})
	if err := compiled.Error; err != nil {
		return field.ErrorList{celError(path, expression, err)}
	}
	return rule.If(compiled.MaxCost > resourcev1.CELSelectorExpressionMaxCost, field.Forbidden(path, tooComplex))
}

func celError(path *field.Path, expression string, err error) *field.Error {
	var e *apiservercel.Error
	switch {
	case errors.As(err, &e) && e.Type == apiservercel.ErrorTypeRequired:
		return field.Required(path, e.Detail)
	case errors.As(err, &e) && e.Type == apiservercel.ErrorTypeInvalid:
		return field.Invalid(path, expression, e.Detail)
	}
	return field.InternalError(path, err)
}

func validateConstraint(path *field.Path, c resourcev1.DeviceConstraint, names requestNames) field.ErrorList {
	errs := names.validate(path.Child("requests"), c.Requests)
	if c.MatchAttribute != nil {
		errs = append(errs, rule.Declared(path.Child("matchAttribute"), *c.MatchAttribute, validate.ResourceFullyQualifiedName)...)
	}
	if c.DistinctAttribute != nil {
		errs = append(errs, rule.Declared(path.Child("distinctAttribute"), *c.DistinctAttribute, validate.ResourceFullyQualifiedName)...)
	}
	return append(errs, rule.If(c.MatchAttribute == nil && c.DistinctAttribute == nil,
		field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))...)
}

func validateConfiguration(path *field.Path, c *resourcev1.DeviceConfiguration, stored bool) field.ErrorList {
	opaque := path.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(opaque, "")}
	}
	errs := driverTag(opaque.Child("driver"), c.Opaque.Driver)
	most := resourcev1.OpaqueParametersMaxLength
	if stored { // before there was a limit, maybe
		most = len(c.Opaque.Parameters.Raw)
	}
	return append(errs, validateJSON(opaque.Child("parameters"), c.Opaque.Parameters.Raw, most)...)
}

func validateToleration(path *field.Path, t resourcev1.DeviceToleration) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = rule.Declared(path.Child("key"), t.Key, validate.LabelKey)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		errs = append(errs, rule.If(t.Value != "", field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))...)
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, rule.Invalid(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	default:
		errs = append(errs, rule.Supported(path.Child("operator"), t.Operator, resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect == "" {
		return errs
	}
	return append(errs, rule.Supported(path.Child("effect"), t.Effect, effects...)...)
}
