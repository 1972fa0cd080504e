// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ValidatingAdmissionPolicies says what is particular to validatingadmissionpolicies.
func ValidatingAdmissionPolicies() rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicy] {
	return rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Plural:               "validatingadmissionpolicies",
		Singular:             "validatingadmissionpolicy",
		StatusKeepsMetadata:  true,
		NeedsResourceVersion: true,
		Default:              defaultValidatingPolicy,
		Validate:             validateValidatingPolicy,
		ValidateUpdate:       validateValidatingPolicyUpdate,
		ValidateStatus:       validateValidatingPolicyStatus,
		Columns: policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration",
			func(o *admissionregistrationv1.ValidatingAdmissionPolicy) int { return len(o.Spec.Validations) },
			func(o *admissionregistrationv1.ValidatingAdmissionPolicy) *admissionregistrationv1.ParamKind {
				return o.Spec.ParamKind
			}),
		Categories: []string{"api-extensions"},
	}
}
