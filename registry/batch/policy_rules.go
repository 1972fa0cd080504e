// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxPolicyRules      = 20
	maxExitCodes        = 255
	maxConditions       = 20
	maxSucceededIndexes = 64 * 1024 // bytes
)

var (
	actions = []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	}
	exitCodeOperators = []batchv1.PodFailurePolicyOnExitCodesOperator{
		batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn,
	}
	conditionStatuses = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
)

// oneOf is rule.OneOf whose message names the values also where there is none.
func oneOf[T ~string](path *field.Path, value T, allowed []T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", allowed))}
	}
	return rule.Supported(path, value, allowed...)
}

func validateFailurePolicy(path *field.Path, spec *batchv1.JobSpec) field.ErrorList {
	rules := spec.PodFailurePolicy.Rules
	errs := rule.If(len(rules) > maxPolicyRules, field.TooMany(path, len(rules), maxPolicyRules))
	var containers []string
	for _, c := range slices.Concat(spec.Template.Spec.Containers, spec.Template.Spec.InitContainers) {
		containers = append(containers, c.Name)
	}
	for i := range rules {
		at, r := path.Index(i), &rules[i]
		if r.Action == batchv1.PodFailurePolicyActionFailIndex {
			errs = append(errs, rule.If(spec.BackoffLimitPerIndex == nil,
				field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))...)
		} else {
			errs = append(errs, oneOf(at.Child("action"), r.Action, actions)...)
		}
		if r.OnExitCodes != nil {
			errs = append(errs, validateExitCodes(at.Child("onExitCodes"), r.OnExitCodes, containers)...)
		}
		errs = append(errs, validateConditions(at.Child("onPodConditions"), r.OnPodConditions)...)
		switch exit, conditions := r.OnExitCodes != nil, len(r.OnPodConditions) > 0; {
		case exit && conditions:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case !exit && !conditions:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
	return errs
}

func validateConditions(path *field.Path, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) field.ErrorList {
	errs := rule.If(len(patterns) > maxConditions, field.TooMany(path, len(patterns), maxConditions))
	for i, p := range patterns {
		errs = append(errs, rule.QualifiedName(path.Index(i).Child("type"), string(p.Type))...)
		errs = append(errs, oneOf(path.Index(i).Child("status"), p.Status, conditionStatuses)...)
	}
	return errs
}

func validateExitCodes(path *field.Path, r *batchv1.PodFailurePolicyOnExitCodesRequirement, containers []string) field.ErrorList {
	errs := oneOf(path.Child("operator"), r.Operator, exitCodeOperators)
	if r.ContainerName != nil && !slices.Contains(containers, *r.ContainerName) {
		errs = append(errs, field.Invalid(path.Child("containerName"), *r.ContainerName,
			"must be one of the container or initContainer names in the pod template"))
	}
	values := path.Child("values")
	errs = append(errs, rule.If(len(r.Values) == 0, field.Invalid(values, r.Values, "at least one value is required"))...)
	errs = append(errs, rule.If(len(r.Values) > maxExitCodes, field.TooMany(values, len(r.Values), maxExitCodes))...)
	for i, code := range r.Values {
		errs = append(errs, rule.If(r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0,
			field.Invalid(values.Index(i), code, "must not be 0 for the In operator"))...)
		errs = append(errs, rule.If(slices.Contains(r.Values[:i], code), field.Duplicate(values.Index(i), code))...)
	}
	return append(errs, rule.If(!slices.IsSorted(r.Values), field.Invalid(values, r.Values, "must be ordered"))...)
}

// validateSuccessPolicy is for Indexed Jobs.
func validateSuccessPolicy(path *field.Path, spec *batchv1.JobSpec) field.ErrorList {
	rules := spec.SuccessPolicy.Rules
	errs := rule.If(len(rules) == 0, field.Required(path, "at least one rules must be specified when the successPolicy is specified"))
	errs = append(errs, rule.If(len(rules) > maxPolicyRules, field.TooMany(path, len(rules), maxPolicyRules))...)
	for i, r := range rules {
		at := path.Index(i)
		count, list := at.Child("succeededCount"), at.Child("succeededIndexes")
		if r.SucceededCount == nil && r.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		if spec.Completions == nil {
			continue // refused for it
		}
		var listed int32
		if r.SucceededIndexes != nil {
			errs = append(errs, rule.If(len(*r.SucceededIndexes) > maxSucceededIndexes, field.TooLong(list, "", maxSucceededIndexes))...)
			intervals, err := parseIndexes(*r.SucceededIndexes, *spec.Completions)
			if err != nil {
				errs = append(errs, field.Invalid(list, *r.SucceededIndexes, "error parsing succeededIndexes: "+err.Error()))
			}
			listed = total(intervals)
		}
		if n := r.SucceededCount; n != nil {
			errs = append(errs, rule.NonNegative(count, *n)...)
			errs = append(errs, rule.If(*n > *spec.Completions, field.Invalid(count, *n,
				fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *spec.Completions)))...)
			errs = append(errs, rule.If(r.SucceededIndexes != nil && *n > listed, field.Invalid(count, *n,
				fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", listed)))...)
		}
	}
	return errs
}

// interval is a range of indexes, both ends included.
type interval struct{ first, last int32 }

func total(intervals []interval) (n int32) {
	for _, i := range intervals {
		n += i.last - i.first + 1
	}
	return n
}

// parseIndexes reads indexes below completions as they stand in a Job: "1,3-5,7".
func parseIndexes(text string, completions int32) ([]interval, error) {
	if text == "" {
		return nil, nil
	}
	var out []interval
	for part := range strings.SplitSeq(text, ",") {
		next, err := parseInterval(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(out); n > 0 && out[n-1].last >= next.first {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[n-1].last, next.first)
		}
		out = append(out, next)
	}
	return out, nil
}

func parseInterval(text string, completions int32) (interval, error) {
	parts := strings.Split(text, "-")
	if len(parts) > 2 {
		return interval{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	var ends []int32
	for _, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return interval{}, fmt.Errorf("cannot convert string to integer for index: %q", p)
		}
		if n >= int(completions) {
			return interval{}, fmt.Errorf("too large index: %q", p)
		}
		ends = append(ends, int32(n)) //nolint:gosec // below completions
	}
	if len(ends) == 2 && ends[0] >= ends[1] {
		return interval{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", ends[0], ends[1])
	}
	return interval{ends[0], ends[len(ends)-1]}, nil
}

// parseWhatCan reads the intervals that can be read.
func parseWhatCan(text string, completions int32) []interval {
	var out []interval
	for part := range strings.SplitSeq(text, ",") {
		if next, err := parseInterval(part, completions); err == nil {
			out = append(out, next)
		}
	}
	slices.SortStableFunc(out, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	return out
}

// overlap is the first index that is in both lists.
func overlap(a, b []interval) (index int32, found bool) {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if a[i].first <= b[j].last && b[j].first <= a[i].last {
			return max(a[i].first, b[j].first), true
		}
		if a[i].first <= b[j].first {
			i++
		} else {
			j++
		}
	}
	return 0, false
}
