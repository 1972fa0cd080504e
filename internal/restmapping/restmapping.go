// SPDX-License-Identifier: Apache-2.0

// Package restmapping finds the resources of kinds, by discovery.
package restmapping

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// New returns a mapper that keeps what discovery said, and asks again about what it does not know.
func New(client discovery.DiscoveryInterface) meta.ResettableRESTMapper {
	return mapper{restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))}
}

// mapper asks discovery again about what it does not know, which may have been defined since. The one below does that only if it has
// never asked.
type mapper struct{ meta.ResettableRESTMapper }

func askAgain[T any](m mapper, ask func() (T, error)) (T, error) {
	found, err := ask()
	if !meta.IsNoMatchError(err) {
		return found, err
	}
	m.Reset()
	return ask()
}

func (m mapper) KindFor(resource schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return askAgain(m, func() (schema.GroupVersionKind, error) { return m.ResettableRESTMapper.KindFor(resource) })
}

func (m mapper) ResourceFor(partial schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return askAgain(m, func() (schema.GroupVersionResource, error) { return m.ResettableRESTMapper.ResourceFor(partial) })
}

func (m mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return askAgain(m, func() (*meta.RESTMapping, error) { return m.ResettableRESTMapper.RESTMapping(kind, versions...) })
}

func (m mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return askAgain(m, func() ([]*meta.RESTMapping, error) { return m.ResettableRESTMapper.RESTMappings(kind, versions...) })
}
