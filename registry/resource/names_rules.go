// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

var validateDriver = podspec.ValidateCSIDriverName // which follows the same rules

// driverTag is validateDriver where the rule is declared by tags.
func driverTag(path *field.Path, name string) field.ErrorList {
	errs := rule.RequiredAnd(path, name, validate.LongNameCaseless)
	return append(errs, validate.MaxLength(context.Background(), operation.Operation{}, path, &name, nil, resourcev1.DriverNameMaxLength)...)
}

// validatePool: a pool is often named after a node, with something before or after a slash.
func validatePool(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := rule.If(len(name) > resourcev1.PoolNameMaxLength, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, rule.DNSSubdomain(path, part)...)
	}
	return errs
}

// validateName checks the name of an attribute or a capacity: an identifier, maybe after a domain and a slash.
func validateName(path *field.Path, name string) field.ErrorList {
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		return validateIdentifier(path, name)
	case 2:
	default:
		return nil // as upstream has it
	}
	var errs field.ErrorList
	if parts[0] == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, validateDriver(path, parts[0])...)
	}
	if parts[1] == "" {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	return append(errs, validateIdentifier(path, parts[1])...)
}

func validateIdentifier(path *field.Path, id string) field.ErrorList {
	errs := rule.If(len(id) > resourcev1.DeviceMaxIDLength, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	return append(errs, rule.Invalid(path, id, content.IsCIdentifier(id))...)
}

// validateJSON says that what only drivers understand must be an object all the same.
func validateJSON(path *field.Path, raw []byte, most int) field.ErrorList {
	var v any
	switch {
	case len(raw) == 0:
		return field.ErrorList{field.Required(path, "")}
	case len(raw) > most:
		return field.ErrorList{field.TooLong(path, "", most)}
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	switch v.(type) {
	case nil:
		return field.ErrorList{field.Required(path, "")}
	case map[string]any:
		return nil
	}
	return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
}
