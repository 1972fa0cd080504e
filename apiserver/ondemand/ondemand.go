// SPDX-License-Identifier: Apache-2.0

// Package ondemand lets a cluster have API groups that cost nothing before somebody uses them.
//
// Such a group is made of CustomResourceDefinitions. Clients find it in discovery (the aggregated one, which all clients of
// the last years ask) as if it were there, and the first request for one of its resources waits until it is. From then on
// it is there like any other. A group that somebody installs before is left to them.
//
// The parts of this process do not find it before it is there: those that look at all resources there are, like the garbage
// collector, would be the first to use it. Add-ons are an exception, since they are a person's.
package ondemand

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/apiserver/inprocess"
)

// Group is an API group that is installed when it is used.
type Group struct {
	Name     string
	Versions []apidiscoveryv2.APIVersionDiscovery // best first
	// Installed tells whether the group is served. It must be quick.
	Installed func() bool
	// Install returns when the group is served.
	Install func(ctx context.Context) error
}

// AddOns is the user as whom add-ons are applied.
const AddOns = "skiff:addons"

// isPart tells whether a request is of a part of this process.
func isPart(ctx context.Context) bool {
	u, inside := inprocess.UserOf(ctx)
	return inside && u.GetName() != AddOns
}

// patience is how long a request waits for a group.
const patience = 30 * time.Second

// expected is the source of what is not there yet: all others come before it.
const expected = aggregated.CRDSource + 100

// Manager keeps two discovery documents: what is there, for the parts of this process, and that with the groups that can be had
// besides, for all others.
type Manager struct {
	there, toBeHad aggregated.ResourceManager
}

var _ aggregated.ResourceManager = Manager{}

// NewManager returns a Manager for /apis.
func NewManager(groups []Group) Manager {
	m := Manager{aggregated.NewResourceManager("apis"), aggregated.NewResourceManager("apis")}
	for _, g := range groups {
		source := m.toBeHad.WithSource(expected)
		for i, v := range g.Versions {
			source.AddGroupVersion(g.Name, v)
			source.SetGroupVersionPriority(metav1.GroupVersion{Group: g.Name, Version: v.Version}, 1000, 100-i)
		}
	}
	return m
}

// AddGroupVersion implements aggregated.ResourceManager, as do all others below.
func (m Manager) AddGroupVersion(group string, value apidiscoveryv2.APIVersionDiscovery) {
	m.there.AddGroupVersion(group, value)
	m.toBeHad.AddGroupVersion(group, value)
}

// SetGroupVersionPriority says where a version stands among others.
func (m Manager) SetGroupVersionPriority(gv metav1.GroupVersion, group, version int) {
	m.there.SetGroupVersionPriority(gv, group, version)
	m.toBeHad.SetGroupVersionPriority(gv, group, version)
}

// RemoveGroup removes a group of this source.
func (m Manager) RemoveGroup(group string) {
	m.there.RemoveGroup(group)
	m.toBeHad.RemoveGroup(group)
}

// RemoveGroupVersion removes a version of this source.
func (m Manager) RemoveGroupVersion(gv metav1.GroupVersion) {
	m.there.RemoveGroupVersion(gv)
	m.toBeHad.RemoveGroupVersion(gv)
}

// SetGroups replaces all groups, of whatever source.
func (m Manager) SetGroups(groups []apidiscoveryv2.APIGroupDiscovery) {
	m.there.SetGroups(groups)
	m.toBeHad.SetGroups(groups)
}

// WithSource is the same for what comes from elsewhere.
func (m Manager) WithSource(source aggregated.Source) aggregated.ResourceManager {
	return Manager{m.there.WithSource(source), m.toBeHad.WithSource(source)}
}

// AddInvalidationCallback tells of changes of what is there.
func (m Manager) AddInvalidationCallback(callback func()) { m.there.AddInvalidationCallback(callback) }

// ServeHTTP answers with the document that is for who asks.
func (m Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isPart(r.Context()) {
		m.there.ServeHTTP(w, r)
		return
	}
	m.toBeHad.ServeHTTP(w, r)
}

// Handler has groups installed before requests for them go on to next. It belongs behind authorization.
func Handler(groups []Group, next http.Handler) http.Handler {
	if len(groups) == 0 {
		return next
	}
	installing := make([]sync.Mutex, len(groups)) // by group
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i, g := range groups {
			if !strings.HasPrefix(r.URL.Path+"/", "/apis/"+g.Name+"/") || isPart(r.Context()) {
				continue
			}
			installing[i].Lock()
			if !g.Installed() {
				install(r.Context(), g)
			}
			installing[i].Unlock()
		}
		next.ServeHTTP(w, r)
	})
}

// install goes on when the request is given up: the next one would begin anew. Where it fails, the request finds nothing.
func install(ctx context.Context, g Group) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	klog.FromContext(ctx).Info("Somebody uses an API group for the first time: it is installed", "group", g.Name)
	if err := g.Install(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "An API group cannot be used", "group", g.Name)
	}
}
