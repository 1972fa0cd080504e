// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ValidatingAdmissionPolicies says what is particular to validatingadmissionpolicies.
func ValidatingAdmissionPolicies(deps Deps) rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicy] {
	return rest.Resource[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Plural:               "validatingadmissionpolicies",
		Singular:             "validatingadmissionpolicy",
		StatusKeepsMetadata:  true,
		NeedsResourceVersion: true,
		Default:              defaultValidatingPolicy,
		ValidateRequest:      deps.validateValidatingPolicy,
		ValidateStatus:       validateValidatingPolicyStatus,
		Columns: policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration",
			func(o *admissionregistrationv1.ValidatingAdmissionPolicy) int { return len(o.Spec.Validations) },
			func(o *admissionregistrationv1.ValidatingAdmissionPolicy) *admissionregistrationv1.ParamKind {
				return o.Spec.ParamKind
			}),
		Categories: []string{"api-extensions"},
	}
}

func (d Deps) validateValidatingPolicy(ctx context.Context, p, old *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	if errs := validateValidatingPolicy(p, old); len(errs) > 0 {
		return errs
	}
	var before *admissionregistrationv1.ParamKind
	if old != nil {
		before = old.Spec.ParamKind
	}
	return d.mayReadKind(ctx, p.Spec.ParamKind, before)
}
