// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/gateway/proxy"
	"github.com/skiff-k8s/skiff/testenv"
)

// cloud is an API server with a controller and its data plane, where pods are servers on loopback.
type cloud struct {
	kubernetes.Interface
	t          *testing.T
	controller *Controller
	http       netip.AddrPort
	https      netip.AddrPort
	servers    map[string]string // addresses of pods, and where they really are
}

func newCloud(t *testing.T) *cloud {
	env := testenv.Start(t, testenv.Admission("ServiceAccount"))
	c := &cloud{Interface: env.Client, t: t, http: freePort(t), https: freePort(t), servers: map[string]string{}}
	for i, name := range []string{"a", "b"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, name, " ", r.Host, " ", r.URL.Path, " ", r.Header.Get("X-Forwarded-Proto"))
		}))
		t.Cleanup(server.Close)
		c.servers[fmt.Sprintf("10.42.0.%d:8080", i+1)] = server.Listener.Addr().String()
	}
	plane := proxy.New(proxy.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.servers[address])
	}})
	factory := informers.NewSharedInformerFactory(env.Client, 0)
	controller := New(Config{NodeName: "node", HTTP: c.http, HTTPS: c.https, Client: env.Client, Secrets: env.Client, Informers: factory, DataPlane: plane})
	c.controller = controller
	registered := controller.controller() // asks for the informers, as building a server does
	if len(registered.Watches) == 0 {
		t.Fatal("the controller watches nothing")
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 2)
	go func() { done <- plane.Run(ctx) }()
	go func() { done <- controller.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		factory.Shutdown()
	})
	must(t)(env.Client.NetworkingV1().IngressClasses().Create(t.Context(), Class(true), metav1.CreateOptions{}))
	node := must(t)(env.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})).(*corev1.Node)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	must(t)(env.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}))
	return c
}

// must fails the test on an error.
func must(t *testing.T) func(any, error) any {
	return func(obj any, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
}

func freePort(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// service makes a Service with pods.
func (c *cloud) service(name string, pods ...string) {
	c.t.Helper()
	svc := newService("default", name, corev1.ServicePort{Name: "web", Port: 80})
	must(c.t)(c.CoreV1().Services("default").Create(c.t.Context(), svc, metav1.CreateOptions{}))
	slice := newSlice("default", name, "web", 8080, pods...)
	must(c.t)(c.DiscoveryV1().EndpointSlices("default").Create(c.t.Context(), slice, metav1.CreateOptions{}))
}

func (c *cloud) ingress(in *networkingv1.Ingress) {
	c.t.Helper()
	must(c.t)(c.NetworkingV1().Ingresses(in.Namespace).Create(c.t.Context(), in, metav1.CreateOptions{}))
}

// get asks for a URL whose host is found at the gateway. It returns the certificate's serial number with https.
func (c *cloud) get(url string) (answer string, serial string, err error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the test looks at the certificate
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := c.http
			if strings.HasSuffix(address, ":443") {
				to = c.https
			}
			return (&net.Dialer{}).DialContext(ctx, network, to.String())
		},
	}}
	res, err := client.Get(url)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.TLS != nil {
		serial = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: res.TLS.PeerCertificates[0].Raw}))
	}
	return fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(string(body))), serial, err
}

// want waits until a URL is answered so.
func (c *cloud) want(url, answer string) {
	c.t.Helper()
	c.eventually(func() error {
		got, _, err := c.get(url)
		if err != nil || got != answer {
			return fmt.Errorf("%s: %q %v, want %q", url, got, err, answer)
		}
		return nil
	})
}

func (c *cloud) eventually(f func() error) {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	c.t.Fatal(err)
}

