// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ValidatingAdmissionPolicyBindings says what is particular to validatingadmissionpolicybindings.
func ValidatingAdmissionPolicyBindings(deps Deps) rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicyBinding] {
	return rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Plural:               "validatingadmissionpolicybindings",
		Singular:             "validatingadmissionpolicybinding",
		NeedsResourceVersion: true,
		Default:              defaultValidatingPolicyBinding,
		ValidateRequest:      deps.validateValidatingBinding,
		Columns: bindingColumns(
			func(o *admissionregistrationv1.ValidatingAdmissionPolicyBinding) string { return o.Spec.PolicyName },
			func(o *admissionregistrationv1.ValidatingAdmissionPolicyBinding) *admissionregistrationv1.ParamRef {
				return o.Spec.ParamRef
			}),
		Categories: []string{"api-extensions"},
	}
}

func (d Deps) validateValidatingBinding(ctx context.Context, b, _ *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	if errs := validateValidatingPolicyBinding(b); len(errs) > 0 {
		return errs
	}
	return d.mayReadParams(ctx, b.Spec.PolicyName, b.Spec.ParamRef, d.validatingKind)
}
