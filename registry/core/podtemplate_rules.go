// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultPodTemplate(t *corev1.PodTemplate) { podspec.DefaultTemplate(&t.Template) }

func preparePodTemplateCreate(t *corev1.PodTemplate) {
	podspec.DropDisabledTemplate(&t.Template, nil)
}

func preparePodTemplateUpdate(t, old *corev1.PodTemplate) {
	podspec.DropDisabledTemplate(&t.Template, &old.Template)
}

func validatePodTemplate(t *corev1.PodTemplate) field.ErrorList {
	errs := rule.ObjectMeta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, podspec.ValidateTemplate(field.NewPath("template"), &t.Template, podspec.OptionsForTemplate(nil))...)
}

func validatePodTemplateUpdate(t, old *corev1.PodTemplate) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&t.ObjectMeta)
	return append(errs, podspec.ValidateTemplate(field.NewPath("template"), &t.Template, podspec.OptionsForTemplate(&old.Template))...)
}

func podTemplateWarnings(t *corev1.PodTemplate) []string {
	return podspec.Warnings(field.NewPath("template"), &t.Template.ObjectMeta, &t.Template.Spec)
}
