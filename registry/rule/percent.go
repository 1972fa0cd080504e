// SPDX-License-Identifier: Apache-2.0

package rule

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IntOrPercent says that a number of pods must be zero or more, or a percentage.
func IntOrPercent(path *field.Path, v intstr.IntOrString) field.ErrorList {
	switch v.Type {
	case intstr.String:
		return Invalid(path, v, validation.IsValidPercent(v.StrVal))
	case intstr.Int:
		return NonNegative(path, int64(v.IntValue()))
	}
	return field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
}

// Percent is the number in a percentage.
func Percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}

// AtMostAll says that a percentage must not be more than 100%.
func AtMostAll(path *field.Path, v intstr.IntOrString) field.ErrorList {
	n, ok := Percent(v)
	return If(ok && n > 100, field.Invalid(path, v, "must not be greater than 100%"))
}
