// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ReplicaSets says what is particular to replicasets.
func ReplicaSets() rest.Resource[*appsv1.ReplicaSet] {
	return rest.Resource[*appsv1.ReplicaSet]{
		Kind:                appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Plural:              "replicasets",
		Singular:            "replicaset",
		Columns:             replicaSetColumns(),
		ShortNames:          []string{"rs"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Default:             defaultReplicaSet,
		PrepareCreate:       func(_ context.Context, o *appsv1.ReplicaSet) { prepareReplicaSetCreate(o) },
		PrepareUpdate:       prepareReplicaSetUpdate,
		Validate:            validateReplicaSet,
		ValidateUpdate:      validateReplicaSetUpdate,
		PrepareStatusUpdate: prepareReplicaSetStatusUpdate,
		ValidateStatus:      validateReplicaSetStatusUpdate,
		Warnings:            replicaSetWarnings,
		Scale: &rest.Scale[*appsv1.ReplicaSet]{
			Replicas:       func(o *appsv1.ReplicaSet) int32 { return ptr.Deref(o.Spec.Replicas, 1) },
			SetReplicas:    func(o *appsv1.ReplicaSet, n int32) { o.Spec.Replicas = &n },
			StatusReplicas: func(o *appsv1.ReplicaSet) int32 { return o.Status.Replicas },
			Selector:       func(o *appsv1.ReplicaSet) (string, error) { return rest.SelectorString(o.Spec.Selector) },
		},
	}
}
