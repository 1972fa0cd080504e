// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// defaultNamespace labels a Namespace with its name, for selectors. The label cannot be changed: whatever
// it is set to, this sets it back. A name that is still to be generated is not known here, see
// labelNamespace.
func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name != "" {
		labelNamespace(ns)
	}
	if ns.Status.Phase == "" {
		ns.Status.Phase = corev1.NamespaceActive
	}
}

func labelNamespace(ns *corev1.Namespace) {
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

// prepareNamespaceCreate adds the finalizer that keeps a Namespace until its content is gone.
func prepareNamespaceCreate(ns *corev1.Namespace) {
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
	labelNamespace(ns)
}

// prepareNamespaceUpdate keeps finalizers and status, which have endpoints of their own.
func prepareNamespaceUpdate(ns, old *corev1.Namespace) {
	ns.Spec.Finalizers = old.Spec.Finalizers
	ns.Status = old.Status
}

func prepareNamespaceStatusUpdate(ns, old *corev1.Namespace)   { ns.Spec = old.Spec }
func prepareNamespaceFinalizeUpdate(ns, old *corev1.Namespace) { ns.Status = old.Status }

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	errs := rule.ObjectMeta(&ns.ObjectMeta, false, apivalidation.ValidateNamespaceName)
	return append(errs, validateNamespaceFinalizers(ns, func(int) *field.Path { return field.NewPath("spec", "finalizers") })...)
}

func validateNamespaceUpdate(ns, _ *corev1.Namespace) field.ErrorList { return validateNamespace(ns) }

func validateNamespaceFinalizeUpdate(ns, _ *corev1.Namespace) field.ErrorList {
	return append(rule.ObjectMetaUpdate(&ns.ObjectMeta), validateNamespaceFinalizers(ns, field.NewPath("spec", "finalizers").Index)...)
}

func validateNamespaceFinalizers(ns *corev1.Namespace, at func(int) *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range ns.Spec.Finalizers {
		errs = append(errs, apivalidation.ValidateFinalizerName(string(f), at(i))...)
		for _, err := range rule.Finalizers(nil, []corev1.FinalizerName{f}) {
			err.Field = at(i).String()
			errs = append(errs, err)
		}
	}
	return errs
}

// validateNamespaceStatusUpdate: the phase follows from whether the Namespace is being deleted.
func validateNamespaceStatusUpdate(ns, _ *corev1.Namespace) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&ns.ObjectMeta)
	want, detail := corev1.NamespaceActive, "may only be 'Active' if `deletionTimestamp` is empty"
	if !ns.DeletionTimestamp.IsZero() {
		want, detail = corev1.NamespaceTerminating, "may only be 'Terminating' if `deletionTimestamp` is not empty"
	}
	return append(errs, rule.If(ns.Status.Phase != want, field.Invalid(field.NewPath("status", "Phase"), ns.Status.Phase, detail))...)
}

// namespaceFields are what field selectors of Namespaces know besides metadata.name.
func namespaceFields(ns *corev1.Namespace) fields.Set {
	return fields.Set{"status.phase": string(ns.Status.Phase), "name": ns.Name}
}
