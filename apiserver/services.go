// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	restclient "k8s.io/client-go/rest"
	"k8s.io/component-base/tracing"
)

// NewServiceResolver finds the Services of webhooks and of aggregated API servers by their endpoints, so
// that it needs no proxy on this machine. A Service of type ExternalName is reached by its name.
func NewServiceResolver(factory informers.SharedInformerFactory) (webhook.ServiceResolver, error) {
	slices, err := proxy.NewEndpointSliceIndexerGetter(factory.Discovery().V1().EndpointSlices())
	if err != nil {
		return nil, fmt.Errorf("find Services: %w", err)
	}
	return &serviceResolver{services: factory.Core().V1().Services().Lister(), slices: slices}, nil
}

type serviceResolver struct {
	services corelisters.ServiceLister
	slices   proxy.EndpointSliceGetter
}

// ResolveEndpoint implements webhook.ServiceResolver.
func (r *serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	service, err := r.services.Services(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return proxy.ResolveCluster(r.services, namespace, name, port)
	}
	return proxy.ResolveEndpoint(r.services, r.slices, namespace, name, port)
}

// WebhookAuth says how webhooks are told who calls: not at all, but for those that this API server is said to
// serve itself, at kubernetes.default.svc. They are reached as loopback, without a socket.
func WebhookAuth(loopback *restclient.Config, dialPod utilnet.DialFunc) webhook.AuthenticationInfoResolverWrapper {
	own := &restclient.Config{
		// Whatever certificate the webhook's configuration wants, there is none to check.
		WrapTransport: func(http.RoundTripper) http.RoundTripper { return loopback.Transport },
	}
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(&http.Transport{DialContext: dialPod}, nil, own, tracing.NewNoopTracerProvider())
}
