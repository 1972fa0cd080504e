// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Services says what is particular to services.
func Services(deps Deps) rest.Resource[*corev1.Service] {
	return rest.Resource[*corev1.Service]{
		Kind:                corev1.SchemeGroupVersion.WithKind("Service"),
		Plural:              "services",
		Singular:            "service",
		CreateOnUpdate:      true,
		Columns:             serviceColumns(),
		ShortNames:          []string{"svc"},
		Categories:          []string{"all"},
		Namespaced:          true,
		KeyPrefix:           "services/specs",
		NoGeneration:        true,
		Default:             defaultService,
		PrepareCreate:       func(_ context.Context, o *corev1.Service) { prepareServiceCreate(o) },
		PrepareUpdate:       prepareServiceUpdate,
		Validate:            validateService,
		ValidateUpdate:      validateServiceUpdate,
		PrepareStatusUpdate: prepareServiceStatusUpdate,
		ValidateStatus:      validateServiceStatusUpdate,
		Warnings:            func(o, _ *corev1.Service) []string { return serviceWarnings(o) },
		Fields:              serviceFields,
		ReturnDeleted:       true,
		Customize: func(store *rest.Store) genericrest.Storage {
			if deps.Services != nil {
				allocateWith(deps.Services, store)
			}
			return store
		},
		Subresources: func(*rest.Store, *rest.Store) map[string]genericrest.Storage {
			if deps.ServiceProxy == nil {
				return nil
			}
			return map[string]genericrest.Storage{"proxy": deps.ServiceProxy}
		},
	}
}

// allocateWith hooks a into the writes of store.
func allocateWith(a ServiceAllocator, store *rest.Store) {
	store.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (registry.FinishFunc, error) {
		return a.BeginCreate(ctx, obj.(*corev1.Service), options)
	}
	store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (registry.FinishFunc, error) {
		return a.BeginUpdate(ctx, obj.(*corev1.Service), old.(*corev1.Service), options)
	}
	store.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
		a.AfterDelete(obj.(*corev1.Service), options)
	}
}
