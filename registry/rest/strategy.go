// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// strategy is what a Resource does to writes of the main resource.
type strategy[T Object] struct {
	runtime.ObjectTyper
	names.NameGenerator
	r      *Resource[T]
	layout layout
}

// statusStrategy is the same for writes of the status subresource.
type statusStrategy[T Object] struct{ strategy[T] }

// gracefulStrategy adds graceful deletion; the generic store asks for the interface, not for a nil func.
type gracefulStrategy[T Object] struct{ strategy[T] }

// layout tells where a type keeps its spec and status.
type layout struct{ spec, status int } // index of the field, -1 if there is none

func layoutOf(t reflect.Type) layout {
	index := func(name string) int {
		f, ok := t.FieldByName(name)
		if !ok || len(f.Index) != 1 {
			return -1
		}
		return f.Index[0]
	}
	return layout{spec: index("Spec"), status: index("Status")}
}

func (s strategy[T]) NamespaceScoped() bool                         { return s.r.Namespaced }
func (s strategy[T]) AllowCreateOnUpdate(context.Context) bool      { return s.r.CreateOnUpdate }
func (s strategy[T]) AllowUnconditionalUpdate(context.Context) bool { return !s.r.NeedsResourceVersion }
func (s strategy[T]) Canonicalize(runtime.Object)                   {}

func (s strategy[T]) hasGeneration() bool {
	return !s.r.NoGeneration && (s.r.GenerationOf != nil || s.layout.spec >= 0)
}

func (s strategy[T]) hasStatus() bool { return s.layout.status >= 0 && !s.r.NoStatus }

// generationOf returns what bumps the generation when it changes.
func (s strategy[T]) generationOf(obj T) any {
	if s.r.GenerationOf != nil {
		return s.r.GenerationOf(obj)
	}
	return reflect.ValueOf(obj).Elem().Field(s.layout.spec).Interface()
}

func (s strategy[T]) PrepareForCreate(ctx context.Context, o runtime.Object) {
	obj := o.(T)
	if s.hasStatus() && !s.r.StatusOnCreate {
		reflect.ValueOf(obj).Elem().Field(s.layout.status).SetZero()
	}
	if s.hasGeneration() && !s.r.GenerationAsSent {
		obj.SetGeneration(1)
	}
	if s.r.PrepareCreate != nil {
		s.r.PrepareCreate(ctx, obj)
	}
}

func (s strategy[T]) PrepareForUpdate(_ context.Context, o, oldObject runtime.Object) {
	obj, old := o.(T), oldObject.(T)
	if s.hasStatus() {
		copyField(obj, old, s.layout.status)
	}
	if s.r.GenerationOfSent {
		s.countChange(obj, old)
	}
	if s.r.PrepareUpdate != nil {
		s.r.PrepareUpdate(obj, old)
	}
	if s.hasGeneration() && !s.r.GenerationOfSent {
		s.countChange(obj, old)
	}
}

// countChange sets the generation of an update.
func (s strategy[T]) countChange(obj, old T) {
	obj.SetGeneration(old.GetGeneration())
	if !equality.Semantic.DeepEqual(s.generationOf(obj), s.generationOf(old)) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func (s strategy[T]) Validate(ctx context.Context, o runtime.Object) field.ErrorList {
	obj := o.(T)
	var none T
	switch {
	case s.r.Validate != nil:
		return append(s.r.Validate(obj), s.validateRequest(ctx, obj, none)...)
	case s.r.ValidateRequest != nil:
		return s.r.ValidateRequest(ctx, obj, none)
	}
	return validation.ValidateObjectMetaAccessor(obj, s.r.Namespaced, s.validateName(), field.NewPath("metadata"))
}

func (s strategy[T]) ValidateUpdate(ctx context.Context, o, oldObject runtime.Object) field.ErrorList {
	obj, old := o.(T), oldObject.(T)
	errs := s.validateRequest(ctx, obj, old)
	switch {
	case s.r.ValidateUpdate != nil:
		return append(s.r.ValidateUpdate(obj, old), errs...)
	case s.r.Validate != nil:
		return append(s.r.Validate(obj), errs...)
	}
	return errs
}

func (s strategy[T]) validateRequest(ctx context.Context, obj, old T) field.ErrorList {
	if s.r.ValidateRequest == nil {
		return nil
	}
	return s.r.ValidateRequest(ctx, obj, old)
}

func (s strategy[T]) validateName() validation.ValidateNameFunc {
	if s.r.ValidateName != nil {
		return s.r.ValidateName
	}
	return validation.NameIsDNSSubdomain
}

func (s strategy[T]) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.r.Warnings == nil {
		return nil
	}
	var none T
	return s.r.Warnings(obj.(T), none)
}

