// SPDX-License-Identifier: Apache-2.0

package podconnect

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	endpointproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/klog/v2"
)

// PodProxy is pods/proxy: HTTP to a port of a pod.
type PodProxy struct {
	storage[corev1.PodProxyOptions, *corev1.PodProxyOptions]
	anyMethod
	Pods      Getter
	Transport http.RoundTripper
}

// ServiceProxy is services/proxy: HTTP to a port of one of a Service's pods.
type ServiceProxy struct {
	storage[corev1.ServiceProxyOptions, *corev1.ServiceProxyOptions]
	anyMethod
	Services       Getter
	Pods           Getter
	EndpointSlices endpointproxy.EndpointSliceGetter
	Transport      http.RoundTripper
}

// NodeProxy is nodes/proxy: HTTP to the kubelet of a node, or to another port there.
type NodeProxy struct {
	storage[corev1.NodeProxyOptions, *corev1.NodeProxyOptions]
	anyMethod
	Kubelets  Kubelets
	Transport http.RoundTripper
}

var (
	_ rest.Connecter = PodProxy{}
	_ rest.Connecter = ServiceProxy{}
	_ rest.Connecter = NodeProxy{}
)

type anyMethod struct{}

func (anyMethod) ConnectMethods() []string {
	return []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
}

func (PodProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodProxyOptions{}, true, "path"
}

func (ServiceProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.ServiceProxyOptions{}, true, "path"
}

func (NodeProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.NodeProxyOptions{}, true, "path"
}

// Connect proxies to "name", "name:port" or "scheme:name:port".
func (p PodProxy) Connect(ctx context.Context, id string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*corev1.PodProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	location, err := p.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	return proxyPath(location, o.Path, p.Transport, responder), nil
}

func (p PodProxy) locate(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	pod, err := getPod(ctx, p.Pods, name)
	if err != nil {
		return nil, err
	}
	var address string
	if len(pod.Status.PodIPs) > 0 {
		address = pod.Status.PodIPs[0].IP
	}
	if ip := net.ParseIP(address); ip == nil || !ip.IsGlobalUnicast() {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	if port == "" {
		port = firstPort(pod)
	}
	return &url.URL{Scheme: scheme, Host: hostPort(address, port)}, nil
}

func firstPort(pod *corev1.Pod) string {
	for i := range pod.Spec.Containers {
		if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
			return strconv.Itoa(int(ports[0].ContainerPort))
		}
	}
	return ""
}

func hostPort(address, port string) string {
	if port != "" {
		return net.JoinHostPort(address, port)
	}
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// Connect proxies to "name", "name:port" or "scheme:name:port", the port being a name or a number.
func (p ServiceProxy) Connect(ctx context.Context, id string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*corev1.ServiceProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	location, err := p.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	return proxyPath(location, o.Path, p.Transport, responder), nil
}

func (p ServiceProxy) locate(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
	}
	obj, err := p.Services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("unexpected object type: %#v", obj)
	}
	if port, err = portName(svc, port); err != nil {
		return nil, err
	}
	slices, err := p.EndpointSlices.GetEndpointSlices(request.NamespaceValue(ctx), name)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(slices) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	host, err := endpointproxy.RandomEndpoint(name, slices, port, primaryFamily(svc), func(ep *discoveryv1.Endpoint) bool {
		err := p.mustBePod(ctx, ep)
		if err != nil {
			klog.FromContext(ctx).Info("Not proxying to an endpoint of a Service", "service", klog.KObj(svc), "err", err)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: scheme, Host: host}, nil
}

// portName turns a port number into the name that the endpoints know it by.
func portName(svc *corev1.Service, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 64)
	if err != nil {
		return port, nil // it is a name, or empty
	}
	for i := range svc.Spec.Ports {
		if int64(svc.Spec.Ports[i].Port) == number {
			return svc.Spec.Ports[i].Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, svc.Name))
}

func primaryFamily(svc *corev1.Service) corev1.IPFamily {
	if len(svc.Spec.IPFamilies) > 0 {
		return svc.Spec.IPFamilies[0]
	}
	return corev1.IPv4Protocol
}

// mustBePod makes sure that the address is really a pod's: who may write EndpointSlices must not be able to
// send the API server anywhere else.
func (p ServiceProxy) mustBePod(ctx context.Context, ep *discoveryv1.Endpoint) error {
	if ep.TargetRef == nil || len(ep.Addresses) == 0 {
		return fmt.Errorf("endpoint has no target ref")
	}
	if ep.TargetRef.Namespace != request.NamespaceValue(ctx) {
		return fmt.Errorf("endpoint namespace doesn't match context namespace")
	}
	pod, err := getPod(ctx, p.Pods, ep.TargetRef.Name)
	if err != nil {
		return err
	}
	for _, ip := range pod.Status.PodIPs {
		if ip.IP == ep.Addresses[0] {
			return nil
		}
	}
	return fmt.Errorf("pod ip(s) doesn't match endpoint ip: %v vs %s (%s/%s)", pod.Status.PodIPs, ep.Addresses[0], pod.Namespace, pod.Name)
}

// Connect proxies to "name", "name:port" or "scheme:name:port"; without a port to the kubelet.
func (p NodeProxy) Connect(ctx context.Context, id string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := opts.(*corev1.NodeProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	to, err := p.Kubelets.Connection(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := mustBeProxyable(ctx, to.Address); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if port == "" || port == to.Port {
		return proxyPath(to.URL("", nil), o.Path, to.Transport, responder), nil
	}
	return proxyPath(&url.URL{Scheme: scheme, Host: net.JoinHostPort(to.Host, port)}, o.Path, p.Transport, responder), nil
}

// mustBeProxyable refuses loopback, link-local and other addresses that mean something else on this machine.
func mustBeProxyable(ctx context.Context, host string) error {
	addresses, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return err
	}
	if len(addresses) == 0 {
		return fmt.Errorf("no addresses for hostname")
	}
	for _, a := range addresses {
		if !a.IP.IsGlobalUnicast() {
			return fmt.Errorf("address not allowed")
		}
	}
	return nil
}

func proxyPath(to *url.URL, path string, transport http.RoundTripper, responder rest.Responder) http.Handler {
	to.Path = utilnet.JoinPreservingTrailingSlash(to.Path, path)
	return newProxy(to, transport, true, false, responder)
}
