// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/skiff-k8s/skiff/datastore"
)

// newCRDs builds the server of CustomResourceDefinitions and of the resources they define. It is asked for
// what the built-in server does not know.
func newCRDs(base genericapiserver.Config, cfg Config) (*apiextensionsserver.CustomResourceDefinitions, error) {
	// Upstream stores definitions in the shorter form of v1beta1, and custom resources as they came, all in JSON.
	codec := apiextensionsserver.Codecs.LegacyCodec(apiextensionsv1beta1.SchemeGroupVersion, apiextensionsv1.SchemeGroupVersion)
	base.RESTOptionsGetter = storedAs{&cfg, codec}
	base.MergedResourceConfig = apiextensionsserver.DefaultAPIResourceConfigSource()
	base.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(apiextensionsopenapi.GetOpenAPIDefinitions,
		openapinamer.NewDefinitionNamer(apiextensionsserver.Scheme))
	c := apiextensionsserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: base, SharedInformerFactory: cfg.Informers},
		ExtraConfig: apiextensionsserver.ExtraConfig{
			CRDRESTOptionsGetter: storedAs{&cfg, unstructured.UnstructuredJSONScheme},
			MasterCount:          1, // more would delay each definition by seconds
			ServiceResolver:      cfg.ServiceResolver,
			AuthResolverWrapper:  cfg.WebhookAuth,
		},
	}
	server, err := c.Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("build the server of %s: %w", apiextensions.GroupName, err)
	}
	return server, nil
}

// storedAs gives resources that lie under their group and plural name a storage with one codec.
type storedAs struct {
	cfg   *Config
	codec runtime.Codec
}

var _ generic.RESTOptionsGetter = storedAs{}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (s storedAs) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return s.cfg.Store.RESTOptions(resource, datastore.Layout{
		Codec: s.codec, KeyPrefix: resource.Group + "/" + resource.Resource, Transformer: s.cfg.transformer(resource),
	}), nil
}