func (s strategy[T]) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	if s.r.Warnings == nil {
		return nil
	}
	return s.r.Warnings(obj.(T), old.(T))
}

func (s strategy[T]) DefaultGarbageCollectionPolicy(context.Context) genericrest.GarbageCollectionPolicy {
	switch {
	case s.r.NoDependents:
		return genericrest.Unsupported
	case s.r.OrphanByDefault:
		return genericrest.OrphanDependents
	}
	return genericrest.DeleteDependents
}

// GetResetFields names what a write of the main resource cannot set, so that server-side apply does not own it.
func (s strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.hasStatus() {
		return s.resetFields(s.r.Resets...)
	}
	return s.resetFields(append([]string{"status"}, s.r.Resets...)...)
}

func (s strategy[T]) resetFields(paths ...string) map[fieldpath.APIVersion]*fieldpath.Set {
	if len(paths) == 0 {
		return nil
	}
	set := fieldpath.NewSet()
	for _, path := range paths {
		var names []any
		for name := range strings.SplitSeq(path, ".") {
			names = append(names, name)
		}
		set.Insert(fieldpath.MakePathOrDie(names...))
	}
	out := map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.r.Kind.GroupVersion().String()): set}
	for _, gv := range s.r.Served {
		out[fieldpath.APIVersion(gv.String())] = set
	}
	return out
}

func (s gracefulStrategy[T]) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.r.GracefulDelete(obj.(T), options)
}

func (s statusStrategy[T]) PrepareForUpdate(_ context.Context, o, oldObject runtime.Object) {
	obj, old := o.(T), oldObject.(T)
	if s.layout.spec >= 0 {
		copyField(obj, old, s.layout.spec)
	}
	obj.SetGeneration(old.GetGeneration())
	if s.r.StatusKeepsMetadata {
		metav1.ResetObjectMetaForStatus(obj, old)
	}
	if s.r.PrepareStatusUpdate != nil {
		s.r.PrepareStatusUpdate(obj, old)
	}
}

func (s statusStrategy[T]) ValidateUpdate(ctx context.Context, o, oldObject runtime.Object) field.ErrorList {
	obj, old := o.(T), oldObject.(T)
	var errs field.ErrorList
	if s.r.ValidateStatusRequest != nil {
		errs = s.r.ValidateStatusRequest(ctx, obj, old)
	}
	if s.r.ValidateStatus != nil {
		errs = append(errs, s.r.ValidateStatus(obj, old)...)
	}
	return errs
}

func (s statusStrategy[T]) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	if s.r.StatusWarnings == nil {
		return nil
	}
	return s.r.StatusWarnings(obj.(T), old.(T))
}

func (s statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	paths := slices.Clone(s.r.StatusResets)
	if s.r.StatusKeepsMetadata {
		paths = append(paths, "metadata")
	}
	if s.layout.spec >= 0 {
		paths = append(paths, "spec")
	}
	return s.resetFields(paths...)
}

// copyField sets one field of dst to src's. Both are private to the request, so nothing is cloned.
func copyField(dst, src any, index int) {
	reflect.ValueOf(dst).Elem().Field(index).Set(reflect.ValueOf(src).Elem().Field(index))
}
