// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"context"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/objects"
)

// view is how one decision sees the world, and notes what it has looked at.
type view struct {
	*Controller
	ctx  context.Context
	uses map[types.NamespacedName]bool // Services
	refs map[objects.Ref]bool          // Secrets and ConfigMaps
	late bool                          // some of those are not known yet
}

var _ Objects = &view{}

// Namespace implements Objects.
func (v *view) Namespace(name string) *corev1.Namespace {
	ns, err := v.spaces.Get(name)
	if err != nil {
		return nil
	}
	return ns
}

// Service implements Objects.
func (v *view) Service(name types.NamespacedName) *corev1.Service {
	v.uses[name] = true
	v.use(name)
	svc, err := v.services.Services(name.Namespace).Get(name.Name)
	if err != nil {
		return nil
	}
	return svc
}

// Endpoints implements Objects.
func (v *view) Endpoints(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	list, err := v.slices.EndpointSlices(service.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}))
	if err != nil {
		return nil
	}
	return list
}

// Secret implements Objects.
func (v *view) Secret(name types.NamespacedName) *corev1.Secret {
	v.follow(objects.Ref{Kind: "Secret", NamespacedName: name})
	secret, err := v.named.Secret(v.ctx, name.Namespace, name.Name)
	if err != nil {
		v.late = v.late || !apierrors.IsNotFound(err)
		return nil
	}
	return secret
}

// ConfigMap implements Objects.
func (v *view) ConfigMap(name types.NamespacedName) *corev1.ConfigMap {
	v.follow(objects.Ref{Kind: "ConfigMap", NamespacedName: name})
	configMap, err := v.named.ConfigMap(v.ctx, name.Namespace, name.Name)
	if err != nil {
		v.late = v.late || !apierrors.IsNotFound(err)
		return nil
	}
	return configMap
}

// follow makes sure that an object is watched, besides those that were before.
func (v *view) follow(ref objects.Ref) {
	v.refs[ref] = true
	if !v.Controller.refs[ref] {
		known := maps.Clone(v.Controller.refs)
		if known == nil {
			known = map[objects.Ref]bool{}
		}
		known[ref] = true
		v.register(known)
	}
}

// Exposed implements Objects.
func (v *view) Exposed(name types.NamespacedName) Exposure {
	gw, err := v.gateways.Gateway().V1().Gateways().Lister().Gateways(name.Namespace).Get(name.Name)
	if err != nil {
		return Exposure{}
	}
	svc, err := v.services.Services(name.Namespace).Get(serviceName(gw))
	if err != nil {
		svc = nil
	}
	return exposure(gw, svc, v.refused[name])
}

// Socket implements Objects.
func (v *view) Socket(s Socket) netip.AddrPort { return v.sockets.of(s) }
