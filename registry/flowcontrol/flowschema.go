// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// FlowSchemas says what is particular to flowschemas.
func FlowSchemas() rest.Resource[*flowcontrolv1.FlowSchema] {
	return rest.Resource[*flowcontrolv1.FlowSchema]{
		Kind:                flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"),
		Plural:              "flowschemas",
		Singular:            "flowschema",
		Columns:             flowSchemaColumns(),
		StatusKeepsMetadata: true,
		PrepareStatusUpdate: func(o, old *flowcontrolv1.FlowSchema) { keepMeta(&o.ObjectMeta, &old.ObjectMeta) },
		Default:             defaultFlowSchema,
		Validate:            validateFlowSchema,
		ValidateStatus:      validateFlowSchemaStatus,
	}
}
