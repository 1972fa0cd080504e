// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ReplicationControllers says what is particular to replicationcontrollers.
func ReplicationControllers() rest.Resource[*corev1.ReplicationController] {
	return rest.Resource[*corev1.ReplicationController]{
		Kind:            corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Plural:          "replicationcontrollers",
		Singular:        "replicationcontroller",
		Columns:         replicationControllerColumns(),
		ShortNames:      []string{"rc"},
		Categories:      []string{"all"},
		Namespaced:      true,
		KeyPrefix:       "controllers",
		OrphanByDefault: true,
		Fields: func(o *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(o.Status.Replicas))}
		},
		Default:        defaultReplicationController,
		PrepareCreate:  func(_ context.Context, o *corev1.ReplicationController) { prepareReplicationControllerCreate(o) },
		PrepareUpdate:  prepareReplicationControllerUpdate,
		Validate:       validateReplicationController,
		ValidateUpdate: validateReplicationControllerUpdate,
		ValidateStatus: validateReplicationControllerStatusUpdate,
		Warnings:       replicationControllerWarnings,
		Scale: &rest.Scale[*corev1.ReplicationController]{
			Replicas:       func(o *corev1.ReplicationController) int32 { return ptr.Deref(o.Spec.Replicas, 1) },
			SetReplicas:    func(o *corev1.ReplicationController, n int32) { o.Spec.Replicas = &n },
			StatusReplicas: func(o *corev1.ReplicationController) int32 { return o.Status.Replicas },
			Selector: func(o *corev1.ReplicationController) (string, error) {
				return labels.Set(o.Spec.Selector).AsSelector().String(), nil
			},
		},
	}
}
