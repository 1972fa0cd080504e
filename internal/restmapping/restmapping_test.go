// SPDX-License-Identifier: Apache-2.0

package restmapping

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

var (
	kind     = schema.GroupKind{Group: "example.com", Kind: "Widget"}
	resource = schema.GroupVersionResource{Group: "example.com", Resource: "widgets"}
)

func list(groupVersion, plural, kind string) *metav1.APIResourceList {
	return &metav1.APIResourceList{GroupVersion: groupVersion, APIResources: []metav1.APIResource{{Name: plural, Kind: kind, Namespaced: true}}}
}

// counted counts how often all that there is was asked for.
type counted struct {
	fakediscovery.FakeDiscovery
	mu    sync.Mutex
	asked int // guarded by mu
}

func (c *counted) ServerGroups() (*metav1.APIGroupList, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.FakeDiscovery.ServerGroups()
}

func newCounted(lists ...*metav1.APIResourceList) *counted {
	c := &counted{FakeDiscovery: fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{}}}
	c.Resources = lists
	return c
}

// What is defined after discovery was asked is found: a custom resource that an autoscaler scales, for one.
func TestMapperAsksAgain(t *testing.T) {
	for name, ask := range map[string]func(meta.RESTMapper) error{
		"RESTMappings": func(m meta.RESTMapper) error { _, err := m.RESTMappings(kind); return err },
		"RESTMapping":  func(m meta.RESTMapper) error { _, err := m.RESTMapping(kind); return err },
		"ResourceFor":  func(m meta.RESTMapper) error { _, err := m.ResourceFor(resource); return err },
		"KindFor":      func(m meta.RESTMapper) error { _, err := m.KindFor(resource); return err },
	} {
		synctest.Test(t, func(t *testing.T) {
			discovery := newCounted(list("v1", "configmaps", "ConfigMap"))
			m := New(discovery)
			if err := ask(m); !meta.IsNoMatchError(err) {
				t.Errorf("%s of what is not defined: %v", name, err)
			}
			discovery.Resources = append(discovery.Resources, list("example.com/v1", "widgets", "Widget"))
			time.Sleep(pause)
			if err := ask(m); err != nil {
				t.Errorf("%s of what was defined since: %v", name, err)
			}
		})
	}
}

// However many look for what does not exist, discovery is asked once in a while, and not at all for what does.
func TestMapperDoesNotAskTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		discovery := newCounted(list("v1", "configmaps", "ConfigMap"))
		m := New(discovery)
		for range 5 {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if _, err := m.RESTMapping(kind); !meta.IsNoMatchError(err) {
						t.Errorf("what does not exist: %v", err)
					}
				})
			}
			all.Wait()
			if _, err := m.RESTMapping(schema.GroupKind{Kind: "ConfigMap"}); err != nil {
				t.Error(err)
			}
			time.Sleep(pause)
		}
		if discovery.asked > 6 { // at the start, and then with each of the five
			t.Errorf("discovery was asked %d times", discovery.asked)
		}
	})
}