// event waits for an event of an Ingress.
func (c *cloud) event(ingress, reason, text string) {
	c.t.Helper()
	c.eventually(func() error {
		events, err := c.CoreV1().Events("default").List(c.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var all []string
		for _, e := range events.Items {
			if e.InvolvedObject.Kind == "Ingress" && e.InvolvedObject.Name == ingress && e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			all = append(all, e.InvolvedObject.Name+" "+e.Reason+" "+e.Message)
		}
		return fmt.Errorf("no event %s %q of %s among %q", reason, text, ingress, all)
	})
}

func TestIngress(t *testing.T) {
	c := newCloud(t)
	if conn, err := net.Dial("tcp", c.http.String()); err == nil {
		_ = conn.Close()
		t.Error("something listens before there is an Ingress")
	}
	c.service("a", "10.42.0.1")
	web := newIngress("default", "web", 0, func(s *networkingv1.IngressSpec) {
		s.IngressClassName = nil // the default one
		s.Rules = []networkingv1.IngressRule{
			rule("a.org", path(networkingv1.PathTypePrefix, "/", to("a", 80))),
			rule("b.org", path(networkingv1.PathTypePrefix, "/", toNamed("b", "web")), path(networkingv1.PathTypeExact, "/a", toNamed("a", "web"))),
		}
		s.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.org"}, SecretName: "cert"}}
	})
	web.CreationTimestamp, web.UID = metav1.Time{}, ""
	c.ingress(web)
	c.ingress(newIngress("default", "foreign", 0, func(s *networkingv1.IngressSpec) {
		s.IngressClassName = ptr.To("somebody-elses")
		s.Rules = []networkingv1.IngressRule{rule("c.org", path(networkingv1.PathTypePrefix, "/", to("a", 80)))}
	}))
	c.want("http://a.org/x", "200 a a.org /x http")
	c.want("http://b.org/a", "200 a b.org /a http")
	c.want("http://b.org/b", "503 the backend has no endpoints")
	c.want("http://c.org/", "404 nothing is served here")
	c.event("web", "BackendNotFound", "Service default/b does not exist")
	c.event("web", "TLSSecretInvalid", "Secret default/cert does not exist")

	// Everything that was missing comes to be.
	c.service("b", "10.42.0.2")
	c.want("http://b.org/b", "200 b b.org /b http")
	for _, version := range []string{"first", "second"} {
		secret := newSecret(t, "default", "cert")
		secret.UID, secret.ResourceVersion = "", ""
		if version == "first" {
			must(t)(c.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}))
		} else {
			must(t)(c.CoreV1().Secrets("default").Update(t.Context(), secret, metav1.UpdateOptions{}))
		}
		c.eventually(func() error {
			answer, certificate, err := c.get("https://a.org/")
			if err != nil || answer != "200 a a.org / https" || certificate != string(secret.Data[corev1.TLSCertKey]) {
				return fmt.Errorf("with the %s Secret: %q %v, its certificate: %v", version, answer, err, certificate == string(secret.Data[corev1.TLSCertKey]))
			}
			return nil
		})
	}
	c.eventually(func() error {
		in, err := c.NetworkingV1().Ingresses("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || fmt.Sprint(in.Status.LoadBalancer.Ingress) != fmt.Sprint([]networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}) {
			return fmt.Errorf("status %v %v, want the node's address", in.Status.LoadBalancer.Ingress, err)
		}
		return nil
	})
	foreign := must(t)(c.NetworkingV1().Ingresses("default").Get(t.Context(), "foreign", metav1.GetOptions{})).(*networkingv1.Ingress)
	if len(foreign.Status.LoadBalancer.Ingress) > 0 {
		t.Errorf("an Ingress of somebody else's class has the addresses %v", foreign.Status.LoadBalancer.Ingress)
	}

	// Its pods move; then it is gone, and with it the sockets.
	slice := newSlice("default", "a", "web", 8080, "10.42.0.2")
	must(t)(c.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice, metav1.UpdateOptions{}))
	c.want("http://a.org/x", "200 b a.org /x http")
	if err := c.NetworkingV1().Ingresses("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually(func() error {
		for _, at := range []netip.AddrPort{c.http, c.https} {
			if conn, err := net.Dial("tcp", at.String()); err == nil {
				_ = conn.Close()
				return fmt.Errorf("%s is still open", at)
			}
		}
		return nil
	})
}

