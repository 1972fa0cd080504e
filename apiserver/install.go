// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"slices"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	discoveryaggregated "k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// maxBody is upstream's limit of what a client sends: twice what etcd takes.
const maxBody = 3 * 1024 * 1024

// install makes the groups reachable and discoverable.
//
// It does what GenericAPIServer.InstallAPIGroups does, without building OpenAPI models of every type at
// each start: the types' schema comes compiled in with client-go and is parsed when first needed.
func (s *Server) install(all groups, cfg Config, codecs serializer.CodecFactory) error {
	converter := &lazyTypeConverter{scheme: s.scheme}
	for _, group := range sortedGroups(all) {
		versions := s.scheme.PrioritizedVersionsForGroup(group)
		versions = slices.DeleteFunc(versions, func(gv schema.GroupVersion) bool { return len(all[gv]) == 0 })
		for _, gv := range versions {
			resources, err := s.installVersion(gv, versions, all, cfg, codecs, converter)
			if err != nil {
				return err
			}
			manager := s.generic.AggregatedDiscoveryGroupManager
			if group == "" {
				manager = s.generic.AggregatedLegacyDiscoveryGroupManager
			}
			manager.AddGroupVersion(group, apidiscoveryv2.APIVersionDiscovery{
				Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: gv.Version, Resources: resources,
			})
		}
		s.installGroup(group, versions, cfg)
	}
	return nil
}

func sortedGroups(all groups) []string {
	var names []string
	for gv := range all {
		if !slices.Contains(names, gv.Group) {
			names = append(names, gv.Group)
		}
	}
	slices.Sort(names)
	return names
}

func (s *Server) installVersion(gv schema.GroupVersion, versions []schema.GroupVersion, all groups, cfg Config,
	codecs serializer.CodecFactory, converter managedfields.TypeConverter,
) ([]apidiscoveryv2.APIResourceDiscovery, error) {
	served := map[string][]string{}
	for _, v := range versions {
		for name := range all[v] {
			served[name] = append(served[name], v.String())
		}
	}
	root := genericapiserver.APIGroupPrefix
	if gv.Group == "" {
		root = genericapiserver.DefaultLegacyAPIPrefix
	}
	version := &genericapi.APIGroupVersion{
		Root:                        root,
		GroupVersion:                gv,
		Storage:                     all[gv],
		AllServedVersionsByResource: served,
		OptionsExternalVersion:      &schema.GroupVersion{Version: "v1"},
		ParameterCodec:              runtime.NewParameterCodec(s.scheme),
		Serializer:                  rest.Serializer{NegotiatedSerializer: codecs, Scheme: s.scheme},
		Creater:                     s.scheme,
		Convertor:                   rest.Convertor{Scheme: s.scheme},
		ConvertabilityChecker:       s.scheme,
		UnsafeConvertor:             rest.Convertor{Scheme: s.scheme},
		Defaulter:                   s.scheme,
		Typer:                       s.scheme,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		TypeConverter:               converter,
		EquivalentResourceRegistry:  s.generic.EquivalentResourceRegistry,
		Authorizer:                  s.generic.Authorizer,
		Admit:                       cfg.Admission,
		MinRequestTimeout:           cfg.MinRequestTimeout,
		MaxRequestBodyBytes:         maxBody,
	}
	resources, _, err := version.InstallREST(s.generic.Handler.GoRestfulContainer)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", gv, err)
	}
	return resources, nil
}

// installGroup adds the group's own document, which lists its versions.
func (s *Server) installGroup(group string, versions []schema.GroupVersion, cfg Config) {
	container := s.generic.Handler.GoRestfulContainer
	if group == "" {
		legacy := discovery.NewLegacyRootAPIHandler(discovery.DefaultAddresses{DefaultAddress: cfg.ExternalAddress}, s.generic.Serializer, genericapiserver.DefaultLegacyAPIPrefix)
		manager := s.generic.AggregatedLegacyDiscoveryGroupManager
		wrapped := discoveryaggregated.WrapAggregatedDiscoveryToHandler(legacy, manager, manager)
		container.Add(wrapped.GenerateWebService(genericapiserver.DefaultLegacyAPIPrefix, metav1.APIVersions{}))
		return
	}
	doc := metav1.APIGroup{Name: group}
	for _, gv := range versions {
		doc.Versions = append(doc.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	doc.PreferredVersion = doc.Versions[0]
	s.generic.DiscoveryGroupManager.AddGroup(doc)
	container.Add(discovery.NewAPIGroupHandler(s.generic.Serializer, doc).WebService())
}

// lazyTypeConverter parses the schema of the built-in types when the first write needs it.
type lazyTypeConverter struct {
	scheme *runtime.Scheme
	once   sync.Once
	real   managedfields.TypeConverter
}

func (c *lazyTypeConverter) converter() managedfields.TypeConverter {
	c.once.Do(func() { c.real = openapi.TypeConverter(c.scheme) })
	return c.real
}

func (c *lazyTypeConverter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	value, err := c.converter().ObjectToTyped(obj, opts...)
	if err != nil && unstored(obj) {
		return managedfields.NewDeducedTypeConverter().ObjectToTyped(obj, opts...)
	}
	return value, err
}

// unstored tells the kinds of questions that are answered and forgotten. Nobody owns their fields, and
// client-go's schema does not have them.
func unstored(obj runtime.Object) bool {
	gvk := obj.GetObjectKind().GroupVersionKind()
	switch gvk.Group {
	case "authentication.k8s.io", "authorization.k8s.io":
		return true
	}
	return gvk.Kind == "Binding" || gvk.Kind == "Eviction" || gvk.Kind == "Scale"
}

func (c *lazyTypeConverter) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	return c.converter().TypedToObject(value)
}
