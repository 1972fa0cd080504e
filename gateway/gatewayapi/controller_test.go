// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/crds"
	"github.com/skiff-k8s/skiff/gateway/table"
	"github.com/skiff-k8s/skiff/testenv"
)

// plane is a data plane that only remembers.
type plane struct {
	mu    sync.Mutex
	table *table.Table
	busy  map[netip.AddrPort]bool // sockets that cannot be opened
}

func (p *plane) Set(_ string, t *table.Table) map[netip.AddrPort]error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table = t
	failed := map[netip.AddrPort]error{}
	for _, l := range t.Listeners {
		if p.busy[l.Bind] {
			failed[l.Bind] = fmt.Errorf("listen %s: address already in use", l.Bind)
		}
	}
	return failed
}

// cluster is a real API server with the Gateway API and our controller.
type cluster struct {
	*testing.T
	kubernetes.Interface
	gateways *gatewayclient.Clientset
	plane    *plane
}

const patience = time.Minute

func start(t *testing.T) *cluster {
	env := testenv.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	definitions := apiextensionsinformers.NewSharedInformerFactory(apiextensionsclient.NewForConfigOrDie(env.Config), 0)
	informer := definitions.Apiextensions().V1().CustomResourceDefinitions().Informer()
	definitions.Start(ctx.Done())
	if err := crds.Install(ctx, dynamic.NewForConfigOrDie(env.Config), informer.GetStore()); err != nil {
		t.Fatal(err)
	}
	config := env.ConfigFor("gateway")
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c := &cluster{t, env.Client, gatewayclient.NewForConfigOrDie(config), &plane{busy: map[netip.AddrPort]bool{}}}
	factory := informers.NewSharedInformerFactory(env.Client, 0)
	done := make(chan error, 1)
	go func() {
		done <- crds.Follow(ctx, informer, func(ctx context.Context, api crds.API) error {
			controller := New(Config{
				NodeName: "alpha", NodeIP: netip.MustParseAddr("192.0.2.1"), Client: env.Client, Single: env.Client, Gateways: c.gateways,
				Informers: factory, DataPlane: c.plane, API: api,
			})
			factory.Start(ctx.Done())
			return controller.Run(ctx)
		})
	}()
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		beat(ctx, env.Client)
	}()
	t.Cleanup(func() {
		cancel()
		<-beating
		if err := <-done; err != nil {
			t.Errorf("Follow: %v", err)
		}
		factory.Shutdown()
		definitions.Shutdown()
	})
	return c
}

// beat writes now and then, as nodes do. While nothing is written, etcd tells no watcher how far it is if there is one that waits
// for the next revision, and an informer that has just been started then waits for ever.
func beat(ctx context.Context, client kubernetes.Interface) {
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
			heart := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "heart"}, Data: map[string]string{"beats": fmt.Sprint(n)}}
			if _, err := client.CoreV1().ConfigMaps("default").Update(ctx, heart, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
				_, _ = client.CoreV1().ConfigMaps("default").Create(ctx, heart, metav1.CreateOptions{})
			}
		}
	}
}

// await waits until what is true, and says what was found last if it is not.
func (c *cluster) await(what string, condition func() (bool, string)) {
	c.Helper()
	var found string
	if err := wait.PollUntilContextTimeout(c.Context(), 20*time.Millisecond, patience, true, func(context.Context) (ok bool, err error) {
		ok, found = condition()
		return ok, nil
	}); err != nil {
		c.Fatalf("waiting for %s, found %s", what, found)
	}
}

func (c *cluster) gateway(text string) *gatewayv1.Gateway {
	c.Helper()
	var object gatewayv1.Gateway
	if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
		c.Fatal(err)
	}
	made, err := c.gateways.GatewayV1().Gateways("default").Create(c.Context(), &object, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return made
}

func (c *cluster) status(name string) gatewayv1.GatewayStatus {
	object, err := c.gateways.GatewayV1().Gateways("default").Get(c.Context(), name, metav1.GetOptions{})
	if err != nil {
		return gatewayv1.GatewayStatus{}
	}
	return object.Status
}

