// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := validateRevisionNumber(r)
	path := field.NewPath("data")
	if r.Data.Raw == nil {
		return append(errs, field.Required(path, "data is mandatory"))
	}
	var data any
	err := json.Unmarshal(r.Data.Raw, &data)
	_, isObject := data.(map[string]any)
	switch {
	case err != nil:
		errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err)))
	case data == nil:
		errs = append(errs, field.Required(path, "data is mandatory"))
	case !isObject:
		errs = append(errs, field.Required(path, "data must be a valid JSON object"))
	}
	return errs
}

func validateControllerRevisionUpdate(r, old *appsv1.ControllerRevision) field.ErrorList {
	return append(validateRevisionNumber(r), rule.Unchanged(field.NewPath("data"), r.Data, old.Data)...)
}

func validateRevisionNumber(r *appsv1.ControllerRevision) field.ErrorList {
	errs := rule.ObjectMeta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, rule.NonNegative(field.NewPath("revision"), r.Revision)...)
}