// Who has a port already keeps it, and the Ingress says so until it is free.
func TestPortsOfOthers(t *testing.T) {
	c := newCloud(t)
	c.service("a", "10.42.0.1")
	balanced := newService("default", "balanced", corev1.ServicePort{Port: int32(c.http.Port())})
	balanced.Spec.Type = corev1.ServiceTypeLoadBalancer
	balanced = must(t)(c.CoreV1().Services("default").Create(t.Context(), balanced, metav1.CreateOptions{})).(*corev1.Service)
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	must(t)(c.CoreV1().Services("default").UpdateStatus(t.Context(), balanced, metav1.UpdateOptions{}))
	c.awaitAddressOf("balanced")
	in := newIngress("default", "web", 0, func(s *networkingv1.IngressSpec) { s.DefaultBackend = ptr.To(to("a", 80)) })
	c.ingress(in)
	c.event("web", "PortUnavailable", fmt.Sprintf("port %d of node node belongs to Service default/balanced", c.http.Port()))
	if err := c.CoreV1().Services("default").Delete(t.Context(), "balanced", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.want("http://any.org/", "200 a any.org / http")

	// A Service that comes later does not take the port away.
	late := newService("default", "late", corev1.ServicePort{Port: int32(c.http.Port())})
	late.Spec.Type = corev1.ServiceTypeLoadBalancer
	late = must(t)(c.CoreV1().Services("default").Create(t.Context(), late, metav1.CreateOptions{})).(*corev1.Service)
	late.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	must(t)(c.CoreV1().Services("default").UpdateStatus(t.Context(), late, metav1.UpdateOptions{}))
	c.awaitAddressOf("late")
	if holders := must(t)(c.controller.holders()).(map[uint16]string); len(holders) > 0 || !c.controller.Holds(c.http.Port()) || c.controller.Holds(c.https.Port()) {
		t.Errorf("the ports belong to %v, want only the Ingress's to be taken", holders)
	}
	c.want("http://any.org/", "200 a any.org / http")
}

// awaitAddressOf waits until the controller has seen that a Service has an address.
func (c *cloud) awaitAddressOf(service string) {
	c.t.Helper()
	c.eventually(func() error {
		seen, err := c.controller.services.Services("default").Get(service)
		if err == nil && len(seen.Status.LoadBalancer.Ingress) == 0 {
			err = errors.New("the controller has not seen the address of Service " + service)
		}
		return err
	})
}

// After a restart nothing is listened at for a moment. Who had a port then keeps it.
func TestHolds(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
	}}
	served := func(address string, secured bool) *networkingv1.Ingress {
		in := newIngress("default", "web", 0, func(s *networkingv1.IngressSpec) {
			s.IngressClassName = ptr.To(ClassName)
			if secured {
				s.TLS = []networkingv1.IngressTLS{{SecretName: "tls"}}
			}
		})
		in.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: address}}
		return in
	}
	balanced := newService("default", "balanced", corev1.ServicePort{Port: 80})
	balanced.Spec.Type = corev1.ServiceTypeLoadBalancer
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	for name, tc := range map[string]struct {
		there []runtime.Object
		want  string
	}{
		"nobody wants any":               {nil, ""},
		"an Ingress was served":          {[]runtime.Object{served("192.0.2.1", false)}, "80"},
		"with TLS":                       {[]runtime.Object{served("192.0.2.1", true)}, "80 443"},
		"it was at another node":         {[]runtime.Object{served("192.0.2.2", true)}, ""},
		"a Service had one of the ports": {[]runtime.Object{served("192.0.2.1", true), balanced}, "443"},
	} {
		factory := informers.NewSharedInformerFactory(fake.NewClientset(append(tc.there, node, Class(true))...), 0)
		c := New(Config{
			NodeName: "node", HTTP: netip.MustParseAddrPort("0.0.0.0:80"), HTTPS: netip.MustParseAddrPort("0.0.0.0:443"),
			Informers: factory, DataPlane: proxy.New(proxy.Config{}),
		})
		if registered := c.controller(); len(registered.Watches) == 0 || !c.Holds(80) || c.Holds(81) {
			t.Errorf("%s: as long as nothing is known, its ports and no others have to be kept", name)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		var held []string
		for _, port := range []uint16{80, 443, 81} {
			if c.Holds(port) {
				held = append(held, fmt.Sprint(port))
			}
		}
		if got := strings.Join(held, " "); got != tc.want {
			t.Errorf("%s: held are %q, want %q", name, got, tc.want)
		}
		cancel()
		factory.Shutdown()
	}
}
