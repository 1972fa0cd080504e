// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Servers of Skiff elect leaders without a coordinator, so its fields are cleared.

func prepareLeaseCreate(l *coordinationv1.Lease) {
	l.Spec.Strategy = nil
	l.Spec.PreferredHolder = nil
}

func prepareLeaseUpdate(l, old *coordinationv1.Lease) {
	if old.Spec.Strategy == nil {
		l.Spec.Strategy = nil
	}
	if old.Spec.PreferredHolder == nil {
		l.Spec.PreferredHolder = nil
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	return append(rule.GenericMeta(&l.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), validateLeaseSpec(&l.Spec)...)
}

func validateLeaseUpdate(l, _ *coordinationv1.Lease) field.ErrorList {
	return validateLeaseSpec(&l.Spec)
}

func validateLeaseSpec(spec *coordinationv1.LeaseSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if n := spec.LeaseDurationSeconds; n != nil && *n <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), n, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), n, "must be greater than or equal to 0"))
	}
	if s, at := spec.Strategy, path.Child("strategy", "strategy"); s != nil {
		if strings.Contains(string(*s), "/") {
			errs = append(errs, rule.QualifiedName(at, string(*s))...)
		} else {
			errs = append(errs, rule.Supported(at, *s, coordinationv1.OldestEmulationVersion)...)
		}
	}
	if ptr.Deref(spec.PreferredHolder, "") != "" && ptr.Deref(spec.Strategy, "") == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
