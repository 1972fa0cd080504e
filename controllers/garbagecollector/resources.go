// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is where objects of a kind are.
type resource struct {
	gvr        schema.GroupVersionResource
	gvk        schema.GroupVersionKind
	namespaced bool
}

// resources is what discovery says there is.
type resources struct {
	byKind map[schema.GroupVersionKind]resource // in all served versions: references may use any
	watch  []resource                           // what to watch: each in one version
}

// newResources picks for each resource the version that its group prefers, if it can be listed, watched and deleted there.
func newResources(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) *resources {
	r := &resources{byKind: map[schema.GroupVersionKind]resource{}}
	preferred := map[string]string{} // version by group
	for _, group := range groups {
		preferred[group.Name] = group.PreferredVersion.Version
	}
	watch := map[schema.GroupResource]resource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, api := range list.APIResources {
			if strings.Contains(api.Name, "/") {
				continue // a subresource
			}
			res := resource{gvr: gv.WithResource(api.Name), gvk: gv.WithKind(api.Kind), namespaced: api.Namespaced}
			r.byKind[res.gvk] = res
			if !watchable(api) || ignored(res.gvr.GroupResource()) {
				continue
			}
			if _, have := watch[res.gvr.GroupResource()]; !have || preferred[gv.Group] == gv.Version {
				watch[res.gvr.GroupResource()] = res
			}
		}
	}
	r.watch = slices.SortedFunc(maps.Values(watch), func(a, b resource) int { return strings.Compare(a.gvr.String(), b.gvr.String()) })
	return r
}

func watchable(api metav1.APIResource) bool {
	for _, verb := range []string{"delete", "list", "watch"} {
		if !slices.Contains(api.Verbs, verb) {
			return false
		}
	}
	return true
}

// ignored are events: there are many, and they are not worth it.
func ignored(gr schema.GroupResource) bool {
	return gr.Resource == "events" && (gr.Group == "" || gr.Group == "events.k8s.io")
}
