// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// defaultReplicationController takes selector and labels from the template, if there are none.
func defaultReplicationController(rc *corev1.ReplicationController) {
	if rc.Spec.Replicas == nil {
		rc.Spec.Replicas = ptr.To[int32](1)
	}
	if rc.Spec.Template == nil {
		return
	}
	if own := rc.Spec.Template.Labels; own != nil {
		if len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = own
		}
		if len(rc.Labels) == 0 {
			rc.Labels = own
		}
	}
	podspec.DefaultTemplate(rc.Spec.Template)
}

func prepareReplicationControllerCreate(rc *corev1.ReplicationController) {
	if rc.Spec.Template != nil {
		podspec.DropDisabledTemplate(rc.Spec.Template, nil)
	}
}

func prepareReplicationControllerUpdate(rc, old *corev1.ReplicationController) {
	if rc.Spec.Template != nil {
		podspec.DropDisabledTemplate(rc.Spec.Template, old.Spec.Template)
	}
}

func validateReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	errs := rule.DeclaredName(&rc.ObjectMeta, true, validate.LongName)
	return append(errs, validateReplicationControllerSpec(&rc.Spec, podspec.OptionsForTemplate(nil))...)
}

func validateReplicationControllerUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	errs := rule.DeclaredName(&rc.ObjectMeta, true, validate.LongName)
	return append(errs, validateReplicationControllerSpec(&rc.Spec, podspec.OptionsForTemplate(old.Spec.Template))...)
}

func validateReplicationControllerSpec(spec *corev1.ReplicationControllerSpec, o podspec.Options) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.NonNegative(path.Child("minReadySeconds"), spec.MinReadySeconds)
	errs = append(errs, rule.If(len(spec.Selector) == 0, field.Required(path.Child("selector"), ""))...)
	errs = append(errs, rule.If(spec.Replicas == nil, field.Required(path.Child("replicas"), ""))...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("replicas"), spec.Replicas)...)
	template := path.Child("template")
	if spec.Template == nil {
		return append(errs, field.Required(template, ""))
	}
	if !labels.SelectorFromSet(spec.Selector).Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, podspec.ValidateTemplate(template, spec.Template, o)...)
	errs = append(errs, rule.Supported(template.Child("spec", "restartPolicy"), spec.Template.Spec.RestartPolicy, corev1.RestartPolicyAlways)...)
	return append(errs, rule.If(spec.Template.Spec.ActiveDeadlineSeconds != nil, field.Forbidden(
		template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))...)
}

func validateReplicationControllerStatusUpdate(rc, _ *corev1.ReplicationController) field.ErrorList {
	path, s := field.NewPath("status"), &rc.Status
	errs := rule.ObjectMetaUpdate(&rc.ObjectMeta)
	errs = append(errs, rule.NonNegative(path.Child("replicas"), s.Replicas)...)
	errs = append(errs, rule.NonNegative(path.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas)...)
	errs = append(errs, rule.NonNegative(path.Child("readyReplicas"), s.ReadyReplicas)...)
	errs = append(errs, rule.NonNegative(path.Child("availableReplicas"), s.AvailableReplicas)...)
	errs = append(errs, rule.NonNegative(path.Child("observedGeneration"), s.ObservedGeneration)...)
	for _, n := range []struct {
		name  string
		count int32
	}{{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}} {
		errs = append(errs, rule.If(n.count > s.Replicas, field.Invalid(path.Child(n.name), n.count, "cannot be greater than status.replicas"))...)
	}
	return append(errs, rule.If(s.AvailableReplicas > s.ReadyReplicas,
		field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))...)
}

// replicationControllerWarnings warn of a new one, and again of each change. old is nil on create.
func replicationControllerWarnings(rc, old *corev1.ReplicationController) []string {
	if rc.Spec.Template == nil || old != nil && rc.Generation == old.Generation {
		return nil
	}
	var list []string
	if msgs := validation.IsDNS1123Label(rc.Name); len(msgs) > 0 && old == nil {
		list = append(list, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(list, podspec.Warnings(field.NewPath("spec", "template"), &rc.Spec.Template.ObjectMeta, &rc.Spec.Template.Spec)...)
}
