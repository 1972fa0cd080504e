// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// MutatingAdmissionPolicyBindings says what is particular to mutatingadmissionpolicybindings.
func MutatingAdmissionPolicyBindings(deps Deps) rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicyBinding] {
	return rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Plural:               "mutatingadmissionpolicybindings",
		Singular:             "mutatingadmissionpolicybinding",
		NeedsResourceVersion: true,
		Default:              defaultMutatingPolicyBinding,
		ValidateRequest:      deps.validateMutatingBinding,
		Columns: bindingColumns(
			func(o *admissionregistrationv1.MutatingAdmissionPolicyBinding) string { return o.Spec.PolicyName },
			func(o *admissionregistrationv1.MutatingAdmissionPolicyBinding) *admissionregistrationv1.ParamRef {
				return o.Spec.ParamRef
			}),
		Categories: []string{"api-extensions"},
	}
}

func (d Deps) validateMutatingBinding(ctx context.Context, b, _ *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	if errs := validateMutatingPolicyBinding(b); len(errs) > 0 {
		return errs
	}
	return d.mayReadParams(ctx, b.Spec.PolicyName, b.Spec.ParamRef, d.mutatingKind)
}
