// SPDX-License-Identifier: Apache-2.0

// Package objects keeps the ConfigMaps and Secrets that the pods of this node refer to.
//
// A node's credentials may read only the objects of its own pods, one by one. So there is a watch
// per referenced object (field selector metadata.name), shared by all pods that refer to it and
// ended with the last of them. An immutable object is read once and not watched any further.
//
// Use Register with a pod before asking for its objects, and Unregister when the pod is gone.
package objects

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Cache holds the objects. Its zero value is of no use; see New.
type Cache struct {
	client  kubernetes.Interface
	changed func(podUID types.UID)

	mu    sync.Mutex // guards what follows
	ctx   context.Context
	wg    sync.WaitGroup
	items map[key]*item
	pods  map[types.UID]map[key]bool // items[k].pods has uid exactly if pods[uid] has k
}

// key names a referenced object. Its resource is the singular that error messages use.
type key struct{ resource, namespace, name string }

const (
	configMaps = "configmap"
	secrets    = "secret"
)

// firstAnswer is how long a caller waits for an object that was never read.
const firstAnswer = 2 * time.Second

// New returns a Cache that reads with client. It calls changed for every pod that refers to an
// object whose content is no longer the one that was first read; changed must not block.
func New(client kubernetes.Interface, changed func(podUID types.UID)) *Cache {
	return &Cache{
		client:  client,
		changed: changed,
		items:   map[key]*item{},
		pods:    map[types.UID]map[key]bool{},
	}
}

// Run watches until ctx ends. Objects are not found before it was called.
func (c *Cache) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	for _, it := range c.items {
		c.start(it)
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	//lint:ignore SA2001 whoever started a watch before ctx ended has it in wg now, and nobody will again
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Register makes the objects that pod refers to available, and forgets those that an earlier
// version of it referred to.
func (c *Cache) Register(pod *corev1.Pod) { c.register(pod.UID, references(pod)) }

// Ref names an object for users that are not pods.
type Ref struct {
	Kind string // "Secret" or "ConfigMap"
	types.NamespacedName
}

// RegisterRefs is Register for a user that is not a pod.
func (c *Cache) RegisterRefs(user types.UID, refs ...Ref) {
	want := map[key]bool{}
	for _, r := range refs {
		want[key{strings.ToLower(r.Kind), r.Namespace, r.Name}] = true
	}
	c.register(user, want)
}

func (c *Cache) register(user types.UID, want map[key]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.pods[user] {
		if !want[k] {
			c.drop(k, user)
		}
	}
	for k := range want {
		it := c.items[k]
		if it == nil {
			it = &item{key: k, synced: make(chan struct{}), notify: c.notify}
			it.pods = map[types.UID]bool{}
			c.items[k] = it
			c.start(it)
		}
		it.pods[user] = true
	}
	c.pods[user] = want
}

// Unregister ends the watches that only this pod needed.
func (c *Cache) Unregister(podUID types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.pods[podUID] {
		c.drop(k, podUID)
	}
	delete(c.pods, podUID)
}

// drop takes podUID off the users of k. The caller holds c.mu.
func (c *Cache) drop(k key, podUID types.UID) {
	it := c.items[k]
	delete(it.pods, podUID)
	if len(it.pods) == 0 {
		it.stop()
		delete(c.items, k)
	}
}

// start begins to watch. The caller holds c.mu.
func (c *Cache) start(it *item) {
	if c.ctx == nil || c.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	it.mu.Lock()
	it.cancel = cancel
	it.mu.Unlock()
	lw, expected := c.listWatch(it.key)
	reflector := cache.NewReflectorWithOptions(lw, expected, it, cache.ReflectorOptions{
		Name: fmt.Sprintf("%s %s/%s", it.key.resource, it.key.namespace, it.key.name),
	})
	c.wg.Go(func() { reflector.RunWithContext(ctx) })
}

// listWatch reads exactly the object k.
func (c *Cache) listWatch(k key) (cache.ListerWatcher, runtime.Object) {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, k.name).String()
	lw := &cache.ListWatch{}
	var expected runtime.Object
	switch k.resource {
	case configMaps:
		api := c.client.CoreV1().ConfigMaps(k.namespace)
		lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return api.List(ctx, o)
		}
		lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return api.Watch(ctx, o)
		}
		expected = &corev1.ConfigMap{}
	case secrets:
		api := c.client.CoreV1().Secrets(k.namespace)
		lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return api.List(ctx, o)
		}
		lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return api.Watch(ctx, o)
		}
		expected = &corev1.Secret{}
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, c.client), expected
}

// notify tells the users of it that its content changed.
func (c *Cache) notify(it *item) {
	c.mu.Lock()
	users := make([]types.UID, 0, len(it.pods))
	for uid := range it.pods {
		users = append(users, uid)
	}
	c.mu.Unlock()
	for _, uid := range users {
		c.changed(uid)
	}
}

// ConfigMap returns a ConfigMap that a registered pod refers to. It waits a moment for the
// first answer of the API server. The object is shared: do not modify it.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := c.get(ctx, key{configMaps, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret is to Secrets what ConfigMap is to ConfigMaps.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, err := c.get(ctx, key{secrets, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

func (c *Cache) get(ctx context.Context, k key) (runtime.Object, error) {
	c.mu.Lock()
	it := c.items[k]
	c.mu.Unlock()
	if it == nil {
		return nil, fmt.Errorf("object %q/%q not registered", k.namespace, k.name)
	}
	timeout := time.NewTimer(firstAnswer)
	defer timeout.Stop()
	select {
	case <-it.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("failed to sync %s cache: %w", k.resource, ctx.Err())
	case <-timeout.C:
		return nil, fmt.Errorf("failed to sync %s cache: timed out waiting for the condition", k.resource)
	}
	obj := it.get()
	if obj == nil {
		return nil, apierrors.NewNotFound(corev1.Resource(k.resource), k.name)
	}
	return obj, nil
}
