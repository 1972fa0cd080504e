// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ValidatingAdmissionPolicyBindings says what is particular to validatingadmissionpolicybindings.
func ValidatingAdmissionPolicyBindings() rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicyBinding] {
	return rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Plural:               "validatingadmissionpolicybindings",
		Singular:             "validatingadmissionpolicybinding",
		NeedsResourceVersion: true,
		Default:              defaultValidatingPolicyBinding,
		Validate:             validateValidatingPolicyBinding,
		Columns: bindingColumns(
			func(o *admissionregistrationv1.ValidatingAdmissionPolicyBinding) string { return o.Spec.PolicyName },
			func(o *admissionregistrationv1.ValidatingAdmissionPolicyBinding) *admissionregistrationv1.ParamRef {
				return o.Spec.ParamRef
			}),
		Categories: []string{"api-extensions"},
	}
}
