// SPDX-License-Identifier: Apache-2.0

package resourcequota

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// syncTimeout is how long a count waits for the first list of a resource.
const syncTimeout = 10 * time.Second

// counters watch the names of objects of the resources that some quota counts.
type counters struct {
	metadata metadata.Interface
	mapper   meta.RESTMapper
	changed  func(q reconcile.Queue, resource schema.GroupResource, obj metav1.Object, isNew bool)

	mu      sync.Mutex
	ctx     context.Context // nil while the controller does not run; guarded by mu
	queue   reconcile.Queue // guarded by mu
	running map[schema.GroupResource]*counter
	ended   sync.WaitGroup
}

type counter struct {
	informer cache.SharedIndexInformer
	lister   cache.GenericLister
	stop     context.CancelFunc
}

// run lets counters be started until ctx ends, and waits for them.
func (c *counters) run(ctx context.Context, q reconcile.Queue) error {
	c.mu.Lock()
	c.ctx, c.queue = ctx, q
	c.mu.Unlock()
	<-ctx.Done()
	c.keepOnly(nil)
	c.mu.Lock()
	c.ctx = nil
	c.mu.Unlock()
	c.ended.Wait()
	return nil
}

func (c *counters) isRunning() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctx != nil
}

// keepOnly stops the counters of other resources.
func (c *counters) keepOnly(resources map[schema.GroupResource]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for resource, counter := range c.running {
		if !resources[resource] {
			counter.stop()
			delete(c.running, resource)
		}
	}
}

// start counts a resource from now on, and returns when it is counted.
func (c *counters) start(ctx context.Context, resource schema.GroupResource) error {
	counter, err := c.get(resource)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), counter.informer.HasSynced) {
		return fmt.Errorf("%s could not be listed in %s", resource, syncTimeout)
	}
	return nil
}

func (c *counters) get(resource schema.GroupResource) (*counter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.running[resource]; ok {
		return found, nil
	}
	gvr, err := c.mapper.ResourceFor(resource.WithVersion(""))
	if err != nil {
		return nil, fmt.Errorf("find resource %s: %w", resource, err)
	}
	if c.ctx == nil || c.ctx.Err() != nil {
		return nil, context.Canceled
	}
	generic := metadatainformer.NewFilteredMetadataInformer(c.metadata, gvr, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil)
	informer := generic.Informer()
	if err := informer.SetTransform(nameOnly); err != nil {
		return nil, err
	}
	queue := c.queue
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, isInInitialList bool) {
			if object, ok := obj.(metav1.Object); ok && !isInInitialList {
				c.changed(queue, resource, object, true)
			}
		},
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if object, ok := obj.(metav1.Object); ok {
				c.changed(queue, resource, object, false)
			}
		},
	}); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(c.ctx)
	started := &counter{informer: informer, lister: generic.Lister(), stop: stop}
	c.running[resource] = started
	c.ended.Go(func() { informer.RunWithContext(ctx) })
	return started, nil
}

// nameOnly drops what counting needs not.
func nameOnly(obj any) (any, error) {
	if object, ok := obj.(*metav1.PartialObjectMetadata); ok {
		object.ObjectMeta = metav1.ObjectMeta{
			Namespace: object.Namespace, Name: object.Name, UID: object.UID,
			ResourceVersion: object.ResourceVersion, CreationTimestamp: object.CreationTimestamp,
		}
	}
	return obj, nil
}

// lister lists a resource that is counted.
func (c *counters) lister(resource schema.GroupResource) (cache.GenericLister, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.running[resource]; ok {
		return found.lister, nil
	}
	return nil, fmt.Errorf("%s is not counted", resource)
}
