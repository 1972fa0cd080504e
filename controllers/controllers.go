// SPDX-License-Identifier: Apache-2.0

// Package controllers is the list of all controllers and what runs them.
//
// Each controller lives in a folder of its own and knows only the Kubernetes API: a client under its own
// identity, and the shared informers. Package reconcile turns events into calls of their Reconcile functions.
//
// New asks the informer factory for what the controllers need, so it must be called before the factory is
// started. Run acts; it is called while this process is the leader, and may be called again after it returned.
package controllers

import (
	"context"
	"fmt"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/clusterroleaggregation"
	"github.com/skiff-k8s/skiff/controllers/cronjob"
	"github.com/skiff-k8s/skiff/controllers/daemonset"
	"github.com/skiff-k8s/skiff/controllers/deployment"
	"github.com/skiff-k8s/skiff/controllers/disruption"
	"github.com/skiff-k8s/skiff/controllers/endpoints"
	"github.com/skiff-k8s/skiff/controllers/endpointslice"
	"github.com/skiff-k8s/skiff/controllers/garbagecollector"
	"github.com/skiff-k8s/skiff/controllers/job"
	"github.com/skiff-k8s/skiff/controllers/namespace"
	"github.com/skiff-k8s/skiff/controllers/nodeipam"
	"github.com/skiff-k8s/skiff/controllers/nodelifecycle"
	"github.com/skiff-k8s/skiff/controllers/podgc"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/replicaset"
	"github.com/skiff-k8s/skiff/controllers/replicationcontroller"
	"github.com/skiff-k8s/skiff/controllers/resourceclaim"
	"github.com/skiff-k8s/skiff/controllers/resourcequota"
	"github.com/skiff-k8s/skiff/controllers/rootcacertpublisher"
	"github.com/skiff-k8s/skiff/controllers/serviceaccount"
	"github.com/skiff-k8s/skiff/controllers/statefulset"
	"github.com/skiff-k8s/skiff/controllers/tainteviction"
	"github.com/skiff-k8s/skiff/controllers/ttlafterfinished"
)

// Deps is what the controllers work with.
type Deps struct {
	// ClientFor returns a client that acts as the controller of that name, which is the user
	// system:serviceaccount:kube-system:<name>.
	ClientFor func(name string) kubernetes.Interface
	Informers informers.SharedInformerFactory

	// MetadataFor is ClientFor for clients that see only the metadata of objects.
	MetadataFor func(name string) metadata.Interface
	Discovery   discovery.DiscoveryInterface

	// PodRanges are the pod addresses that nodes get their share of: one range, or one per IP family.
	PodRanges []nodeipam.Range
	// KeepEndedPods is how many ended pods are kept; 0 means podgc.DefaultThreshold, less than 0 means all.
	KeepEndedPods int
	// RootCA is what kube-root-ca.crt says: PEM certificates by which pods verify the API server.
	RootCA []byte
}

// Manager runs all controllers.
type Manager struct {
	deps   Deps
	events *eventSources
	runner reconcile.Runner
}

// New makes all controllers.
func New(deps Deps) (*Manager, error) {
	m := &Manager{deps: deps, events: newEventSources()}
	for _, build := range all {
		c, err := build(m)
		if err != nil {
			return nil, fmt.Errorf("set up controllers: %w", err)
		}
		m.runner.Controllers = append(m.runner.Controllers, c)
	}
	return m, nil
}

// Run runs the controllers until ctx ends. The informer factory must have been started.
func (m *Manager) Run(ctx context.Context) error {
	stop := m.events.start(ctx)
	defer stop()
	return m.runner.Run(ctx)
}

// all is the list of all controllers.
var all = []func(*Manager) (reconcile.Controller, error){
	withEvents(deployment.Name, deployment.Component, deployment.New),
	withEvents(replicaset.Name, replicaset.Component, replicaset.New),
	withEvents(replicationcontroller.Name, replicationcontroller.Component, replicationcontroller.New),
	withEvents(statefulset.Name, statefulset.Component, statefulset.New),
	withEvents(daemonset.Name, daemonset.Component, daemonset.New),
	withEvents(job.Name, job.Component, job.New),
	func(m *Manager) (reconcile.Controller, error) {
		return job.NewOrphans(m.deps.ClientFor(job.Name), m.deps.Informers)
	},
	withEvents(cronjob.Name, cronjob.Component, cronjob.New),
	withEvents(disruption.Name, disruption.Component, disruption.New),
	func(m *Manager) (reconcile.Controller, error) {
		return disruption.NewStaleConditions(m.deps.ClientFor(disruption.Name), m.deps.Informers), nil
	},
	withEvents(endpointslice.Name, endpointslice.Component, endpointslice.New),
	withEvents(endpoints.Name, endpoints.Component, endpoints.New),
	withEvents(nodelifecycle.Name, nodelifecycle.Component, nodelifecycle.New),
	withEvents(tainteviction.Name, tainteviction.Component, tainteviction.New),
	func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(nodeipam.Name)
		return nodeipam.New(client, m.deps.Informers, m.events.source(nodeipam.Component, client), m.deps.PodRanges)
	},
	func(m *Manager) (reconcile.Controller, error) {
		keep := m.deps.KeepEndedPods
		if keep == 0 {
			keep = podgc.DefaultThreshold
		}
		return podgc.New(m.deps.ClientFor(podgc.Name), m.deps.Informers, keep)
	},
	func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(garbagecollector.Name)
		events := m.events.source(garbagecollector.Component, client)
		return garbagecollector.New(m.deps.MetadataFor(garbagecollector.Name), m.deps.Discovery, m.deps.Informers, events), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return namespace.New(m.deps.ClientFor(namespace.Name), m.deps.MetadataFor(namespace.Name), m.deps.Discovery, m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return resourcequota.New(m.deps.ClientFor(resourcequota.Name), m.deps.MetadataFor(resourcequota.Name), m.deps.Discovery, m.deps.Informers)
	},
	func(m *Manager) (reconcile.Controller, error) {
		return clusterroleaggregation.New(m.deps.ClientFor(clusterroleaggregation.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return ttlafterfinished.New(m.deps.ClientFor(ttlafterfinished.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return serviceaccount.New(m.deps.ClientFor(serviceaccount.Name), m.deps.Informers), nil
	},
	func(m *Manager) (reconcile.Controller, error) {
		return rootcacertpublisher.New(m.deps.ClientFor(rootcacertpublisher.Name), m.deps.Informers, m.deps.RootCA), nil
	},
	withEvents(resourceclaim.Name, resourceclaim.Component, resourceclaim.NewForPods),
	func(m *Manager) (reconcile.Controller, error) {
		return resourceclaim.New(m.deps.ClientFor(resourceclaim.Name), m.deps.Informers), nil
	},
}

// withEvents is for controllers that need just a client, the informers and a place for their events.
func withEvents(
	name, component string,
	build func(kubernetes.Interface, informers.SharedInformerFactory, record.EventRecorder) (reconcile.Controller, error),
) func(*Manager) (reconcile.Controller, error) {
	return func(m *Manager) (reconcile.Controller, error) {
		client := m.deps.ClientFor(name)
		return build(client, m.deps.Informers, m.events.source(component, client))
	}
}
