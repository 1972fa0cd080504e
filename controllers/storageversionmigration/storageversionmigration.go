// SPDX-License-Identifier: Apache-2.0

// Package storageversionmigration writes all objects of a resource anew, so that they lie in the database as the
// API server would store them today: after a change of the storage version, or of the encryption keys.
//
// A key is a resource. Of its StorageVersionMigrations one runs at a time, the oldest first: the resource version
// at the start is noted in the status, then each object older than that gets a patch that changes nothing. Objects
// that are written meanwhile need none. What was noted survives a restart, and so does what was done: migrated
// objects are newer. A custom resource's definition says that it is being migrated, and forgets its old versions
// when nothing has changed it meanwhile (crd.go).
// Reference: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/storage-version-migration/
package storageversionmigration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagemigrationlisters "k8s.io/client-go/listers/storagemigration/v1"
	"k8s.io/client-go/metadata"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "storage-version-migrator-controller"

const (
	pageSize     = 500
	discoverable = time.Minute // for how long a resource that nobody knows may still turn up
	noNamespace  = "@none!"    // no namespace can be called that
)

// neededVerbs are what a resource must allow to be migrated.
var neededVerbs = []string{"update", "patch", "list"}

type migration = storagemigrationv1.StorageVersionMigration

// Deps is what the controller works with.
type Deps struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	CRDs      apiextensionsclient.CustomResourceDefinitionInterface
	Discovery discovery.DiscoveryInterface
	Mapper    meta.RESTMapper
}

type controller struct {
	Deps
	migrations storagemigrationlisters.StorageVersionMigrationLister
}

// New returns the controller.
func New(deps Deps, factory informers.SharedInformerFactory) reconcile.Controller {
	migrations := factory.Storagemigration().V1().StorageVersionMigrations()
	c := &controller{Deps: deps, migrations: migrations.Lister()}
	return reconcile.Controller{
		Name:      "storage-version-migrator-controller",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnAny(migrations.Informer(), func(q reconcile.Queue, m *migration) {
				q.Add(types.NamespacedName{Namespace: m.Spec.Resource.Group, Name: m.Spec.Resource.Resource})
			}),
		},
	}
}

// Reconcile takes the migrations of one resource a step further. Each step ends with a write of a status, which
// brings the next.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	resource := metav1.GroupResource{Group: key.Namespace, Resource: key.Name}
	all, err := c.migrations.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	finished, current := sortOut(all, resource)
	for _, m := range finished {
		if err := c.finish(ctx, m.DeepCopy()); err != nil {
			return reconcile.Result{}, err
		}
	}
	switch {
	case current == nil:
		return reconcile.Result{}, nil
	case !isTrue(current, storagemigrationv1.MigrationRunning):
		return reconcile.Result{}, c.start(ctx, current.DeepCopy())
	case current.Status.ResourceVersion == "":
		return reconcile.Result{}, c.prepare(ctx, current.DeepCopy())
	default:
		return reconcile.Result{}, c.migrate(ctx, current.DeepCopy())
	}
}

// sortOut returns the migrations of a resource that have ended and still say that they run, and the one that is
// to run now.
func sortOut(all []*migration, resource metav1.GroupResource) (finished []*migration, current *migration) {
	var open []*migration
	for _, m := range all {
		running, ended := isTrue(m, storagemigrationv1.MigrationRunning), hasEnded(m)
		switch {
		case m.Spec.Resource != resource:
		case ended && running:
			finished = append(finished, m)
		case !ended:
			open = append(open, m)
		}
	}
	if len(open) == 0 {
		return finished, nil
	}
	return finished, slices.MinFunc(open, func(a, b *migration) int {
		if x, y := isTrue(a, storagemigrationv1.MigrationRunning), isTrue(b, storagemigrationv1.MigrationRunning); x != y {
			if x {
				return -1
			}
			return 1
		}
		return reconcile.OlderFirst(a, b)
	})
}

