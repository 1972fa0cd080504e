// SPDX-License-Identifier: Apache-2.0

package rule

import (
	"context"

	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Declared checks a value by a format that the API's types name in tags (validate.ShortName for "+k8s:format=k8s-short-name"),
// where upstream reports it in the words of the tag.
func Declared[T any](path *field.Path, value T, format func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList) field.ErrorList {
	return format(context.Background(), operation.Operation{}, path, &value, nil)
}

// DeclaredName is ObjectMeta for kinds whose names have a declared format, which is that of names only: what is made of
// generateName is a name then.
func DeclaredName(meta *metav1.ObjectMeta, namespaced bool, format func(context.Context, operation.Operation, *field.Path, *string, *string) field.ErrorList) field.ErrorList {
	errs := ObjectMeta(meta, namespaced, func(string, bool) []string { return nil })
	if meta.Name == "" {
		return errs
	}
	return append(errs, Declared(field.NewPath("metadata", "name"), meta.Name, format)...)
}

// RequiredAnd is Declared for a string that must be there.
func RequiredAnd[T ~string](path *field.Path, value T, format func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Declared(path, value, format)
}
