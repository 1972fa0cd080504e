// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// LimitRanges says what is particular to limitranges.
func LimitRanges() rest.Resource[*corev1.LimitRange] {
	return rest.Resource[*corev1.LimitRange]{
		Kind:           corev1.SchemeGroupVersion.WithKind("LimitRange"),
		Plural:         "limitranges",
		Singular:       "limitrange",
		CreateOnUpdate: true,
		Columns:        rest.NameAndDate[*corev1.LimitRange](),
		ShortNames:     []string{"limits"},
		Namespaced:     true,
		NoGeneration:   true,
		Default:        defaultLimitRange,
		Validate:       validateLimitRange,
	}
}
