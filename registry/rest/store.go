// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Definition is a Resource of any type: what the list of all resources holds.
type Definition interface {
	// Register makes the kind's defaults and selectable fields known to scheme.
	Register(scheme *runtime.Scheme) error
	// Build opens the storage and returns what serves the resource and its subresources.
	Build(scheme *runtime.Scheme, options OptionsGetter) (*Built, error)
}

// OptionsGetter opens the storage of a resource: stored is the version that is written, keyPrefix its folder.
type OptionsGetter func(resource schema.GroupResource, stored schema.GroupVersion, keyPrefix string) (generic.RESTOptions, error)

// Built is a resource that can be served.
type Built struct {
	// Versions are the group versions under which it appears; the first is the hub.
	Versions []schema.GroupVersion
	// Storage holds "pods", "pods/status", ...
	Storage map[string]genericrest.Storage
	// Store is the main resource's store, for other resources that need it without going through the API.
	Store *Store
	// Status is the store of the status subresource, nil if there is none.
	Status *Store
}

// Register implements Definition.
func (r Resource[T]) Register(scheme *runtime.Scheme) error {
	if r.Default != nil {
		zero := r.zero()
		scheme.AddTypeDefaultingFunc(zero, func(o any) { r.Default(o.(T)) })
		if err := r.registerListDefaults(scheme); err != nil {
			return err
		}
	}
	return r.registerFieldLabels(scheme)
}

// registerFieldLabels says by what a client may select, and what that is called in Fields.
func (r Resource[T]) registerFieldLabels(scheme *runtime.Scheme) error {
	if r.Fields == nil {
		return nil
	}
	for _, gv := range r.versions() {
		internal := maps.Clone(r.FieldLabels[gv])
		if internal == nil {
			internal = map[string]string{}
		}
		if gv == r.Kind.GroupVersion() || len(internal) == 0 {
			for label := range r.Fields(r.zero()) {
				internal[label] = label
			}
		}
		if err := scheme.AddFieldLabelConversionFunc(gv.WithKind(r.Kind.Kind), func(label, value string) (string, string, error) {
			if label == "metadata.name" || label == "metadata.namespace" && r.Namespaced {
				return label, value, nil
			}
			if field, ok := internal[label]; ok {
				return field, value, nil
			}
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}); err != nil {
			return fmt.Errorf("register field labels of %s in %s: %w", r.Kind.Kind, gv, err)
		}
	}
	return nil
}

// registerListDefaults applies Default to the items of a list, which clients may send (kubectl does not) and tests do.
func (r Resource[T]) registerListDefaults(scheme *runtime.Scheme) error {
	list, err := scheme.New(r.Kind.GroupVersion().WithKind(r.Kind.Kind + "List"))
	if err != nil {
		return fmt.Errorf("look up the list type of %s: %w", r.Kind, err)
	}
	scheme.AddTypeDefaultingFunc(list, func(o any) {
		items := reflect.ValueOf(o).Elem().FieldByName("Items")
		for i := range items.Len() {
			if item, ok := items.Index(i).Addr().Interface().(T); ok {
				r.Default(item)
			}
		}
	})
	return nil
}

