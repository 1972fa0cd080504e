// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// serveGRPC serves on loopback until the test ends, and returns the port. Who asks has to introduce himself as the kubelet.
func serveGRPC(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) int32 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(options, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if !slices.ContainsFunc(md.Get("user-agent"), func(a string) bool { return strings.HasPrefix(a, agent+" ") }) {
			t.Errorf("user-agent %q", md.Get("user-agent"))
		}
		return next(ctx, req)
	}))...)
	register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

// https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/#define-a-grpc-liveness-probe
func TestGRPC(t *testing.T) {
	withHealth := func(s *grpc.Server) {
		h := health.NewServer()
		h.SetServingStatus("sick", healthapi.HealthCheckResponse_NOT_SERVING)
		healthapi.RegisterHealthServer(s, h)
	}
	web := httptest.NewTLSServer(nil) // for its certificate, which nobody has to trust
	defer web.Close()
	plain := serveGRPC(t, withHealth)
	secured := serveGRPC(t, withHealth, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: web.TLS.Certificates})))
	without := serveGRPC(t, func(*grpc.Server) {})
	overTLS := ptr.To(v1.GRPCProbeModeTLS)
	for name, c := range map[string]struct {
		action  v1.GRPCAction
		ok      bool
		text    string
		timeout int32
	}{
		"healthy":                  {v1.GRPCAction{Port: plain}, true, "service healthy", 30},
		"sick":                     {v1.GRPCAction{Port: plain, Service: ptr.To("sick")}, false, `service unhealthy (responded with "NOT_SERVING")`, 30},
		"a service nobody knows":   {v1.GRPCAction{Port: plain, Service: ptr.To("other")}, false, "error: health rpc probe failed: ", 30},
		"no health protocol":       {v1.GRPCAction{Port: without}, false, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ", 30},
		"TLS":                      {v1.GRPCAction{Port: secured, Mode: overTLS}, true, "service healthy", 30},
		"TLS, and the probe plain": {v1.GRPCAction{Port: secured}, false, "timeout: failed to connect service ", 1},
		"nobody there":             {v1.GRPCAction{Port: 1}, false, `timeout: failed to connect service "127.0.0.1:1" within 1s: `, 1},
	} {
		spec := &v1.Probe{TimeoutSeconds: c.timeout, ProbeHandler: v1.ProbeHandler{GRPC: &c.action}}
		got, err := New(nil, nil, nil, nil).handle(t.Context(), spec, &Target{PodIP: "127.0.0.1"})
		if err != nil || got.ok != c.ok || !strings.HasPrefix(got.text, c.text) {
			t.Errorf("%s: %+v, %v; want %q", name, got, err, c.text)
		}
	}
}
