// SPDX-License-Identifier: Apache-2.0

// Package rest turns the description of a resource into its storage and handlers.
//
// A Resource says what is particular to one kind; all that it does not say takes the default here. The
// description works on the public Go type of the stored version (the hub): there are no internal types.
//
// What every resource gets: names, metadata validation, the split of spec and status with a status
// subresource, generation, selectable metadata fields, server-side apply's reset fields, a Name and an Age
// column. Reading order: resource.go (what can be said), strategy.go (what that does to a write),
// store.go (how it becomes storage), columns.go, scale.go, codec.go.
package rest

import (
	"context"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
)

// Object is a pointer to an API type.
type Object interface {
	runtime.Object
	metav1.Object
}

// Resource describes one kind of object. T is the pointer type of the hub version.
type Resource[T Object] struct {
	// Kind is the hub: the version that is stored and that the functions below work on.
	Kind       schema.GroupVersionKind
	Plural     string
	Singular   string
	ShortNames []string
	Categories []string
	Namespaced bool
	// Served lists further group versions under which the resource appears. The scheme converts.
	Served []schema.GroupVersion
	// KeyPrefix is the folder in etcd, if it is not Plural.
	KeyPrefix string

	// Default fills in unset fields, of what is sent and of what is read back.
	Default func(obj T)
	// ValidateName judges metadata.name (nil: a DNS subdomain).
	ValidateName validation.ValidateNameFunc
	// PrepareCreate normalizes an object before it is validated and created. Status is cleared already, unless StatusOnCreate.
	PrepareCreate func(ctx context.Context, obj T)
	// Validate judges the whole object, metadata included (nil: metadata only, by ValidateName, or by ValidateRequest).
	Validate func(obj T) field.ErrorList
	// PrepareUpdate normalizes obj before validation. Status is old's already, generation is kept here.
	PrepareUpdate func(obj, old T)
	// ValidateUpdate judges the whole of an update (nil: Validate judges the new object). What nobody may
	// change in metadata is refused before.
	ValidateUpdate func(obj, old T) field.ErrorList
	// ValidateRequest judges the object by the request too, for instance by the version that it names; old is nil on
	// create. What it finds is added to the rest.
	ValidateRequest func(ctx context.Context, obj, old T) field.ErrorList
	// Permit judges a write by who makes it, beyond what authorization knows; old is nil on create. Its error
	// is an API status.
	Permit func(ctx context.Context, obj, old runtime.Object) error
	// Warnings returns texts for Warning headers; old is nil on create.
	Warnings func(obj, old T) []string

	// NoStatus leaves out the status subresource that a type with a Status field has.
	NoStatus bool
	// StatusKeepsMetadata makes an update of status change nothing of labels, annotations and the rest of metadata.
	StatusKeepsMetadata bool
	// Resets and StatusResets are fields besides status, or besides spec, that a write of the main resource or of
	// status cannot set, by their paths ("metadata.labels").
	Resets, StatusResets []string
	// StatusOnCreate lets whoever creates the object set its status, which else is cleared.
	StatusOnCreate bool
	// PrepareStatusUpdate normalizes an update of status. The spec is old's already.
	PrepareStatusUpdate func(obj, old T)
	// ValidateStatus judges an update of status.
	ValidateStatus func(obj, old T) field.ErrorList
	// ValidateStatusRequest judges an update of status by the request too; what it finds is added to the rest.
	ValidateStatusRequest func(ctx context.Context, obj, old T) field.ErrorList
	// StatusWarnings returns texts for Warning headers of an update of status.
	StatusWarnings func(obj, old T) []string
	// GenerationOf returns what has to change for the generation to go up (nil: the Spec field; types without one have none).
	GenerationOf func(obj T) any
	// GenerationAsSent makes a create leave metadata.generation as it was sent.
	GenerationAsSent bool
	// GenerationOfSent counts a change although PrepareUpdate takes it back.
	GenerationOfSent bool
	// NoGeneration leaves metadata.generation alone though there is a Spec.
	NoGeneration bool

	// Fields are the selectable fields besides metadata.name and metadata.namespace.
	Fields func(obj T) fields.Set
	// FieldLabels are further names of Fields in the hub; in another served version they are the only ones.
	FieldLabels map[schema.GroupVersion]map[string]string
	// IndexedFields are those of Fields that watches and lists select by so often that the cache indexes them.
	IndexedFields []string
	// Columns are what kubectl prints (nil: name and age).
	Columns []Column[T]
	// ListName is the first cell of an object in tables of lists, where it depends on the others (nil: as in its own).
	ListName func(all []T) func(obj T) string
	// RowConditions mark rows of tables, as completed for one (nil: none).
	RowConditions func(obj T) []metav1.TableRowCondition

	// GracefulDelete decides on a delete request whether the object stays for a while
	// (options.GracePeriodSeconds is set then). nil: never.
	GracefulDelete func(obj T, options *metav1.DeleteOptions) bool
	// ReturnDeleted answers a delete with the object instead of a Status.
	ReturnDeleted bool
	// OrphanByDefault makes a delete without propagation policy leave dependents (ReplicationController and
	// old versions of others); see DefaultGarbageCollectionPolicy.
	OrphanByDefault bool
	// NoDependents makes the propagation policy of a delete mean nothing.
	NoDependents bool
	// CreateOnUpdate lets PUT create what is not there.
	CreateOnUpdate bool
	// NeedsResourceVersion refuses an update that names no resourceVersion.
	NeedsResourceVersion bool
	// TTL is the life of the stored object in seconds (nil: for ever).
	TTL func(obj T) uint64

	// Scale adds the scale subresource.
	Scale *Scale[T]
	// Customize changes the finished store: hooks, wrapped verbs. It returns what serves the main resource.
	Customize func(*Store) genericrest.Storage
	// Subresources adds to status and scale, by name ("binding"). store serves the main resource,
	// status its status (nil if it has none).
	Subresources func(store, status *Store) map[string]genericrest.Storage
}

// Store serves a resource: apiserver's generic store plus the names that kubectl knows it by.
type Store struct {
	*registry.Store
	shortNames []string
	categories []string
}

// ShortNames implements rest.ShortNamesProvider.
func (s *Store) ShortNames() []string { return s.shortNames }

// Categories implements rest.CategoriesProvider.
func (s *Store) Categories() []string { return s.categories }

var (
	_ genericrest.ShortNamesProvider = &Store{}
	_ genericrest.CategoriesProvider = &Store{}
)
