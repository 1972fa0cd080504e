// SPDX-License-Identifier: Apache-2.0

package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceSlices says what is particular to resourceslices.
func ResourceSlices() rest.Resource[*resourcev1.ResourceSlice] {
	return rest.Resource[*resourcev1.ResourceSlice]{
		Kind:          resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"),
		Plural:        "resourceslices",
		Singular:      "resourceslice",
		Columns:       resourceSliceColumns(),
		ReturnDeleted: true,
		Fields: func(o *resourcev1.ResourceSlice) fields.Set {
			return fields.Set{"spec.nodeName": ptr.Deref(o.Spec.NodeName, ""), "spec.driver": o.Spec.Driver}
		},
	}
}
