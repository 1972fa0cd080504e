// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Namespaces says what is particular to namespaces: they go in two steps. A delete only marks them, the
// namespace controller empties them and then takes its finalizer off spec, by the subresource finalize.
func Namespaces() rest.Resource[*corev1.Namespace] {
	return rest.Resource[*corev1.Namespace]{
		Kind:                corev1.SchemeGroupVersion.WithKind("Namespace"),
		Plural:              "namespaces",
		Singular:            "namespace",
		Columns:             namespaceColumns(),
		ReturnDeleted:       true,
		ShortNames:          []string{"ns"},
		NoGeneration:        true,
		Fields:              namespaceFields,
		Default:             defaultNamespace,
		PrepareCreate:       func(_ context.Context, ns *corev1.Namespace) { prepareNamespaceCreate(ns) },
		PrepareUpdate:       prepareNamespaceUpdate,
		Validate:            validateNamespace,
		ValidateUpdate:      validateNamespaceUpdate,
		PrepareStatusUpdate: prepareNamespaceStatusUpdate,
		ValidateStatus:      validateNamespaceStatusUpdate,
		Customize: func(store *rest.Store) genericrest.Storage {
			store.ShouldDeleteDuringUpdate = emptiedNamespace
			return &namespaceREST{store, store}
		},
		Subresources: func(store, _ *rest.Store) map[string]genericrest.Storage {
			return map[string]genericrest.Storage{"finalize": finalizeREST{rest.Part(store, prepareNamespaceFinalizeUpdate, validateNamespaceFinalizeUpdate, nil)}}
		},
	}
}

// finalizeREST is the part of a subresource that serves update alone.
type finalizeREST struct{ updates }

type updates interface {
	genericrest.Storage
	genericrest.Updater
	genericrest.ResetFieldsFilterStrategy
}

// emptiedNamespace tells that an update took the last finalizer off a namespace that is to go.
func emptiedNamespace(ctx context.Context, key string, obj, existing runtime.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) == 0 && registry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
}

// namespaceREST is the store with a delete in two steps, and none of collections.
type namespaceREST struct {
	withoutCollections
	store *rest.Store
}

// withoutCollections is what a store serves, less deletecollection.
type withoutCollections interface {
	genericrest.Getter
	genericrest.Lister
	genericrest.CreaterUpdater
	genericrest.Watcher
	genericrest.Scoper
	genericrest.SingularNameProvider
	genericrest.ShortNamesProvider
	genericrest.CategoriesProvider
	genericrest.ResetFieldsStrategy
	genericrest.StorageVersionProvider
	Destroy()
}

var (
	_ genericrest.GracefulDeleter = &namespaceREST{}
	_ withoutCollections          = &rest.Store{}
)

// Delete marks a namespace on the first request, and removes one that is empty.
func (r *namespaceREST) Delete(ctx context.Context, name string, validate genericrest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.UID == nil {
		options.Preconditions.UID = &ns.UID
	}
	if err := checkNamespacePreconditions(ns, options.Preconditions); err != nil {
		return nil, false, err
	}
	if ns.DeletionTimestamp.IsZero() {
		marked, err := r.mark(ctx, name, validate, options)
		return marked, false, err
	}
	if len(ns.Spec.Finalizers) != 0 {
		return ns, false, nil
	}
	return r.store.Delete(ctx, name, validate, options)
}

func checkNamespacePreconditions(ns *corev1.Namespace, p *metav1.Preconditions) error {
	conflict := func(what string, want, is any) error {
		return apierrors.NewConflict(corev1.Resource("namespaces"), ns.Name,
			fmt.Errorf("Precondition failed: %[1]s in precondition: %[2]v, %[1]s in object meta: %[3]v", what, want, is)) //nolint:staticcheck // upstream's words
	}
	if *p.UID != ns.UID {
		return conflict("UID", *p.UID, ns.UID)
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != ns.ResourceVersion {
		return conflict("ResourceVersion", *p.ResourceVersion, ns.ResourceVersion)
	}
	return nil
}

// mark starts the termination of a namespace.
func (r *namespaceREST) mark(ctx context.Context, name string, validate genericrest.ValidateObjectFunc, options *metav1.DeleteOptions) (*corev1.Namespace, error) {
	key, err := r.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &corev1.Namespace{}
	preconditions := &storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	err = r.store.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
		ns := existing.(*corev1.Namespace)
		if err := validate(ctx, ns); err != nil {
			return nil, err
		}
		if ns.DeletionTimestamp.IsZero() {
			ns.DeletionTimestamp = ptr.To(metav1.Now())
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		ns.Finalizers = dependentsFinalizers(ns.Finalizers, options)
		return ns, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	if err == nil {
		return out, nil
	}
	namespaces := corev1.Resource("namespaces")
	err = storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, namespaces, name), namespaces, name)
	if _, ok := err.(apierrors.APIStatus); !ok {
		err = apierrors.NewInternalError(err)
	}
	return nil, err
}

// dependentsFinalizers adds or removes the garbage collector's finalizers as the delete options ask.
func dependentsFinalizers(finalizers []string, options *metav1.DeleteOptions) []string {
	set := func(name string, want bool) {
		has := slices.Contains(finalizers, name)
		switch {
		case want && !has:
			finalizers = append(finalizers, name)
		case !want && has:
			finalizers = slices.DeleteFunc(finalizers, func(f string) bool { return f == name })
		}
	}
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // old clients still send it
		set(metav1.FinalizerOrphanDependents, *options.OrphanDependents)  //nolint:staticcheck // as above
		set(metav1.FinalizerDeleteDependents, !*options.OrphanDependents) //nolint:staticcheck // as above
	case options.PropagationPolicy != nil:
		set(metav1.FinalizerOrphanDependents, *options.PropagationPolicy == metav1.DeletePropagationOrphan)
		set(metav1.FinalizerDeleteDependents, *options.PropagationPolicy == metav1.DeletePropagationForeground)
	}
	return finalizers
}
