// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// StatefulSets says what is particular to statefulsets.
func StatefulSets() rest.Resource[*appsv1.StatefulSet] {
	return rest.Resource[*appsv1.StatefulSet]{
		Kind:           appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		Plural:         "statefulsets",
		Singular:       "statefulset",
		Columns:        statefulSetColumns(),
		ShortNames:     []string{"sts"},
		Categories:     []string{"all"},
		Namespaced:     true,
		Default:        defaultStatefulSet,
		PrepareCreate:  func(_ context.Context, o *appsv1.StatefulSet) { prepareStatefulSetCreate(o) },
		PrepareUpdate:  prepareStatefulSetUpdate,
		Validate:       validateStatefulSet,
		ValidateUpdate: validateStatefulSetUpdate,
		ValidateStatus: validateStatefulSetStatusUpdate,
		Warnings:       statefulSetWarnings,
		Scale: &rest.Scale[*appsv1.StatefulSet]{
			Replicas:       func(o *appsv1.StatefulSet) int32 { return ptr.Deref(o.Spec.Replicas, 1) },
			SetReplicas:    func(o *appsv1.StatefulSet, n int32) { o.Spec.Replicas = &n },
			StatusReplicas: func(o *appsv1.StatefulSet) int32 { return o.Status.Replicas },
			Selector:       func(o *appsv1.StatefulSet) (string, error) { return rest.SelectorString(o.Spec.Selector) },
		},
	}
}
