// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ControllerRevisions says what is particular to controllerrevisions.
func ControllerRevisions() rest.Resource[*appsv1.ControllerRevision] {
	return rest.Resource[*appsv1.ControllerRevision]{
		Kind:           appsv1.SchemeGroupVersion.WithKind("ControllerRevision"),
		Plural:         "controllerrevisions",
		Singular:       "controllerrevision",
		Columns:        controllerRevisionColumns(),
		Namespaced:     true,
		Validate:       validateControllerRevision,
		ValidateUpdate: validateControllerRevisionUpdate,
	}
}
