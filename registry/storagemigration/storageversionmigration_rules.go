// SPDX-License-Identifier: Apache-2.0

package storagemigration

import (
	"strings"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

func validateMigration(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	errs, path := rule.ObjectMeta(&m.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), field.NewPath("spec", "resource")
	resource, group := m.Spec.Resource.Resource, m.Spec.Resource.Group
	if resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
	} else if msgs := validation.IsDNS1035Label(resource); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("resource"), resource, strings.Join(msgs, ",")))
	}
	if msgs := validation.IsDNS1123Subdomain(group); group != "" && len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("group"), group, strings.Join(msgs, ",")))
	}
	return errs
}

func validateMigrationUpdate(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	return append(validateMigration(m), rule.Unchanged(field.NewPath("spec"), m.Spec, old.Spec)...)
}

// validateMigrationStatus says that what has been found out stays so.
func validateMigrationStatus(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	errs, path := rule.ObjectMetaUpdate(&m.ObjectMeta), field.NewPath("status")
	conditions, version := path.Child("conditions"), path.Child("resourceVersion")
	if v := m.Status.ResourceVersion; v != "" {
		if _, err := resourceversion.CompareResourceVersion(v, v); err != nil {
			errs = append(errs, field.Invalid(version, v, err.Error()))
		}
	}
	errs = append(errs, metavalidation.ValidateConditions(m.Status.Conditions, conditions)...)
	errs = append(errs, rule.If(old.Status.ResourceVersion != "" && old.Status.ResourceVersion != m.Status.ResourceVersion,
		field.Invalid(version, m.Status.ResourceVersion, rule.Immutable))...)
	is := func(m *storagemigrationv1.StorageVersionMigration, t storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
	}
	const succeeded, failed = storagemigrationv1.MigrationSucceeded, storagemigrationv1.MigrationFailed
	wrong := func(when bool, detail string) {
		errs = append(errs, rule.If(when, field.Invalid(conditions, m.Status.Conditions, detail))...)
	}
	wrong(is(m, succeeded) && is(m, failed), "Both success and failed conditions cannot be true at the same time")
	wrong(is(old, succeeded) && !is(m, succeeded), "Success condition cannot be set to false once it is true")
	wrong(is(old, failed) && !is(m, failed), "Failed condition cannot be set to false once it is true")
	return errs
}
