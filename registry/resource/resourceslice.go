// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceSlices says what is particular to resourceslices.
func ResourceSlices() rest.Resource[*resourcev1.ResourceSlice] {
	return rest.Resource[*resourcev1.ResourceSlice]{
		Kind:             resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"),
		Plural:           "resourceslices",
		Singular:         "resourceslice",
		Columns:          resourceSliceColumns(),
		ReturnDeleted:    true,
		Default:          defaultSlice,
		PrepareCreate:    func(_ context.Context, s *resourcev1.ResourceSlice) { dropDisabledSlice(s) },
		PrepareUpdate:    func(s, _ *resourcev1.ResourceSlice) { dropDisabledSlice(s) },
		GenerationOfSent: true,
		Validate:         validateSlice,
		ValidateUpdate:   validateSliceUpdate,
		Warnings:         sliceWarnings,
		IndexedFields:    []string{resourcev1.ResourceSliceSelectorNodeName},
		Fields: func(o *resourcev1.ResourceSlice) fields.Set {
			return fields.Set{
				resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(o.Spec.NodeName, ""),
				resourcev1.ResourceSliceSelectorDriver:   o.Spec.Driver,
				resourcev1.ResourceSliceSelectorPoolName: o.Spec.Pool.Name,
			}
		},
	}
}
