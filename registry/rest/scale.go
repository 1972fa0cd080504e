// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Scale tells the scale subresource (autoscaling/v1) where a kind keeps its replicas.
type Scale[T Object] struct {
	Replicas       func(obj T) int32
	SetReplicas    func(obj T, replicas int32)
	StatusReplicas func(obj T) int32
	// Selector of the pods that are counted, in string form; an error is an object that cannot be scaled.
	Selector func(obj T) (string, error)
}

// scaleREST serves get and update of scale.
type scaleREST[T Object] struct {
	kind  schema.GroupVersionKind
	store *Store
	scale Scale[T]
}

func newScaleREST[T Object](kind schema.GroupVersionKind, store *Store, scale Scale[T]) *scaleREST[T] {
	return &scaleREST[T]{kind: kind, store: store, scale: scale}
}

// GroupVersionKind implements rest.GroupVersionKindProvider: scale is always autoscaling/v1.
func (s *scaleREST[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s *scaleREST[T]) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing: the main resource owns the storage.
func (s *scaleREST[T]) Destroy() {}

func (s *scaleREST[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.scaleOf(obj.(T))
}

func (s *scaleREST[T]) Update(ctx context.Context, name string, info genericrest.UpdatedObjectInfo, createValidation genericrest.ValidateObjectFunc,
	updateValidation genericrest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	obj, _, err := s.store.Update(ctx, name, &scaledInfo[T]{s, name, info},
		func(ctx context.Context, obj runtime.Object) error {
			scale, err := s.scaleOf(obj.(T))
			if err != nil {
				return err
			}
			return createValidation(ctx, scale)
		},
		func(ctx context.Context, obj, old runtime.Object) error {
			scale, err := s.scaleOf(obj.(T))
			if err != nil {
				return err
			}
			oldScale, err := s.scaleOf(old.(T))
			if err != nil {
				return err
			}
			return updateValidation(ctx, scale, oldScale)
		}, false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := s.scaleOf(obj.(T))
	return scale, false, err
}

func (s *scaleREST[T]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return scaleTable.ConvertToTable(ctx, object, options)
}

var scaleTable = newTable([]Column[*autoscalingv1.Scale]{
	Name[*autoscalingv1.Scale](),
	{Name: "Desired", Type: "integer", Description: autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"], Value: func(o *autoscalingv1.Scale) any { return int64(o.Spec.Replicas) }},
	{Name: "Available", Type: "integer", Description: autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"], Value: func(o *autoscalingv1.Scale) any { return int64(o.Status.Replicas) }},
	Age[*autoscalingv1.Scale](),
}, nil, nil)

func (s *scaleREST[T]) scaleOf(obj T) (*autoscalingv1.Scale, error) {
	selector, err := s.scale.Selector(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read the selector of %s: %v", obj.GetName(), err))
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: s.scale.Replicas(obj)},
		Status: autoscalingv1.ScaleStatus{Replicas: s.scale.StatusReplicas(obj), Selector: selector},
	}, nil
}

// scaledInfo applies an update of a Scale to the object behind it.
type scaledInfo[T Object] struct {
	rest *scaleREST[T]
	name string
	info genericrest.UpdatedObjectInfo
}

func (i *scaledInfo[T]) Preconditions() *metav1.Preconditions { return i.info.Preconditions() }

func (i *scaledInfo[T]) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj := old.DeepCopyObject().(T)
	gv := i.rest.kind.GroupVersion().String()
	managed := managedfields.NewScaleHandler(obj.GetManagedFields(), i.rest.kind.GroupVersion(), replicasPath(gv))

	oldScale, err := i.rest.scaleOf(obj)
	if err != nil {
		return nil, err
	}
	if oldScale.ManagedFields, err = managed.ToSubresource(); err != nil {
		return nil, fmt.Errorf("read managed fields of %s: %w", i.name, err)
	}
	updated, err := i.info.UpdatedObject(ctx, oldScale)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected object of type Scale, got %T", updated))
	}
	if errs := validateScale(scale, obj); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), scale.Name, errs)
	}
	if scale.ResourceVersion != "" && scale.ResourceVersion != obj.GetResourceVersion() {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: i.rest.kind.Group, Resource: i.rest.store.DefaultQualifiedResource.Resource}, scale.Name,
			fmt.Errorf("the resource version %s does not match the current version %s", scale.ResourceVersion, obj.GetResourceVersion()))
	}
	i.rest.scale.SetReplicas(obj, scale.Spec.Replicas)
	entries, err := managed.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, fmt.Errorf("write managed fields of %s: %w", i.name, err)
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

func replicasPath(groupVersion string) managedfields.ResourcePathMappings {
	return managedfields.ResourcePathMappings{groupVersion: fieldpath.MakePathOrDie("spec", "replicas")}
}

func validateScale(scale *autoscalingv1.Scale, obj metav1.Object) field.ErrorList {
	var errs field.ErrorList
	if scale.Name != obj.GetName() {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), scale.Name, "field is immutable"))
	}
	if scale.UID != "" && scale.UID != types.UID(obj.GetUID()) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "uid"), scale.UID, "field is immutable"))
	}
	if scale.Spec.Replicas < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0").WithOrigin("minimum"))
	}
	return errs
}

// SelectorString is a label selector as scale shows it.
func SelectorString(selector *metav1.LabelSelector) (string, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return "", err
	}
	return s.String(), nil
}
