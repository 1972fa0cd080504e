// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// newSkiff makes the rules of this repository.
func newSkiff() (*api, error) {
	definitions := registry.All(registry.Deps{})
	scheme, err := registry.NewScheme(definitions)
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	options := func(resource schema.GroupResource, stored schema.GroupVersion, _ string) (generic.RESTOptions, error) {
		config := storagebackend.Config{Codec: codecs.LegacyCodec(stored)}
		return generic.RESTOptions{StorageConfig: config.ForResource(resource), Decorator: nowhere, ResourcePrefix: resource.Resource}, nil
	}
	out := &api{scheme: scheme, convertor: rest.Convertor{Scheme: scheme}, kinds: map[schema.GroupKind]kind{}}
	for _, d := range definitions {
		built, err := d.Build(scheme, options)
		if err != nil {
			return nil, err
		}
		gvks, _, err := scheme.ObjectKinds(built.Store.New())
		if err != nil || len(gvks) == 0 {
			return nil, fmt.Errorf("kind of %T: %w", built.Store.New(), err)
		}
		k := kind{create: built.Store.CreateStrategy, update: built.Store.UpdateStrategy, table: built.Store}
		if built.Status != nil {
			k.status = built.Status.UpdateStrategy
		}
		for _, gv := range built.Versions {
			out.kinds[gv.WithKind(gvks[0].Kind).GroupKind()] = k
		}
	}
	return out, nil
}

// nowhere is a storage that nothing gets to.
func nowhere(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
	storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	return nil, func() {}, nil
}

var _ genericrest.TableConvertor = &rest.Store{}