func isTrue(m *migration, condition storagemigrationv1.MigrationConditionType) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(condition))
}

func hasEnded(m *migration) bool {
	return isTrue(m, storagemigrationv1.MigrationSucceeded) || isTrue(m, storagemigrationv1.MigrationFailed)
}

// start lets a migration run.
func (c *controller) start(ctx context.Context, m *migration) error {
	if err := c.markCRD(ctx, m); err != nil {
		return err
	}
	setRunning(m, "The migration is running")
	return c.write(ctx, m)
}

// finish takes away what says that a migration runs.
func (c *controller) finish(ctx context.Context, m *migration) error {
	if err := c.finishCRD(ctx, m); err != nil {
		return err
	}
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: string(storagemigrationv1.MigrationRunning), Status: metav1.ConditionFalse, Reason: "MigrationCompleted", Message: "Migration completed",
		ObservedGeneration: m.Generation,
	})
	return c.write(ctx, m)
}

// prepare notes the resource version up to which objects are migrated.
func (c *controller) prepare(ctx context.Context, m *migration) error {
	mapping, err := c.find(m)
	var never impossible
	if errors.As(err, &never) {
		return c.fail(ctx, m, string(never))
	}
	if err != nil {
		return err
	}
	objects := c.Metadata.Resource(mapping.Resource)
	one := metav1.ListOptions{Limit: 1}
	var list *metav1.PartialObjectMetadataList
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		list, err = objects.Namespace(noNamespace).List(ctx, one) // the version is all that matters
	} else {
		list, err = objects.List(ctx, one)
	}
	if err != nil {
		return fmt.Errorf("get the latest resource version of %s: %w", mapping.Resource, err)
	}
	version := list.ResourceVersion
	if _, err := resourceversion.CompareResourceVersion(version, version); err != nil {
		return c.fail(ctx, m, fmt.Sprintf("latest resourceVersion for %s is not valid: %v", mapping.Resource, err))
	}
	m.Status.ResourceVersion = version
	return c.write(ctx, m)
}

// impossible is why a migration cannot ever be done.
type impossible string

func (i impossible) Error() string { return string(i) }

// find looks the resource up. One that is not there may be about to come.
func (c *controller) find(m *migration) (*meta.RESTMapping, error) {
	partial := schema.GroupResource(m.Spec.Resource).WithVersion("")
	gvr, err := c.Mapper.ResourceFor(partial)
	if meta.IsNoMatchError(err) || err == nil && gvr.GroupResource() != schema.GroupResource(m.Spec.Resource) {
		if time.Since(m.CreationTimestamp.Time) < discoverable {
			return nil, fmt.Errorf("find resource %s: not there yet", partial.GroupResource())
		}
		return nil, impossible("resource does not exist in discovery")
	}
	if err != nil {
		return nil, fmt.Errorf("find resource %s: %w", partial.GroupResource(), err)
	}
	kind, err := c.Mapper.KindFor(gvr)
	if err != nil {
		return nil, fmt.Errorf("find the kind of %s: %w", gvr, err)
	}
	mapping, err := c.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, fmt.Errorf("find the kind of %s: %w", gvr, err)
	}
	list, err := c.Discovery.ServerResourcesForGroupVersion(gvr.GroupVersion().String())
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", gvr.GroupVersion(), err)
	}
	for _, r := range list.APIResources {
		if r.Name != gvr.Resource {
			continue
		}
		for _, verb := range neededVerbs {
			if !slices.Contains(r.Verbs, verb) {
				return nil, impossible(fmt.Sprintf("resource %q does not support discovery operations: %v", gvr.String(), neededVerbs))
			}
		}
	}
	return mapping, nil
}

