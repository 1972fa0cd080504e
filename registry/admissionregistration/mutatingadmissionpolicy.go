// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// MutatingAdmissionPolicies says what is particular to mutatingadmissionpolicies.
func MutatingAdmissionPolicies(deps Deps) rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicy] {
	return rest.Resource[*admissionregistrationv1.MutatingAdmissionPolicy]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Plural:               "mutatingadmissionpolicies",
		Singular:             "mutatingadmissionpolicy",
		NeedsResourceVersion: true,
		Default:              defaultMutatingPolicy,
		ValidateRequest:      deps.validateMutatingPolicy,
		Columns: policyColumns("Mutations", "Mutation indicates the number of mutations rules defined in this configuration",
			func(o *admissionregistrationv1.MutatingAdmissionPolicy) int { return len(o.Spec.Mutations) },
			func(o *admissionregistrationv1.MutatingAdmissionPolicy) *admissionregistrationv1.ParamKind {
				return o.Spec.ParamKind
			}),
		Categories: []string{"api-extensions"},
	}
}

func (d Deps) validateMutatingPolicy(ctx context.Context, p, old *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
	if errs := validateMutatingPolicy(p, old); len(errs) > 0 {
		return errs
	}
	var before *admissionregistrationv1.ParamKind
	if old != nil {
		before = old.Spec.ParamKind
	}
	return d.mayReadKind(ctx, p.Spec.ParamKind, before)
}
