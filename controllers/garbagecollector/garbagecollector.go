// SPDX-License-Identifier: Apache-2.0

// Package garbagecollector deletes objects whose owners are gone, and carries out the ways to delete an owner:
// Background (dependents go afterwards), Foreground (they go first) and Orphan (they stay and forget their owner).
//
// It keeps a graph of all objects that can be deleted, by what their ownerReferences say (graph.go), fed by the
// shared informers where there are any and by watches of metadata where not (monitors.go). Which resources exist
// is asked from discovery at the start, and whenever a CustomResourceDefinition or an APIService changed. The
// graph only says what to look at: before anything is deleted, the object and its owners are read from the API server.
//
// Its keys are UIDs.
// Reference: https://kubernetes.io/docs/concepts/architecture/garbage-collection/
package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/lru"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "generic-garbage-collector"
	Component = "garbage-collector-controller"
)

const (
	// unseenDelay is how long an owner that is not in the graph may take to show up before it is asked for: owners
	// and dependents come by different watches.
	unseenDelay = 500 * time.Millisecond
	// unseenAgain is when to look again for an owner that exists and is not in the graph.
	unseenAgain = 10 * time.Second
)

type controller struct {
	metadata  metadata.Interface
	discovery discovery.DiscoveryInterface
	factory   informers.SharedInformerFactory
	events    record.EventRecorder
	metrics   *metrics.Garbage

	// absent are owners that were found not to exist, as a dependent refers to them. UIDs never come back.
	absent *lru.Cache

	mu        sync.Mutex
	graph     *graph     // guarded by its own lock; a new one for each Run
	resources *resources // what discovery last said; guarded by mu
}

// New returns the controller.
func New(meta metadata.Interface, disco discovery.DiscoveryInterface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Garbage) reconcile.Controller {
	c := &controller{metadata: meta, discovery: disco, factory: factory, events: events, metrics: measured, absent: lru.New(500)}
	return reconcile.Controller{
		Name:      "garbage_collector_attempt_to_delete",
		Reconcile: c.Reconcile,
		Workers:   20,
		Loop:      c.monitor,
	}
}

func (c *controller) setResources(r *resources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resources = r
}

// resource returns where objects of a kind are.
func (c *controller) resource(apiVersion, kind string) (resource, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resources != nil {
		if r, ok := c.resources.byKind[schema.FromAPIVersionAndKind(apiVersion, kind)]; ok {
			return r, nil
		}
	}
	return resource{}, fmt.Errorf("no resource for kind %s in %s", kind, apiVersion)
}

// client returns the client for objects like this one.
func (c *controller) client(id identity) (metadata.ResourceInterface, error) {
	r, err := c.resource(id.apiVersion, id.kind)
	if err != nil {
		return nil, err
	}
	return c.metadata.Resource(r.gvr).Namespace(id.namespace), nil
}

// Reconcile looks at the object with the UID that is the key's name.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	obj, ok := c.graph.get(types.UID(key.Name))
	switch {
	case !ok, obj.deleting && !obj.foreground && !obj.orphan:
		return reconcile.Result{}, nil
	case !obj.foreground && !obj.orphan && c.graph.settled(obj):
		return reconcile.Result{}, nil
	}
	client, err := c.client(obj.identity)
	if err != nil {
		return reconcile.Result{}, err
	}
	live, err := client.Get(ctx, obj.name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("get %s: %w", obj.identity, err)
	}
	if err != nil || live.UID != obj.uid {
		c.graph.remove(obj.uid) // and what that means for others; the event may be late or lost
		return reconcile.Result{}, nil
	}
	switch {
	case obj.orphan:
		return reconcile.Result{}, c.orphanDependents(ctx, obj, live)
	case obj.foreground:
		return reconcile.Result{}, c.finishForeground(ctx, obj, live)
	}
	return c.collect(ctx, obj, live)
}

