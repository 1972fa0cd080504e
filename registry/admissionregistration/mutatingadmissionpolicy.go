// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// MutatingAdmissionPolicies says what is particular to mutatingadmissionpolicies.
func MutatingAdmissionPolicies() rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicy] {
	return rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicy]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Plural:               "mutatingadmissionpolicies",
		Singular:             "mutatingadmissionpolicy",
		NeedsResourceVersion: true,
		Default:              defaultMutatingPolicy,
		Validate:             validateMutatingPolicy,
		ValidateUpdate:       validateMutatingPolicyUpdate,
		Columns: policyColumns("Mutations", "Mutation indicates the number of mutations rules defined in this configuration",
			func(o *admissionregistrationv1.MutatingAdmissionPolicy) int { return len(o.Spec.Mutations) },
			func(o *admissionregistrationv1.MutatingAdmissionPolicy) *admissionregistrationv1.ParamKind {
				return o.Spec.ParamKind
			}),
		Categories: []string{"api-extensions"},
	}
}
