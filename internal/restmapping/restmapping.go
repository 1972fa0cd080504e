// SPDX-License-Identifier: Apache-2.0

// Package restmapping finds the resources of kinds, by discovery.
package restmapping

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// pause is for how long what discovery said is believed to be all there is. To ask it takes milliseconds, and whoever looks for what
// does not exist tends to do so again and again: an object's owner of a kind that is gone, for one.
const pause = time.Second

// New returns a mapper that keeps what discovery said, and asks again about what it does not know.
func New(client discovery.DiscoveryInterface) meta.ResettableRESTMapper {
	return &mapper{ResettableRESTMapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))}
}

// mapper asks discovery again about what it does not know, which may have been defined since. The one below does that only if it has
// never asked.
type mapper struct {
	meta.ResettableRESTMapper

	mu    sync.Mutex
	reset time.Time // when discovery was last asked again; guarded by mu
}

func askAgain[T any](m *mapper, ask func() (T, error)) (T, error) {
	before := m.lastReset()
	found, err := ask()
	if !meta.IsNoMatchError(err) || !m.renew(before) {
		return found, err
	}
	return ask()
}

func (m *mapper) lastReset() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reset
}

// renew tells whether discovery says more by now than it did to who last asked after a reset at before.
func (m *mapper) renew(before time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.reset.Equal(before): // somebody else was faster
		return true
	case time.Since(m.reset) < pause:
		return false
	}
	m.reset = time.Now()
	m.Reset()
	return true
}

func (m *mapper) KindFor(resource schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return askAgain(m, func() (schema.GroupVersionKind, error) { return m.ResettableRESTMapper.KindFor(resource) })
}

func (m *mapper) ResourceFor(partial schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return askAgain(m, func() (schema.GroupVersionResource, error) { return m.ResettableRESTMapper.ResourceFor(partial) })
}

func (m *mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return askAgain(m, func() (*meta.RESTMapping, error) { return m.ResettableRESTMapper.RESTMapping(kind, versions...) })
}

func (m *mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return askAgain(m, func() ([]*meta.RESTMapping, error) { return m.ResettableRESTMapper.RESTMappings(kind, versions...) })
}
