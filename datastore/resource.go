// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
)

// Prefix is the root of all keys, as upstream's.
const Prefix = "/registry"

// Layout says how one resource lies in the store.
type Layout struct {
	// Codec encodes to the version that is stored and decodes to the hub.
	Codec runtime.Codec
	// KeyPrefix is the resource's folder below Prefix, without slashes at its ends ("services/specs").
	KeyPrefix string
	// Transformer encrypts values (nil: stored as they are).
	Transformer value.Transformer
}

// RESTOptions gives a registry the storage of one resource.
func (s *Store) RESTOptions(resource schema.GroupResource, l Layout) generic.RESTOptions {
	cfg := storagebackend.NewDefaultConfig(Prefix, l.Codec)
	cfg.Transformer = l.Transformer
	cfg.EventsHistoryWindow = storagebackend.DefaultEventsHistoryWindow
	return generic.RESTOptions{
		StorageConfig:           cfg.ForResource(resource),
		Decorator:               s.cached, // which counts; the machinery does so only if told a period
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          l.KeyPrefix,
	}
}

var _ generic.StorageDecorator = (*Store)(nil).cached

// cached is apiserver's storage decorator: etcd with a watch cache in front.
func (s *Store) cached(c *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, getAttrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	raw, err := s.raw(c, resourcePrefix, newFunc, newListFunc)
	if err != nil {
		return nil, nil, err
	}
	past := newPast(raw, newFunc, s.passage)
	caching, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             past,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       c.GroupResource,
		EventsHistoryWindow: c.EventsHistoryWindow,
		ResourcePrefix:      resourcePrefix,
		KeyFunc:             past.key(keyFunc),
		NewFunc:             newFunc,
		NewListFunc:         newListFunc,
		GetAttrsFunc:        past.attributes(getAttrs),
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               c.Codec,
		Clock:               alignedClock{},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open watch cache of %s: %w", c.GroupResource, err)
	}
	delegator := cacher.NewCacheDelegator(caching, raw)
	forget := s.counts.add(c.GroupResource, delegator.Stats)
	return delegator, sync.OnceFunc(func() { // subresources share it, and each destroys it
		forget()
		delegator.Stop()
		caching.Stop()
		raw.Close()
	}), nil
}

// Raw is the storage of objects that are no API resource, without a watch cache. The caller closes it.
func (s *Store) Raw(resource schema.GroupResource, l Layout, newFunc, newListFunc func() runtime.Object) (storage.Interface, func(), error) {
	raw, err := s.raw(s.RESTOptions(resource, l).StorageConfig, "/"+strings.TrimPrefix(l.KeyPrefix, "/"), newFunc, newListFunc)
	if err != nil {
		return nil, nil, err
	}
	return raw, raw.Close, nil
}

// raw is etcd without the cache.
func (s *Store) raw(c *storagebackend.ConfigForResource, resourcePrefix string, newFunc, newListFunc func() runtime.Object) (closableStorage, error) {
	transformer := c.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner, codec := storage.APIObjectVersioner{}, sharing{c.Codec, &s.fieldSets}
	raw, err := etcd3.New(s.client, s.compactor, codec, newFunc, newListFunc, c.Prefix, resourcePrefix, c.GroupResource,
		transformer, c.LeaseManagerConfig, etcd3.NewDefaultDecoder(codec, versioner), versioner)
	if err != nil {
		return nil, fmt.Errorf("open storage of %s: %w", c.GroupResource, err)
	}
	return raw, nil
}

type closableStorage interface {
	storage.Interface
	Close()
}