// Build implements Definition.
func (r Resource[T]) Build(scheme *runtime.Scheme, options OptionsGetter) (*Built, error) {
	listKind := r.Kind.GroupVersion().WithKind(r.Kind.Kind + "List")
	if !scheme.Recognizes(r.Kind) || !scheme.Recognizes(listKind) {
		return nil, fmt.Errorf("build %s: the scheme does not know %s or its list", r.Plural, r.Kind)
	}
	s := strategy[T]{ObjectTyper: scheme, NameGenerator: names.SimpleNameGenerator, r: &r, layout: layoutOf(reflect.TypeFor[T]().Elem())}
	resource := schema.GroupResource{Group: r.Kind.Group, Resource: r.Plural}
	generic := &registry.Store{
		NewFunc:                   func() runtime.Object { return r.zero() },
		NewListFunc:               newListFunc(scheme, listKind),
		DefaultQualifiedResource:  resource,
		SingularQualifiedResource: schema.GroupResource{Group: r.Kind.Group, Resource: r.Singular},
		PredicateFunc:             r.predicate,
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		ResetFieldsStrategy:       s,
		TableConvertor:            newTable(r.Columns, r.ListName, r.RowConditions),
		ReturnDeletedObject:       r.ReturnDeleted,
	}
	if r.GracefulDelete != nil {
		generic.DeleteStrategy = gracefulStrategy[T]{s}
	}
	if r.TTL != nil {
		generic.TTLFunc = func(obj runtime.Object, _ uint64, _ bool) (uint64, error) { return r.TTL(obj.(T)), nil }
	}
	if r.Permit != nil {
		permitWith(r.Permit, generic)
	}
	if err := generic.CompleteWithOptions(r.storeOptions(options)); err != nil {
		return nil, fmt.Errorf("build %s: %w", r.Plural, err)
	}

	main := &Store{Store: generic, shortNames: r.ShortNames, categories: r.Categories}
	built := &Built{Versions: r.versions(), Store: main, Storage: map[string]genericrest.Storage{r.Plural: main}}
	if r.Customize != nil {
		built.Storage[r.Plural] = r.Customize(main)
	}
	var status *Store
	if s.hasStatus() {
		clone := *generic
		clone.UpdateStrategy = statusStrategy[T]{s}
		clone.ResetFieldsStrategy = statusStrategy[T]{s}
		status = &Store{Store: &clone}
		built.Storage[r.Plural+"/status"], built.Status = &statusREST{partREST{status}}, status
	}
	if r.Scale != nil {
		built.Storage[r.Plural+"/scale"] = newScaleREST(r.Kind, main, *r.Scale)
	}
	if r.Subresources != nil {
		for name, storage := range r.Subresources(main, status) {
			built.Storage[r.Plural+"/"+name] = storage
		}
	}
	return built, nil
}

// permitWith asks permit before every write of store.
func permitWith(permit func(ctx context.Context, obj, old runtime.Object) error, store *registry.Store) {
	nothing := func(context.Context, bool) {}
	store.BeginCreate = func(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (registry.FinishFunc, error) {
		return nothing, permit(ctx, obj, nil)
	}
	store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, _ *metav1.UpdateOptions) (registry.FinishFunc, error) {
		return nothing, permit(ctx, obj, old)
	}
}

func (r Resource[T]) zero() T { return reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T) }

func (r Resource[T]) versions() []schema.GroupVersion {
	return append([]schema.GroupVersion{r.Kind.GroupVersion()}, r.Served...)
}

func (r Resource[T]) storeOptions(options OptionsGetter) *generic.StoreOptions {
	prefix := r.KeyPrefix
	if prefix == "" {
		prefix = r.Plural
	}
	out := &generic.StoreOptions{
		RESTOptions: restOptions(func(resource schema.GroupResource) (generic.RESTOptions, error) {
			return options(resource, r.Kind.GroupVersion(), prefix)
		}),
		AttrFunc: r.attributes,
	}
	if len(r.IndexedFields) == 0 {
		return out
	}
	triggers, indexers := storage.IndexerFuncs{}, cache.Indexers{}
	for _, label := range r.IndexedFields {
		triggers[label] = func(obj runtime.Object) string { return r.Fields(obj.(T))[label] }
		indexers[storage.FieldIndex(label)] = func(obj any) ([]string, error) { return []string{r.Fields(obj.(T))[label]}, nil }
	}
	out.TriggerFunc, out.Indexers = triggers, &indexers
	return out
}

