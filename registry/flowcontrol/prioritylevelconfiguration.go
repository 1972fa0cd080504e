// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PriorityLevelConfigurations says what is particular to prioritylevelconfigurations.
func PriorityLevelConfigurations() rest.Resource[*flowcontrolv1.PriorityLevelConfiguration] {
	return rest.Resource[*flowcontrolv1.PriorityLevelConfiguration]{
		Kind:                flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"),
		Plural:              "prioritylevelconfigurations",
		Singular:            "prioritylevelconfiguration",
		Columns:             priorityLevelColumns(),
		StatusKeepsMetadata: true,
		PrepareStatusUpdate: func(o, old *flowcontrolv1.PriorityLevelConfiguration) { keepMeta(&o.ObjectMeta, &old.ObjectMeta) },
		Default:             defaultPriorityLevel,
		Validate:            validatePriorityLevel,
		ValidateStatus:      validatePriorityLevelStatus,
	}
}
