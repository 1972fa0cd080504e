// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"fmt"
	"math"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// maxChoices is how many amounts may be listed that can be asked for.
const maxChoices = 10

// validateCapacity checks how a device may be shared: path is that of the policy.
func validateCapacity(path *field.Path, c resourcev1.DeviceCapacity, shared bool) field.ErrorList {
	p := c.RequestPolicy
	if p == nil {
		return nil
	}
	values, span, standard := path.Child("validValues"), path.Child("validRange"), path.Child("default")
	switch several := len(p.ValidValues) > 0; {
	case !shared:
		return field.ErrorList{field.Forbidden(path, "allowMultipleAllocations must be true")}
	case several && p.ValidRange != nil:
		return field.ErrorList{field.Forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case several && p.Default == nil:
		return field.ErrorList{field.Required(standard, "required when validValues is defined")}
	case several:
		return validateValues(values, p.ValidValues, *p.Default, c.Value)
	case p.ValidRange != nil && p.Default == nil:
		return field.ErrorList{field.Required(standard, "required when validRange is defined")}
	case p.ValidRange != nil:
		return validateRange(span, p.ValidRange, *p.Default, c.Value)
	}
	return nil
}

func validateValues(path *field.Path, values []resource.Quantity, standard, capacity resource.Quantity) field.ErrorList {
	var errs field.ErrorList
	for i := 1; i < len(values); i++ {
		errs = append(errs, rule.If(values[i-1].Cmp(values[i]) > 0, field.Invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order"))...)
	}
	found, seen := false, sets.New[string]()
	errs = append(errs, list(path, values, maxChoices, func(path *field.Path, q resource.Quantity) field.ErrorList {
		found = found || q.Cmp(standard) == 0
		key := strconv.FormatInt(q.Value(), 10) // fractions are off by default (DRAFractionalCapacityRange)
		errs := rule.If(seen.Has(key), field.Duplicate(path, key))
		seen.Insert(key)
		return append(errs, rule.If(q.Cmp(capacity) > 0, field.Invalid(path, q.String(), "option is larger than capacity value: "+capacity.String()))...)
	})...)
	return append(errs, rule.If(!found, field.Invalid(path, standard.String(), "default value is not valid according to the requestPolicy"))...)
}

func validateRange(path *field.Path, r *resourcev1.CapacityRequestPolicyRange, standard, capacity resource.Quantity) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	wrong := func(when bool, name string, value resource.Quantity, detail string, limit resource.Quantity) {
		errs = append(errs, rule.If(when, field.Invalid(path.Child(name), value.String(), detail+": "+limit.String()))...)
	}
	wrong(r.Min.Cmp(capacity) > 0, "min", *r.Min, "min is larger than capacity value", capacity)
	wrong(standard.Cmp(*r.Min) < 0, "default", standard, "default is less than min", *r.Min)
	if r.Max != nil {
		wrong(r.Min.Cmp(*r.Max) > 0, "max", *r.Min, "min is larger than max", *r.Max)
		wrong(r.Max.Cmp(capacity) > 0, "max", *r.Max, "max is larger than capacity value", capacity)
		wrong(standard.Cmp(*r.Max) > 0, "default", standard, "default is more than max", *r.Max)
	}
	parts := []part{{"default", &standard}, {"min", r.Min}, {"max", r.Max}, {"step", r.Step}}
	if r.Step == nil {
		return errs
	}
	return append(errs, validateStep(path, r, capacity, parts)...)
}

// part is a quantity of a range, by the name of its field.
type part struct {
	name string
	q    *resource.Quantity
}

func eachPart(path *field.Path, parts []part, check func(*field.Path, resource.Quantity) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	for _, p := range parts {
		if p.q != nil {
			errs = append(errs, check(path.Child(p.name), *p.q)...)
		}
	}
	return errs
}

// validateStep says that what is asked for by default and at most can be reached in steps.
func validateStep(path *field.Path, r *resourcev1.CapacityRequestPolicyRange, capacity resource.Quantity, parts []part) field.ErrorList {
	at := path.Child("step")
	if r.Step.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, r.Step.String(), "must be greater than zero")}
	}
	next := r.Min.DeepCopy()
	next.Add(*r.Step)
	errs := rule.If(next.Cmp(capacity) > 0,
		field.Invalid(at, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", next.String(), capacity.String())))
	if unsafe := eachPart(path, parts, validateInt64); len(unsafe) > 0 {
		return append(errs, unsafe...)
	}
	return append(errs, eachPart(path, []part{parts[0], parts[2]}, func(_ *field.Path, q resource.Quantity) field.ErrorList {
		return rule.If((q.Value()-r.Min.Value())%r.Step.Value() != 0,
			field.Invalid(at, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
	})...)
}

func validateInt64(path *field.Path, q resource.Quantity) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), rule.NotNegative)}
	}
	return rule.If(q.CmpInt64(math.MaxInt64) > 0, field.Invalid(path, q.String(), fmt.Sprintf("must not be larger than %d", int64(math.MaxInt64))))
}
