// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
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
	syncedAt time.Time // zero before the first sync
	lateFrom time.Time // when the oldest change that waits came; zero if none waits
	checks   map[types.NamespacedName]*healthServer
	servers  sync.WaitGroup
}

// healthCheck is what a Service's health check port tells.
type healthCheck struct {
	port      uint16
	endpoints int // ready ones on this node
}

type healthServer struct {
	healthCheck
	server *http.Server
}

func newHealth(cfg Config, client kubernetes.Interface, node func() *corev1.Node, measured *metrics.Metrics) *health {
	return &health{
		address: cfg.HealthAddress, nodeName: cfg.NodeName, client: client, node: node, metrics: measured,
		checks: map[types.NamespacedName]*healthServer{},
	}
}

// queued notes that a change waits to be written.
func (h *health) queued() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lateFrom.IsZero() {
		h.lateFrom = time.Now()
	}
}

// updated notes that the rules are as wanted.
func (h *health) updated() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.syncedAt, h.lateFrom = time.Now(), time.Time{}
}

// status is the answer of /healthz and /livez, with upstream's fields.
type status struct {
	LastUpdated  time.Time `json:"lastUpdated"`
	CurrentTime  time.Time `json:"currentTime"`
	NodeEligible *bool     `json:"nodeEligible,omitempty"`
	Healthy      bool      `json:"healthy"`
}

func (h *health) status() status {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	s := status{LastUpdated: h.syncedAt, CurrentTime: now, Healthy: h.lateFrom.IsZero() || now.Sub(h.lateFrom) < lateAfter}
	if s.Healthy {
		s.LastUpdated = now // upstream's meaning: as good as written just now
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

// syncServices opens and closes the Services' health check ports.
func (h *health) syncServices(ctx context.Context, wanted map[types.NamespacedName]healthCheck) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, open := range h.checks {
		if wanted[name].port != open.port {
			open.server.Close()
			delete(h.checks, name)
		}
	}
	for name, check := range wanted {
		if open := h.checks[name]; open != nil {
			open.healthCheck = check
			continue
		}
		server := &http.Server{Handler: h.handler(name), ReadHeaderTimeout: 10 * time.Second}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", check.port))
		if err != nil {
			klog.FromContext(ctx).Error(err, "Open health check port", "service", name, "port", check.port)
			h.report(ctx, name, check.port, err)
			continue
		}
		h.checks[name] = &healthServer{check, server}
		h.servers.Go(func() { server.Serve(listener) })
	}
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
