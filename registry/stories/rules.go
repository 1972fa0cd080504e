// SPDX-License-Identifier: Apache-2.0

package stories

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// Rules are what decides about objects, without a server or a storage.
type Rules struct {
	Scheme *runtime.Scheme
	Kinds  map[schema.GroupKind]*rest.Built // also those of second versions
}

// NewRules makes the rules of every resource.
func NewRules(deps registry.Deps) (*Rules, error) {
	definitions := registry.All(deps)
	scheme, err := registry.NewScheme(definitions)
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	options := func(resource schema.GroupResource, stored schema.GroupVersion, _ string) (generic.RESTOptions, error) {
		config := storagebackend.Config{Codec: codecs.LegacyCodec(stored)}
		return generic.RESTOptions{StorageConfig: config.ForResource(resource), Decorator: nowhere, ResourcePrefix: resource.Resource}, nil
	}
	out := &Rules{Scheme: scheme, Kinds: map[schema.GroupKind]*rest.Built{}}
	for _, d := range definitions {
		built, err := d.Build(scheme, options)
		if err != nil {
			return nil, err
		}
		gvks, _, err := scheme.ObjectKinds(built.Store.New())
		if err != nil || len(gvks) == 0 {
			return nil, fmt.Errorf("kind of %T: %w", built.Store.New(), err)
		}
		for _, gv := range built.Versions {
			out.Kinds[gv.WithKind(gvks[0].Kind).GroupKind()] = built
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
