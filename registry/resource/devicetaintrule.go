// SPDX-License-Identifier: Apache-2.0

package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// DeviceTaintRules says what is particular to devicetaintrules.
func DeviceTaintRules() rest.Resource[*resourcev1.DeviceTaintRule] {
	return rest.Resource[*resourcev1.DeviceTaintRule]{
		Kind:                 resourcev1.SchemeGroupVersion.WithKind("DeviceTaintRule"),
		Plural:               "devicetaintrules",
		Singular:             "devicetaintrule",
		Columns:              deviceTaintRuleColumns(),
		NeedsResourceVersion: true,
		StatusKeepsMetadata:  true,
		Default:              defaultTaintRule,
		PrepareUpdate:        prepareTaintRuleUpdate,
		Validate:             validateTaintRule,
		ValidateUpdate:       validateTaintRuleUpdate,
		ValidateStatus:       validateTaintRuleStatus,
	}
}
