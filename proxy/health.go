// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/proxy/metrics"
)

// toBeDeletedTaint is what the cluster autoscaler puts on a node before it takes it away.
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// lateAfter is how long changes may wait before the proxy calls itself unhealthy.
const lateAfter = time.Minute

// health answers who wants to know whether this node can be sent traffic: /healthz and /livez for the proxy, and a port
// of its own for every Service of type LoadBalancer with externalTrafficPolicy Local.
type health struct {
	address  string
	nodeName string
	client   kubernetes.Interface
	node     func() *corev1.Node
	metrics  *metrics.Metrics

	mu       sync.Mutex
	families map[corev1.IPFamily]*familyHealth
	checks   map[types.NamespacedName]*healthServer
	servers  sync.WaitGroup
}

// familyHealth is how the rules of one family are.
type familyHealth struct {
	syncedAt time.Time // when they were last as wanted, or when the proxy was made
	lateFrom time.Time // when the oldest change that waits came; zero if none waits
}

// healthCheck is what a Service's health check port tells.
type healthCheck struct {
	port      uint16
	endpoints int // ready ones on this node
}

type healthServer struct {
	healthCheck
	at     []netip.Addr
	server *http.Server
}

func newHealth(cfg Config, client kubernetes.Interface, node func() *corev1.Node, measured *metrics.Metrics) *health {
	h := &health{
		address: cfg.HealthAddress, nodeName: cfg.NodeName, client: client, node: node, metrics: measured,
		families: map[corev1.IPFamily]*familyHealth{}, checks: map[types.NamespacedName]*healthServer{},
	}
	for _, name := range families {
		h.families[name] = &familyHealth{syncedAt: time.Now()}
	}
	return h
}

// queued notes that a change waits to be written.
func (h *health) queued() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.families {
		if f.lateFrom.IsZero() {
			f.lateFrom = time.Now()
		}
	}
}

// updated notes that the rules of a family are as wanted.
func (h *health) updated(name corev1.IPFamily) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*h.families[name] = familyHealth{syncedAt: time.Now()}
}

// status is the answer of /healthz and /livez, with upstream's fields.
type status struct {
	LastUpdated  time.Time                        `json:"lastUpdated"`
	CurrentTime  time.Time                        `json:"currentTime"`
	NodeEligible *bool                            `json:"nodeEligible,omitempty"`
	Healthy      bool                             `json:"healthy"`
	Families     map[corev1.IPFamily]familyStatus `json:"status"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// status is healthy if no family is late. It was last updated when the family was that came last.
func (h *health) status() status {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	s := status{CurrentTime: now, Healthy: true, Families: map[corev1.IPFamily]familyStatus{}}
	for name, f := range h.families {
		healthy := f.lateFrom.IsZero() || now.Sub(f.lateFrom) < lateAfter
		s.Families[name] = familyStatus{LastUpdated: f.syncedAt, Healthy: healthy}
		s.Healthy = s.Healthy && healthy
		if f.syncedAt.After(s.LastUpdated) {
			s.LastUpdated = f.syncedAt
		}
	}
	return s
}

// eligible tells whether load balancers should use the node: not one that is about to go.
func (h *health) eligible() bool {
	node := h.node()
	if node == nil || node.DeletionTimestamp != nil {
		return false
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == toBeDeletedTaint {
			return false
		}
	}
	return true
}

// serve answers /healthz and /livez until ctx ends. A port in use is no reason not to proxy: it is tried again.
func (h *health) serve(ctx context.Context) {
	if h.address == "none" {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		s, eligible := h.status(), h.eligible()
		s.NodeEligible = &eligible
		h.metrics.Healthz(reply(w, s.Healthy && eligible, s))
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		s := h.status()
		h.metrics.Livez(reply(w, s.Healthy, s))
	})
	serve(ctx, "proxy health checks", h.address, mux)
}

// serve answers at an address until ctx ends.
func serve(ctx context.Context, what, address string, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	for ctx.Err() == nil {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			err = server.Serve(listener)
		}
		if ctx.Err() != nil {
			return
		}
		klog.FromContext(ctx).Error(err, "Serving "+what, "address", address)
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

func reply(w http.ResponseWriter, ok bool, body any) (code int) {
	code = http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body)
	return code
}

// syncServices opens and closes the Services' health check ports, at these addresses of the node.
func (h *health) syncServices(ctx context.Context, wanted map[types.NamespacedName]healthCheck, at []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, open := range h.checks {
		if wanted[name].port != open.port || !slices.Equal(at, open.at) {
			open.server.Close()
			delete(h.checks, name)
		}
	}
	for name, check := range wanted {
		if open := h.checks[name]; open != nil {
			open.healthCheck = check
			continue
		}
		listeners, err := listenAt(ctx, at, check.port)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Open health check port", "service", name, "port", check.port)
			h.report(ctx, name, check.port, err)
			continue
		}
		server := &http.Server{Handler: h.handler(name), ReadHeaderTimeout: 10 * time.Second}
		h.checks[name] = &healthServer{check, at, server}
		for _, listener := range listeners {
			h.servers.Go(func() { server.Serve(listener) })
		}
	}
}

// listenAt opens a port at all of the addresses, or at none.
func listenAt(ctx context.Context, at []netip.Addr, port uint16) (listeners []net.Listener, err error) {
	for _, addr := range at {
		network := "tcp6" // and IPv6 alone
		if addr.Is4() {
			network = "tcp4"
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, network, netip.AddrPortFrom(addr, port).String())
		if err != nil {
			for _, open := range listeners {
				open.Close()
			}
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

// close ends the Services' health check ports and waits for them.
func (h *health) close() {
	h.mu.Lock()
	for name, open := range h.checks {
		open.server.Close()
		delete(h.checks, name)
	}
	h.mu.Unlock()
	h.servers.Wait()
}

// handler answers with upstream's fields; load balancers read the status and the weight.
func (h *health) handler(name types.NamespacedName) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		healthy := h.status().Healthy
		h.mu.Lock()
		endpoints := 0
		if check := h.checks[name]; check != nil {
			endpoints = check.endpoints
		}
		h.mu.Unlock()
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(endpoints))
		reply(w, endpoints > 0 && healthy, map[string]any{
			"service":             map[string]string{"namespace": name.Namespace, "name": name.Name},
			"localEndpoints":      endpoints,
			"serviceProxyHealthy": healthy,
		})
	}
}

// report tells the Service's owner that its health check port cannot be opened.
func (h *health) report(ctx context.Context, name types.NamespacedName, port uint16, cause error) {
	now := time.Now()
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: name.Namespace, Name: fmt.Sprintf("%s.%x", name.Name, now.UnixNano())},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "kube-proxy",
		ReportingInstance:   "kube-proxy-" + h.nodeName,
		Action:              "Listen",
		Reason:              "FailedToStartServiceHealthcheck",
		Regarding:           corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
		Note:                fmt.Sprintf("node %s failed to start healthcheck %q on port %d: %v", h.nodeName, name, port, cause),
		Type:                corev1.EventTypeWarning,
	}
	if _, err := h.client.EventsV1().Events(name.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		klog.FromContext(ctx).Error(err, "Create event", "service", name)
	}
}