func (c *cluster) served() []*table.Listener {
	c.plane.mu.Lock()
	defer c.plane.mu.Unlock()
	if c.plane.table == nil {
		return nil
	}
	return c.plane.table.Listeners
}

// From a Gateway to a listener that serves, and back.
func TestLifeOfAGateway(t *testing.T) {
	c := start(t)
	c.await("the class", func() (bool, string) {
		class, err := c.gateways.GatewayV1().GatewayClasses().Get(t.Context(), ClassName, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return reason(class.Status.Conditions, "Accepted") == "True Accepted" && reason(class.Status.Conditions, "SupportedVersion") == "True SupportedVersion" &&
			len(class.Status.SupportedFeatures) == len(Features()), fmt.Sprint(class.Status)
	})
	c.gateway(gw("web", "{name: http, port: 80, protocol: HTTP}", "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}"))
	c.await("the Gateway to serve", func() (bool, string) {
		s := c.status("web")
		return reason(s.Conditions, "Programmed") == "True Programmed" && len(s.Listeners) == 2, fmt.Sprint(s)
	})
	svc, err := c.CoreV1().Services("default").Get(t.Context(), "web-skiff", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status := c.status("web")
	if status.Addresses[0].Value != svc.Spec.ClusterIP {
		t.Errorf("the address is %v, that of the Service %s", status.Addresses, svc.Spec.ClusterIP)
	}
	if got := reason(status.Listeners[1].Conditions, "ResolvedRefs"); got != "False InvalidCertificateRef" {
		t.Errorf("without its Secret the listener is %s", got)
	}

	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("example.com", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cert"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": certPEM, "tls.key": keyPEM}}
	if _, err := c.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await("the listener with its certificate", func() (bool, string) {
		s := c.status("web")
		return len(c.served()) == 2 && reason(s.Listeners[1].Conditions, "Programmed") == "True Programmed", fmt.Sprint(s)
	})
	c.await("the endpoints of the Service", func() (bool, string) {
		list, err := c.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web-skiff"})
		if err != nil || len(list.Items) != 1 || len(list.Items[0].Ports) != 2 {
			return false, fmt.Sprint(list, err)
		}
		slice := list.Items[0]
		for _, l := range c.served() {
			if !slices.ContainsFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool { return *p.Port == int32(l.Bind.Port()) }) {
				return false, fmt.Sprint(slice.Ports, " and ", l.Bind)
			}
		}
		return slice.Endpoints[0].Addresses[0] == "192.0.2.1" && *slice.Endpoints[0].NodeName == "alpha", fmt.Sprint(slice)
	})

	// The class goes when no Gateway is of it any more.
	classes := c.gateways.GatewayV1().GatewayClasses()
	c.await("the class to be guarded", func() (bool, string) {
		class, err := classes.Get(t.Context(), ClassName, metav1.GetOptions{})
		return err == nil && slices.Contains(class.Finalizers, gatewayv1.GatewayClassFinalizerGatewaysExist), fmt.Sprint(class, err)
	})
	if err := classes.Delete(t.Context(), ClassName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if class, err := classes.Get(t.Context(), ClassName, metav1.GetOptions{}); err != nil || class.DeletionTimestamp == nil {
		t.Errorf("the class that a Gateway uses is %v, %v; want one that is to be deleted", class, err)
	}
	if err := c.gateways.GatewayV1().Gateways("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await("nothing to be served", func() (bool, string) { return len(c.served()) == 0, fmt.Sprint(c.served()) })
	c.await("the class to be gone", func() (bool, string) {
		_, err := classes.Get(t.Context(), ClassName, metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

// A route is told how it fares, and others' part of its status stays.
func TestRouteStatus(t *testing.T) {
	c := start(t)
	c.gateway(gw("web", "{name: http, port: 80, protocol: HTTP}"))
	route, err := c.gateways.GatewayV1().HTTPRoutes("default").Create(t.Context(), &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "web"}}},
			Rules: []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{
				BackendObjectReference: gatewayv1.BackendObjectReference{Name: "late", Port: ptr.To[int32](80)},
			}}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ours := func() ([]metav1.Condition, int) {
		route, err = c.gateways.GatewayV1().HTTPRoutes("default").Get(t.Context(), "r", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range route.Status.Parents {
			if p.ControllerName == ControllerName {
				return p.Conditions, len(route.Status.Parents)
			}
		}
		return nil, len(route.Status.Parents)
	}
	c.await("a route without a backend", func() (bool, string) {
		conditions, _ := ours()
		return reason(conditions, "Accepted") == "True Accepted" && reason(conditions, "ResolvedRefs") == "False BackendNotFound", fmt.Sprint(conditions)
	})
	other := gatewayv1.RouteParentStatus{ControllerName: "example.com/other", ParentRef: gatewayv1.ParentReference{Name: "other"}, Conditions: []metav1.Condition{
		{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", LastTransitionTime: metav1.Now()},
	}}
	c.await("another controller to write its part", func() (bool, string) {
		ours()
		route.Status.Parents = append(route.Status.Parents, other)
		_, err := c.gateways.GatewayV1().HTTPRoutes("default").UpdateStatus(t.Context(), route, metav1.UpdateOptions{})
		return err == nil, fmt.Sprint(err)
	})
	if _, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "late"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await("the backend to be seen", func() (bool, string) {
		conditions, parents := ours()
		return reason(conditions, "ResolvedRefs") == "True ResolvedRefs" && parents == 2, fmt.Sprint(route.Status)
	})
}

// A Gateway gets the address that it asks for, or is told why not.
func TestStaticAddresses(t *testing.T) {
	c := start(t)
	c.gateway(gw("good", "{name: http, port: 80, protocol: HTTP}") + "\n  addresses: [{value: 10.43.99.99}]")
	c.gateway(gw("bad", "{name: http, port: 80, protocol: HTTP}") + "\n  addresses: [{value: 198.51.100.1}]")
	c.await("the good one", func() (bool, string) {
		s := c.status("good")
		return reason(s.Conditions, "Programmed") == "True Programmed" && len(s.Addresses) == 1 && s.Addresses[0].Value == "10.43.99.99", fmt.Sprint(s)
	})
	c.await("the bad one", func() (bool, string) {
		s := c.status("bad")
		return reason(s.Conditions, "Accepted") == "True Accepted" && reason(s.Conditions, "Programmed") == "False AddressNotUsable", fmt.Sprint(s)
	})
}

// Where somebody else listens on a port of the node, the Gateway gets another one.
func TestBusySockets(t *testing.T) {
	c := start(t)
	first := newSockets(netip.MustParseAddr("192.0.2.1")).of(Socket{Gateway: reconcile.KeyOf(&metav1.ObjectMeta{Namespace: "default", Name: "web"}), Port: 80, Protocol: corev1.ProtocolTCP})
	c.plane.busy[first] = true
	c.gateway(gw("web", "{name: http, port: 80, protocol: HTTP}"))
	c.await("another socket", func() (bool, string) {
		s := c.status("web")
		served := c.served()
		return reason(s.Conditions, "Programmed") == "True Programmed" && len(served) == 1 && served[0].Bind != first, fmt.Sprint(s, served)
	})
}

// Ports are given back, and the same Gateway gets the same one again.
func TestSockets(t *testing.T) {
	s := newSockets(netip.MustParseAddr("192.0.2.1"))
	socket := func(name string, port int32) Socket { return Socket{inA(name), port, corev1.ProtocolTCP} }
	a, b := s.of(socket("a", 80)), s.of(socket("a", 443))
	if a == b || !a.IsValid() || s.of(socket("a", 80)) != a {
		t.Errorf("sockets are %v and %v", a, b)
	}
	s.keep(map[Socket]bool{socket("a", 443): true})
	if len(s.ports) != 1 || len(s.taken) != 1 {
		t.Errorf("kept are %v, %v", slices.Collect(maps.Keys(s.ports)), s.taken)
	}
	if s.of(socket("a", 80)) != a {
		t.Error("after it was given back it is another one")
	}
	for i := range int32(3000) {
		s.of(socket("b", i))
	}
	if len(s.ports) != lastSocket-firstSocket+1 {
		t.Errorf("%d ports are given out", len(s.ports))
	}
}
