// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/resource"
	"github.com/skiff-k8s/skiff/registry/rest"
	"github.com/skiff-k8s/skiff/registry/stories"
)

// newSkiff makes the rules of this repository.
func newSkiff() (*api, error) {
	rules, err := stories.NewRules(registry.Deps{Resource: resource.Deps{Namespaces: namespaces{}}})
	if err != nil {
		return nil, err
	}
	out := &api{scheme: rules.Scheme, convertor: rest.Convertor{Scheme: rules.Scheme}, kinds: map[schema.GroupKind]kind{}}
	for gk, built := range rules.Kinds {
		k := kind{create: built.Store.CreateStrategy, update: built.Store.UpdateStrategy, table: built.Store}
		if built.Status != nil {
			k.status = built.Status.UpdateStrategy
		}
		for name, storage := range built.Storage {
			if part, ok := storage.(rest.Subresource); ok && !strings.HasSuffix(name, "/status") {
				if k.parts == nil {
					k.parts = map[string]genericrest.RESTUpdateStrategy{}
				}
				k.parts[name[strings.Index(name, "/")+1:]] = part.Strategy()
			}
		}
		out.kinds[gk] = k
	}
	return out, nil
}
