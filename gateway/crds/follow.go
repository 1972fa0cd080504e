// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"context"
	"fmt"
	"maps"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/tools/cache"
	gatewayconsts "sigs.k8s.io/gateway-api/pkg/consts"
)

// API is what a cluster has of the Gateway API.
type API struct {
	Served map[string]bool // resources ("gateways") in version v1
	Bundle string          // the version of the definition of Gateways; "" if nothing says it
}

// Has tells whether a resource is served.
func (a API) Has(resource string) bool { return a.Served[resource] }

func (a API) equal(b API) bool { return a.Bundle == b.Bundle && maps.Equal(a.Served, b.Served) }

// usable tells whether there is enough of it to serve anything.
func (a API) usable() bool { return a.Has("gatewayclasses") && a.Has("gateways") }

// Follow calls run while the cluster has the Gateway API, and again whenever what it has of it changes. The context of run ends
// with that. informer is of CustomResourceDefinitions.
func Follow(ctx context.Context, informer cache.SharedIndexInformer, run func(context.Context, API) error) error {
	changed := make(chan struct{}, 1)
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    func(obj any, _ bool) { poke(changed, obj) },
		UpdateFunc: func(_, obj any) { poke(changed, obj) },
		DeleteFunc: func(obj any) { poke(changed, obj) },
	})
	if err != nil {
		return fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(registration) }()
	var current API
	var stop func() error
	defer func() {
		if stop != nil {
			_ = stop()
		}
	}()
	for {
		if api := find(informer.GetStore()); !api.equal(current) {
			if stop != nil {
				if err := stop(); err != nil {
					return err
				}
				stop = nil
			}
			if current = api; api.usable() {
				stop = start(ctx, func(ctx context.Context) error { return run(ctx, api) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func poke(changed chan<- struct{}, obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok && crd.Spec.Group == Group {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// start runs something, and returns what stops it.
func start(ctx context.Context, run func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// find looks at the definitions that are established.
func find(store cache.Store) API {
	api := API{Served: map[string]bool{}}
	for _, obj := range store.List() {
		crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
		if !ok || crd.Spec.Group != Group || crd.DeletionTimestamp != nil || !established(crd) {
			continue
		}
		if slices.ContainsFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == "v1" && v.Served }) {
			api.Served[crd.Spec.Names.Plural] = true
		}
		if crd.Spec.Names.Plural == "gateways" {
			api.Bundle = crd.Annotations[gatewayconsts.BundleVersionAnnotation]
		}
	}
	return api
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}
