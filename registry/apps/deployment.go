// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Deployments says what is particular to deployments.
func Deployments() rest.Resource[*appsv1.Deployment] {
	return rest.Resource[*appsv1.Deployment]{
		Kind:                appsv1.SchemeGroupVersion.WithKind("Deployment"),
		Plural:              "deployments",
		Singular:            "deployment",
		StatusResets:        []string{"metadata.labels"},
		Columns:             deploymentColumns(),
		ShortNames:          []string{"deploy"},
		Categories:          []string{"all"},
		Namespaced:          true,
		GenerationOf:        func(o *appsv1.Deployment) any { return []any{o.Spec, o.Annotations} }, // a changed annotation is a new revision
		Default:             defaultDeployment,
		PrepareCreate:       func(_ context.Context, o *appsv1.Deployment) { prepareDeploymentCreate(o) },
		PrepareUpdate:       prepareDeploymentUpdate,
		Validate:            validateDeployment,
		ValidateUpdate:      validateDeploymentUpdate,
		PrepareStatusUpdate: prepareDeploymentStatusUpdate,
		ValidateStatus:      validateDeploymentStatusUpdate,
		Warnings:            deploymentWarnings,
		Scale: &rest.Scale[*appsv1.Deployment]{
			Replicas:       func(o *appsv1.Deployment) int32 { return ptr.Deref(o.Spec.Replicas, 1) },
			SetReplicas:    func(o *appsv1.Deployment, n int32) { o.Spec.Replicas = &n },
			StatusReplicas: func(o *appsv1.Deployment) int32 { return o.Status.Replicas },
			Selector:       func(o *appsv1.Deployment) (string, error) { return rest.SelectorString(o.Spec.Selector) },
		},
	}
}