// attributes are what selectors see of an object.
func (r Resource[T]) attributes(o runtime.Object) (labels.Set, fields.Set, error) {
	obj, ok := o.(T)
	if !ok {
		return nil, nil, fmt.Errorf("select %s: got %T", r.Plural, o)
	}
	var set fields.Set
	if r.Fields != nil {
		set = r.Fields(obj)
	} else {
		set = make(fields.Set, 2)
	}
	set["metadata.name"] = obj.GetName()
	if r.Namespaced {
		set["metadata.namespace"] = obj.GetNamespace()
	}
	return obj.GetLabels(), set, nil
}

func (r Resource[T]) predicate(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: r.attributes, IndexFields: r.IndexedFields}
}

func newListFunc(scheme *runtime.Scheme, kind schema.GroupVersionKind) func() runtime.Object {
	list, err := scheme.New(kind)
	if err != nil {
		panic(err) // Build has asked the scheme already
	}
	t := reflect.TypeOf(list).Elem()
	return func() runtime.Object { return reflect.New(t).Interface().(runtime.Object) }
}

type restOptions func(schema.GroupResource) (generic.RESTOptions, error)

func (f restOptions) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return f(resource)
}

// partREST serves get and update of a subresource that is a part of the object.
type partREST struct{ store *Store }

var (
	_ genericrest.Patcher                   = &partREST{}
	_ genericrest.TableConvertor            = &partREST{}
	_ genericrest.ResetFieldsStrategy       = &statusREST{}
	_ genericrest.ResetFieldsFilterStrategy = &ownPartREST{}
)

// statusREST is that of status. Server-side apply owns what is left of the fields that GetResetFields names.
type statusREST struct{ partREST }

// GetResetFields implements rest.ResetFieldsStrategy.
func (s *statusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.store.GetResetFields()
}

// ownPartREST is that of other parts. Server-side apply owns what the filters let through.
type ownPartREST struct {
	partREST
	owns map[fieldpath.APIVersion]fieldpath.Filter
}

// GetResetFieldsFilter implements rest.ResetFieldsFilterStrategy.
func (o *ownPartREST) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter { return o.owns }

func (s *partREST) New() runtime.Object { return s.store.New() }

// Destroy does nothing: the main resource owns the storage.
func (s *partREST) Destroy() {}

func (s *partREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, options)
}

func (s *partREST) Update(ctx context.Context, name string, info genericrest.UpdatedObjectInfo, createValidation genericrest.ValidateObjectFunc,
	updateValidation genericrest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, info, createValidation, updateValidation, false, options) // a subresource never creates
}

// Strategy implements Subresource.
func (s *partREST) Strategy() genericrest.RESTUpdateStrategy { return s.store.UpdateStrategy }

func (s *partREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.store.ConvertToTable(ctx, object, options)
}

// Subresource is what Part serves.
type Subresource interface {
	genericrest.Storage
	genericrest.Patcher
	genericrest.TableConvertor
	genericrest.ResetFieldsFilterStrategy
	// Strategy decides about updates.
	Strategy() genericrest.RESTUpdateStrategy
}

// Part serves get and update of a subresource that writes a part of the object by rules of its own: prepare
// sets everything else back to old, validate judges the result. What server-side apply of it owns is what owns lets
// through (nil: all).
func Part[T Object](s *Store, prepare func(obj, old T), validate func(obj, old T) field.ErrorList, owns map[fieldpath.APIVersion]fieldpath.Filter) Subresource {
	p := partStrategy[T]{RESTUpdateStrategy: s.UpdateStrategy, prepare: prepare, validate: validate}
	clone := *s.Store
	clone.UpdateStrategy = p
	return &ownPartREST{partREST{&Store{Store: &clone}}, owns}
}

type partStrategy[T Object] struct {
	genericrest.RESTUpdateStrategy
	prepare  func(obj, old T)
	validate func(obj, old T) field.ErrorList
}

func (p partStrategy[T]) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	p.prepare(obj.(T), old.(T))
}

func (p partStrategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return p.validate(obj.(T), old.(T))
}

func (p partStrategy[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
