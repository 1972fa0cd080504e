// SPDX-License-Identifier: Apache-2.0

// Package podconnect is the way from the API server into pods: the subresources log, exec, attach,
// portforward and proxy of Pods, and proxy of Services and Nodes.
//
// All but two of them ask the kubelet of the pod's node, over a connection that [Kubelets] knows how to make; the
// proxies of Pods and Services speak to a pod's address. Clients stream over SPDY or over WebSockets; to the
// kubelet it is SPDY, so that any kubelet will do.
//
// References: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/ and
// KEP-4006 (WebSockets).
package podconnect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Getter reads one object of a resource; the resource's storage is one.
type Getter = rest.Getter

// Connection is how the API server speaks to the kubelet of one node.
type Connection struct {
	Scheme, Host, Port string
	Address            string // of the node, where Host is a name that the transports know
	// Transport checks the kubelet's certificate. For upgraded connections it has to be a *http.Transport,
	// or wrap one in the way of k8s.io/apimachinery/pkg/util/net.RoundTripperWrapper.
	Transport http.RoundTripper
	// Insecure does not check it. Only reading a log may ask for that.
	Insecure http.RoundTripper
}

// URL is that of a path at the kubelet.
func (c Connection) URL(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: c.Scheme, Host: net.JoinHostPort(c.Host, c.Port), Path: path, RawQuery: query.Encode()}
}

// Kubelets finds the kubelet of a node. The error is an API status.
type Kubelets interface {
	Connection(ctx context.Context, nodeName string) (Connection, error)
}

// getPod reads the pod in the request's namespace.
func getPod(ctx context.Context, pods Getter, name string) (*corev1.Pod, error) {
	obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("unexpected object type: %#v", obj)
	}
	return pod, nil
}

// connection returns the way to the kubelet of the pod's node.
func connection(ctx context.Context, kubelets Kubelets, pod *corev1.Pod) (Connection, error) {
	if pod.Spec.NodeName == "" {
		return Connection{}, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return kubelets.Connection(ctx, pod.Spec.NodeName)
}

// chooseContainer returns the named container, or the only one if none is named.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	names := containerNames(pod)
	if name != "" {
		for _, n := range names {
			if n == name {
				return name, nil
			}
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	switch len(pod.Spec.Containers) {
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	case 1:
		return pod.Spec.Containers[0].Name, nil
	default:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
	}
}

// containerNames lists all containers, in upstream's order.
func containerNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.InitContainers {
		names = append(names, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		names = append(names, pod.Spec.EphemeralContainers[i].Name)
	}
	return names
}

// newProxy returns a handler that passes requests on, connections that are upgraded included.
func newProxy(to *url.URL, transport http.RoundTripper, wrapTransport, upgradeRequired bool, responder rest.Responder) http.Handler {
	return proxy.NewUpgradeAwareHandler(to, transport, wrapTransport, upgradeRequired, proxy.NewErrorResponder(responder))
}

// mustMayCreate checks that the user may `create` the subresource. A WebSocket starts with a GET, which
// was authorized as `get`; what it does is what the POST of SPDY does, and needs the same right.
func mustMayCreate(ctx context.Context, authz authorizer.UnconditionalAuthorizer) error {
	const verb = "create"
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("no request info in context"))
	}
	if info.Verb == verb {
		return nil // it was authorized as that
	}
	if authz == nil {
		return apierrors.NewInternalError(errors.New("no authorizer available"))
	}
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("error building authorizer attributes: %w", err))
	}
	decision, reason, err := authz.Authorize(ctx, withVerb{Attributes: attributes, verb: verb})
	if err != nil {
		return err
	}
	if decision != authorizer.DecisionAllow {
		return apierrors.NewForbidden(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name, errors.New(reason))
	}
	return nil
}

type withVerb struct {
	authorizer.Attributes
	verb string
}

func (w withVerb) GetVerb() string { return w.verb }

// storage is what all these subresources have in common: the options' type is all that there is to construct.
type storage[T any, P interface {
	*T
	runtime.Object
}] struct{}

func (storage[T, P]) New() runtime.Object { return P(new(T)) }
func (storage[T, P]) Destroy()            {}
