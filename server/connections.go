// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/core/podconnect"
)

// kubelets is how the API server finds and reaches kubelets.
func (c *controlPlane) kubelets() podconnect.Kubelets {
	return podconnect.NodeKubelets{
		Nodes:       c.stored(corev1.Resource("nodes")),
		DefaultPort: agent.DefaultSettings().KubeletPort,
		ByName:      true,
		Transport:   c.kubeletTransport(false),
		Insecure:    c.kubeletTransport(true),
	}
}

// connections are the ways from the API server to kubelets and pods.
func (c *controlPlane) connections(kubelets podconnect.Kubelets) core.Deps {
	pods := c.stored(corev1.Resource("pods"))
	streams := podconnect.Streams{Pods: pods, Kubelets: kubelets, Authorizer: c.authz}
	// Pods and Services have certificates, if at all, that mean nothing to us: upstream does not check them either.
	direct := func(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
		return &http.Transport{
			DialContext:         dial,
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     time.Minute,
		}
	}
	toPods := direct(c.tunnels.DialPod)
	return core.Deps{
		PodConnections: map[string]genericrest.Storage{
			"log":         podconnect.Log{Pods: pods, Kubelets: kubelets},
			"exec":        podconnect.Exec{Streams: streams},
			"attach":      podconnect.Attach{Streams: streams},
			"portforward": podconnect.PortForward{Streams: streams},
			"proxy":       podconnect.PodProxy{Pods: pods, Transport: toPods},
		},
		NodeProxy: podconnect.NodeProxy{Kubelets: kubelets, Transport: direct(c.tunnels.DialNode)},
		ServiceProxy: podconnect.ServiceProxy{
			Services: c.stored(corev1.Resource("services")), Pods: pods, EndpointSlices: serviceSlices{c}, Transport: toPods,
		},
	}
}

// kubeletTransport speaks to kubelets under the API server's client certificate. They are addressed by the names of
// their nodes, which their certificates have to show.
func (c *controlPlane) kubeletTransport(insecure bool) http.RoundTripper {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.pki.KubeletCA.PEM())
	return &http.Transport{
		DialContext: c.tunnels.DialNode,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots, InsecureSkipVerify: insecure, //nolint:gosec // on the user's request, for logs only
			GetClientCertificate: c.pki.APIServerKubeletClient.GetClientCertificate,
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
}

// stored reads a resource below the API. The stores come to be after those who need them.
func (c *controlPlane) stored(resource schema.GroupResource) genericrest.Getter {
	return storedGetter{c, resource}
}

type storedGetter struct {
	plane    *controlPlane
	resource schema.GroupResource
}

func (g storedGetter) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return g.plane.api.Store(g.resource).Get(ctx, name, options)
}

// serviceSlices finds the EndpointSlices of a Service in the informers' memory.
type serviceSlices struct{ plane *controlPlane }

func (s serviceSlices) GetEndpointSlices(namespace, name string) ([]*discoveryv1.EndpointSlice, error) {
	return s.plane.informers.Discovery().V1().EndpointSlices().Lister().EndpointSlices(namespace).
		List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}))
}
