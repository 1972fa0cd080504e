// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PriorityClasses says what is particular to priorityclasses.
func PriorityClasses() rest.Resource[*schedulingv1.PriorityClass] {
	return rest.Resource[*schedulingv1.PriorityClass]{
		Kind:           schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
		Plural:         "priorityclasses",
		Singular:       "priorityclass",
		Columns:        priorityClassColumns(),
		ShortNames:     []string{"pc"},
		Default:        defaultPriorityClass,
		Validate:       validatePriorityClass,
		ValidateUpdate: validatePriorityClassUpdate,
		GenerationOf: func(*schedulingv1.PriorityClass) any {
			return nil // 1 for ever: the value does not change
		},
	}
}