// collect deletes the object if it has owners and none of them is left.
func (c *controller) collect(ctx context.Context, obj object, live *metav1.PartialObjectMetadata) (reconcile.Result, error) {
	if len(live.OwnerReferences) == 0 {
		return reconcile.Result{}, nil
	}
	owners, err := c.classify(ctx, obj, live.OwnerReferences)
	if errors.Is(err, errNamespacedOwner) {
		return reconcile.Result{}, nil // cannot be judged, now or ever: it stays
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(owners.solid) > 0 {
		var again reconcile.Result
		if !c.graph.observed(owners.solid) {
			again.RequeueAfter = unseenAgain
		}
		return again, c.removeOwners(ctx, obj, live, append(owners.dangling, owners.waiting...))
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case len(owners.waiting) > 0 && c.graph.hasDependents(obj.uid):
		// Its own dependents go first. Where one of them waits for its dependents too, there may be a circle, which
		// would wait forever: then nobody waits for this one. Its new references bring it here again.
		if c.graph.dependentInForeground(obj.uid) && slices.ContainsFunc(live.OwnerReferences, blocks) {
			return reconcile.Result{}, c.unblock(ctx, obj, live)
		}
		policy = metav1.DeletePropagationForeground
	case slices.Contains(live.Finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return reconcile.Result{}, c.delete(ctx, obj, live, policy)
}

// owners are the owners of an object by their state.
type owners struct {
	solid    []types.UID // exist
	dangling []types.UID // do not exist
	waiting  []types.UID // exist, and wait for their dependents to go
}

// errNamespacedOwner is about an object without a namespace whose owner has one.
var errNamespacedOwner = errors.New("cluster-scoped objects cannot refer to namespaced owners")

func (c *controller) classify(ctx context.Context, obj object, refs []metav1.OwnerReference) (owners, error) {
	var o owners
	for _, ref := range refs {
		found, err := c.lookUp(ctx, obj, ref)
		switch {
		case err != nil:
			return owners{}, err
		case found == nil:
			o.dangling = append(o.dangling, ref.UID)
		case found.DeletionTimestamp != nil && slices.Contains(found.Finalizers, metav1.FinalizerDeleteDependents):
			o.waiting = append(o.waiting, ref.UID)
		default:
			o.solid = append(o.solid, ref.UID)
		}
	}
	return o, nil
}

// lookUp reads the owner that a reference names; nil if there is none.
func (c *controller) lookUp(ctx context.Context, obj object, ref metav1.OwnerReference) (*metav1.PartialObjectMetadata, error) {
	r, err := c.resource(ref.APIVersion, ref.Kind)
	if err != nil {
		return nil, err
	}
	id := identity{apiVersion: ref.APIVersion, kind: ref.Kind, name: ref.Name, uid: ref.UID}
	if r.namespaced {
		if obj.namespace == "" {
			return nil, errNamespacedOwner
		}
		id.namespace = obj.namespace
	}
	if _, absent := c.absent.Get(id); absent {
		return nil, nil
	}
	found, err := c.metadata.Resource(r.gvr).Namespace(id.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("get owner %s: %w", id, err)
	}
	if err != nil || found.UID != ref.UID {
		c.absent.Add(id, nil)
		if elsewhere, ok := c.graph.get(ref.UID); ok && elsewhere.namespace != "" && elsewhere.namespace != obj.namespace {
			c.events.Eventf(&corev1.ObjectReference{
				APIVersion: obj.apiVersion, Kind: obj.kind, Namespace: obj.namespace, Name: obj.name, UID: obj.uid,
			}, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", id, obj.namespace)
		}
		return nil, nil
	}
	return found, nil
}

// delete deletes the object as it was when its owners were found gone.
func (c *controller) delete(ctx context.Context, obj object, live *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	client, err := c.client(obj.identity)
	if err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Deleting item", "item", obj.identity, "propagationPolicy", policy)
	preconditions := metav1.Preconditions{UID: &obj.uid, ResourceVersion: &live.ResourceVersion}
	err = client.Delete(ctx, obj.name, metav1.DeleteOptions{Preconditions: &preconditions, PropagationPolicy: &policy})
	if apierrors.IsConflict(err) {
		// Something about it changed. If it was not its owners, it goes all the same.
		now, getErr := client.Get(ctx, obj.name, metav1.GetOptions{})
		if getErr == nil && now.UID == obj.uid && apiequality.Semantic.DeepEqual(now.OwnerReferences, live.OwnerReferences) {
			preconditions.ResourceVersion = nil
			err = client.Delete(ctx, obj.name, metav1.DeleteOptions{Preconditions: &preconditions, PropagationPolicy: &policy})
		}
	}
	if apierrors.IsNotFound(err) {
		c.graph.remove(obj.uid)
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", obj.identity, err)
	}
	return nil
}

// finishForeground lets an owner go that waited for its dependents, or sees to it that they go.
func (c *controller) finishForeground(ctx context.Context, obj object, live *metav1.PartialObjectMetadata) error {
	blocking := c.graph.blockingDependents(obj.uid)
	if len(blocking) == 0 {
		return c.removeFinalizer(ctx, obj, live, metav1.FinalizerDeleteDependents)
	}
	for _, dependent := range blocking {
		if !dependent.foreground {
			c.graph.enqueue(dependent.uid)
		}
	}
	return nil
}

// orphanDependents takes the owner out of all its dependents, then lets it go.
func (c *controller) orphanDependents(ctx context.Context, obj object, live *metav1.PartialObjectMetadata) error {
	var errs []error
	for _, dependent := range c.graph.dependentsOf(obj.uid) {
		err := c.removeOwners(ctx, dependent, nil, []types.UID{obj.uid})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("orphan dependents of %s: %w", obj.identity, errors.Join(errs...))
	}
	return c.removeFinalizer(ctx, obj, live, metav1.FinalizerOrphanDependents)
}

// removeOwners takes references out of an object. live may be nil.
func (c *controller) removeOwners(ctx context.Context, obj object, live *metav1.PartialObjectMetadata, uids []types.UID) error {
	if len(uids) == 0 {
		return nil
	}
	patch, err := owner.ReleasePatch(obj.uid, uids)
	if err != nil {
		return err
	}
	return c.patch(ctx, obj, live, patch, func(refs []metav1.OwnerReference) []metav1.OwnerReference {
		return slices.DeleteFunc(refs, func(ref metav1.OwnerReference) bool { return slices.Contains(uids, ref.UID) })
	})
}

// unblock makes the object's owners not wait for it.
func (c *controller) unblock(ctx context.Context, obj object, live *metav1.PartialObjectMetadata) error {
	no := false
	blocking := []metav1.OwnerReference{} // never nil: null in a patch means all of them
	for _, ref := range live.OwnerReferences {
		if blocks(ref) {
			ref.BlockOwnerDeletion = &no
			blocking = append(blocking, ref)
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": obj.uid, "ownerReferences": blocking}})
	if err != nil {
		return err
	}
	return c.patch(ctx, obj, live, patch, func(refs []metav1.OwnerReference) []metav1.OwnerReference {
		for i := range refs {
			refs[i].BlockOwnerDeletion = &no
		}
		return refs
	})
}

// patch applies a strategic merge patch; where those are not known (custom resources), change makes the new references.
func (c *controller) patch(ctx context.Context, obj object, live *metav1.PartialObjectMetadata, patch []byte, change func([]metav1.OwnerReference) []metav1.OwnerReference) error {
	client, err := c.client(obj.identity)
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, obj.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) {
		return err
	}
	if live == nil {
		if live, err = client.Get(ctx, obj.name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	return c.mergePatch(ctx, obj, map[string]any{
		"uid":             obj.uid,
		"resourceVersion": live.ResourceVersion,
		"ownerReferences": change(slices.Clone(live.OwnerReferences)),
	})
}

func (c *controller) removeFinalizer(ctx context.Context, obj object, live *metav1.PartialObjectMetadata, finalizer string) error {
	if !slices.Contains(live.Finalizers, finalizer) {
		return nil
	}
	err := c.mergePatch(ctx, obj, map[string]any{
		"uid":             obj.uid,
		"resourceVersion": live.ResourceVersion,
		"finalizers":      slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer }),
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *controller) mergePatch(ctx context.Context, obj object, metadata map[string]any) error {
	client, err := c.client(obj.identity)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	if _, err := client.Patch(ctx, obj.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("patch %s: %w", obj.identity, err)
	}
	return nil
}