// migrate writes all objects anew that were last written before the migration started.
func (c *controller) migrate(ctx context.Context, m *migration) error {
	mapping, err := c.find(m)
	var never impossible
	if errors.As(err, &never) {
		return c.fail(ctx, m, "migration encountered unhandled error: "+string(never))
	}
	if err != nil {
		return err
	}
	old, total, err := c.outdated(ctx, mapping.Resource, m.Status.ResourceVersion)
	if err != nil {
		return err
	}
	for i := range old {
		err := c.rewrite(ctx, mapping, &old[i])
		switch left := len(old) - i; {
		case err == nil:
		case isTransient(err):
			if setRunning(m, progress(left, total)+"; transient error: "+err.Error()) {
				_ = c.write(ctx, m) // what went wrong is the error of this function
			}
			return err
		default:
			setRunning(m, progress(left, total))
			return c.fail(ctx, m, fmt.Sprintf("%d/%d not yet migrated. migration encountered unhandled error: %v", left, total, err))
		}
	}
	setRunning(m, progress(0, total))
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: string(storagemigrationv1.MigrationSucceeded), Status: metav1.ConditionTrue, Reason: "StorageVersionMigrationSucceeded", Message: "Migration completed",
	})
	return c.write(ctx, m)
}

// progress is how far a migration is, for its user.
func progress(left, total int) string {
	switch {
	case total == 0:
		return "The migration is running"
	case left == 0:
		return fmt.Sprintf("The migration is running, %d objects verified migrated", total)
	}
	return fmt.Sprintf("The migration is running, %d/%d objects not yet migrated", left, total)
}

// outdated lists the objects last written at version or before, and counts all.
func (c *controller) outdated(ctx context.Context, resource schema.GroupVersionResource, version string) (old []object, total int, err error) {
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := c.Metadata.Resource(resource).List(ctx, options)
		if err != nil {
			return nil, 0, fmt.Errorf("list %s: %w", resource, err)
		}
		total += len(page.Items)
		for i := range page.Items {
			item := &page.Items[i]
			order, err := resourceversion.CompareResourceVersion(item.ResourceVersion, version)
			if err != nil {
				return nil, 0, fmt.Errorf("compare the resource version of %s %s/%s: %w", resource, item.Namespace, item.Name, err)
			}
			if order <= 0 {
				old = append(old, object{reconcile.KeyOf(item), item.ResourceVersion})
			}
		}
		if page.Continue == "" {
			return old, total, nil
		}
		options.Continue = page.Continue
	}
}

// object is one to be written anew, if it still is at that version.
type object struct {
	key     types.NamespacedName
	version string
}

// rewrite sends a patch that changes nothing. One that was written or deleted meanwhile needs it no more.
func (c *controller) rewrite(ctx context.Context, mapping *meta.RESTMapping, o *object) error {
	apiVersion, kind := mapping.GroupVersionKind.ToAPIVersionAndKind()
	patch, err := json.Marshal(metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}, ObjectMeta: metav1.ObjectMeta{ResourceVersion: o.version},
	})
	if err != nil {
		return err
	}
	_, err = c.Metadata.Resource(mapping.Resource).Namespace(o.key.Namespace).Patch(ctx, o.key.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: Name})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// isTransient tells whether the same request may succeed later, which it may if nobody has answered it.
func isTransient(err error) bool {
	if answer := apierrors.APIStatus(nil); !errors.As(err, &answer) {
		return true
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) ||
		apierrors.IsTimeout(err)
}

// setRunning tells whether that is news.
func setRunning(m *migration, message string) bool {
	return meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: string(storagemigrationv1.MigrationRunning), Status: metav1.ConditionTrue, Reason: "MigrationRunning", Message: message,
	})
}

func (c *controller) fail(ctx context.Context, m *migration, message string) error {
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: string(storagemigrationv1.MigrationFailed), Status: metav1.ConditionTrue, Reason: "StorageVersionMigrationFailed", Message: message,
	})
	return c.write(ctx, m)
}

func (c *controller) write(ctx context.Context, m *migration) error {
	_, err := c.Client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, m, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set the status of StorageVersionMigration %s: %w", m.Name, err)
	}
	return nil
}
