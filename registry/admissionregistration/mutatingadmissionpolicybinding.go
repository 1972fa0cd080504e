// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// MutatingAdmissionPolicyBindings says what is particular to mutatingadmissionpolicybindings.
func MutatingAdmissionPolicyBindings() rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicyBinding] {
	return rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Plural:               "mutatingadmissionpolicybindings",
		Singular:             "mutatingadmissionpolicybinding",
		NeedsResourceVersion: true,
		Default:              defaultMutatingPolicyBinding,
		Validate:             validateMutatingPolicyBinding,
		Columns: bindingColumns(
			func(o *admissionregistrationv1.MutatingAdmissionPolicyBinding) string { return o.Spec.PolicyName },
			func(o *admissionregistrationv1.MutatingAdmissionPolicyBinding) *admissionregistrationv1.ParamRef {
				return o.Spec.ParamRef
			}),
		Categories: []string{"api-extensions"},
	}
}
