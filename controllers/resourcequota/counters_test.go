// SPDX-License-Identifier: Apache-2.0

package resourcequota

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakediscovery "k8s.io/client-go/discovery/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/skiff-k8s/skiff/internal/restmapping"
)

// A custom resource that is defined after discovery was asked is counted as soon as somebody wants that.
func TestResourceDefinedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		discovery := &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{}}
		list := func(groupVersion, plural, kind string) *metav1.APIResourceList {
			return &metav1.APIResourceList{GroupVersion: groupVersion, APIResources: []metav1.APIResource{
				{Name: plural, Kind: kind, Namespaced: true, Verbs: metav1.Verbs{"list", "watch"}},
			}}
		}
		discovery.Resources = []*metav1.APIResourceList{list("v1", "configmaps", "ConfigMap")}
		c := &counters{
			metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()),
			mapper:   restmapping.New(discovery),
			running:  map[schema.GroupResource]*counter{}, ctx: ctx,
		}
		defer c.ended.Wait()
		defer cancel()
		widgets := schema.GroupResource{Group: "example.com", Resource: "widgets"}
		if _, err := c.get(widgets); !meta.IsNoMatchError(err) {
			t.Errorf("what is not defined: %v", err)
		}
		time.Sleep(time.Minute) // discovery is not asked about what is not there all the time
		discovery.Resources = append(discovery.Resources, list("example.com/v1", "widgets", "Widget"))
		if _, err := c.get(widgets); err != nil {
			t.Errorf("what was defined since: %v", err)
		}
	})
}
