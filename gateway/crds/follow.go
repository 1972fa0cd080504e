// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
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
	var serving *running
	defer func() { serving.stop() }()
	again := time.NewTimer(0) // when to look, whether something has changed or not
	defer again.Stop()
	for {
		select {
		case <-changed: // they come together
			again.Reset(settle)
			continue
		case <-again.C:
		case err := <-serving.ended():
			if err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "The Gateway API is not served; it is tried again")
			}
			serving, current = nil, API{}
			again.Reset(retry)
			continue
		case <-ctx.Done():
			return nil
		}
		api := find(informer.GetStore())
		if api.equal(current) {
			continue
		}
		serving.stop()
		serving, current = nil, api
		if api.usable() {
			serving = start(ctx, func(ctx context.Context) error { return run(ctx, api) })
		}
	}
}

const (
	settle = 200 * time.Millisecond // after the last change, before it is looked at what there is
	retry  = 2 * time.Second        // after a failure
)

// running is something that runs; nil is nothing.
type running struct {
	cancel context.CancelFunc
	done   chan error
}

func start(ctx context.Context, run func(context.Context) error) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel, make(chan error, 1)}
	go func() { r.done <- run(ctx) }()
	return r
}

// ended yields how it ended by itself.
func (r *running) ended() <-chan error {
	if r == nil {
		return nil
	}
	return r.done
}

// stop ends it and waits for that.
func (r *running) stop() {
	if r != nil {
		r.cancel()
		<-r.done
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
