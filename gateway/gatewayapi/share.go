// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"reflect"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// share makes equal parts of two tables the same, so that the data plane sees what has not changed.
func share(before, after *table.Table) {
	if before == nil {
		return
	}
	for name, service := range after.Services {
		if old := before.Services[name]; old != nil && reflect.DeepEqual(old, service) {
			after.Services[name] = old
		}
	}
	type name struct{ gateway, name string }
	known := map[name]*table.Listener{}
	for _, l := range before.Listeners {
		known[name{l.Gateway, l.Name}] = l
	}
	for i, l := range after.Listeners {
		old := known[name{l.Gateway, l.Name}]
		if old == nil {
			continue
		}
		shareRoutes(old.Routes, l.Routes)
		if reflect.DeepEqual(old, l) {
			after.Listeners[i] = old
		}
	}
}

func shareRoutes(before, after []*table.Route) {
	type name struct {
		name string
		grpc bool
	}
	known := map[name]*table.Route{}
	for _, r := range before {
		known[name{r.Name, r.GRPC}] = r
	}
	for i, r := range after {
		if old := known[name{r.Name, r.GRPC}]; old != nil && reflect.DeepEqual(old, r) {
			after[i] = old
		}
	}
}
