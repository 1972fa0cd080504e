// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// Rules that the workloads of this group share: all of them make pods from a template.

const (
	selectorMismatch   = "`selector` does not match template `labels`"
	moreThanReplicas   = "cannot be greater than status.replicas"
	cannotBeDecreased  = "cannot be decremented"
	defaultHistory     = 10
	longNameIsSurprise = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v"
)

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

// validateSelector checks a selector that must choose some pods, but not all. kind is for the message.
func validateSelector(path *field.Path, selector *metav1.LabelSelector, kind string, tolerant bool) field.ErrorList {
	if selector == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := rule.LabelSelector(path, selector, tolerant)
	empty := len(selector.MatchLabels)+len(selector.MatchExpressions) == 0
	return append(errs, rule.If(empty, field.Invalid(path, selector, "empty selector is invalid for "+kind))...)
}

// validateTemplateLabels: pods of a workload must be its pods.
func validateTemplateLabels(path *field.Path, selector labels.Selector, template *corev1.PodTemplateSpec) field.ErrorList {
	matches := selector.Empty() || selector.Matches(labels.Set(template.Labels))
	return rule.If(!matches, field.Invalid(path.Child("metadata", "labels"), template.Labels, selectorMismatch))
}

// validateLastingTemplate: pods of a workload run until they are deleted. kind is for the message.
func validateLastingTemplate(path *field.Path, template *corev1.PodTemplateSpec, kind string) field.ErrorList {
	errs := rule.Supported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy, corev1.RestartPolicyAlways)
	return append(errs, rule.If(template.Spec.ActiveDeadlineSeconds != nil,
		field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))...)
}

// validateReplicaTemplate is for Deployments and ReplicaSets.
func validateReplicaTemplate(path *field.Path, selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, o podspec.Options) field.ErrorList {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return field.ErrorList{field.Invalid(path.Child("selector"), selector, "invalid label selector")}
	}
	path = path.Child("template")
	errs := validateTemplateLabels(path, s, template)
	errs = append(errs, podspec.ValidateTemplate(path, template, o)...)
	return append(errs, validateLastingTemplate(path, template, "ReplicaSet")...)
}

func templateWarnings(template *corev1.PodTemplateSpec) []string {
	return podspec.Warnings(field.NewPath("spec", "template"), &template.ObjectMeta, &template.Spec)
}

func longNameWarning(name string) []string {
	msgs := validation.IsDNS1123Label(name)
	if len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf(longNameIsSurprise, msgs)}
}

// counters are numbers in a status that must not be negative, by the names of their fields.
type counters []struct {
	name string
	n    int64
}

func (c counters) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, counter := range c {
		errs = append(errs, rule.NonNegative(path.Child(counter.name), counter.n)...)
	}
	return errs
}

func atMost(path *field.Path, n, limit int32, detail string) field.ErrorList {
	return rule.If(n > limit, field.Invalid(path, n, detail))
}

// validateCollisionCount: it makes names unique, so it never goes back.
func validateCollisionCount(path *field.Path, n, old *int32) field.ErrorList {
	if old == nil || n != nil && *n >= *old {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("collisionCount"), ptr.Deref(n, 0), cannotBeDecreased)}
}

// intOrPercent is the number in a value, as a percentage or not.
func intOrPercent(v intstr.IntOrString) int {
	if n, ok := rule.Percent(v); ok {
		return n
	}
	return v.IntValue()
}
