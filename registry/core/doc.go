// SPDX-License-Identifier: Apache-2.0

// Package core describes the resources of the legacy group: pods, services, nodes and their like.
//
// One file says all that a resource is; longer rules stand beside it in <kind>_rules.go.
package core

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
)

// Deps is what resources of this group need besides their own storage. Each may be missing; then the
// subresources that need it are not served.
type Deps struct {
	// PodConnections serve log, exec, attach, portforward and proxy of pods, by name.
	PodConnections map[string]genericrest.Storage
	// NodeProxy and ServiceProxy serve nodes/proxy and services/proxy.
	NodeProxy, ServiceProxy genericrest.Storage
	// Tokens serves serviceaccounts/token.
	Tokens genericrest.Storage
	// Budgets reads and spends PodDisruptionBudgets, for pods/eviction.
	Budgets policyclient.PodDisruptionBudgetsGetter
	// EventTTL is how long Events stay (0: an hour).
	EventTTL time.Duration
	// Services gives Services their addresses and ports; without it they get none.
	Services ServiceAllocator
}

// ServiceAllocator takes part in writes of Services (see registry/core/allocation). The functions it
// returns are called when the write has succeeded or failed.
type ServiceAllocator interface {
	BeginCreate(ctx context.Context, s *corev1.Service, options *metav1.CreateOptions) (registry.FinishFunc, error)
	BeginUpdate(ctx context.Context, s, old *corev1.Service, options *metav1.UpdateOptions) (registry.FinishFunc, error)
	AfterDelete(s *corev1.Service, options *metav1.DeleteOptions)
}
