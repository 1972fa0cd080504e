// SPDX-License-Identifier: Apache-2.0

package restmapping

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

// What is defined after discovery was asked is found: a custom resource that an autoscaler scales, for one.
func TestMapperAsksAgain(t *testing.T) {
	discovery := &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{}}
	list := func(groupVersion, plural, kind string) *metav1.APIResourceList {
		return &metav1.APIResourceList{GroupVersion: groupVersion, APIResources: []metav1.APIResource{{Name: plural, Kind: kind, Namespaced: true}}}
	}
	discovery.Resources = []*metav1.APIResourceList{list("v1", "configmaps", "ConfigMap")}
	m := New(discovery)
	kind, resource := schema.GroupKind{Group: "example.com", Kind: "Widget"}, schema.GroupVersionResource{Group: "example.com", Resource: "widgets"}
	if _, err := m.RESTMappings(kind); !meta.IsNoMatchError(err) {
		t.Errorf("what is not defined: %v", err)
	}
	discovery.Resources = append(discovery.Resources, list("example.com/v1", "widgets", "Widget"))
	for name, ask := range map[string]func() error{
		"RESTMappings": func() error { _, err := m.RESTMappings(kind); return err },
		"RESTMapping":  func() error { _, err := m.RESTMapping(kind); return err },
		"ResourceFor":  func() error { _, err := m.ResourceFor(resource); return err },
		"KindFor":      func() error { _, err := m.KindFor(resource); return err },
	} {
		if err := ask(); err != nil {
			t.Errorf("%s of what was defined since: %v", name, err)
		}
	}
}
