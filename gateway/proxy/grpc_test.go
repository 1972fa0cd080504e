// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// grpcBackend serves the health service, and says in a trailer what it was called by.
func grpcBackend(t *testing.T) (netip.AddrPort, *health.Server) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			in, _ := metadata.FromIncomingContext(ctx)
			_ = grpc.SetTrailer(ctx, metadata.Pairs("seen", strings.Join(in[":authority"], ",")))
			return handle(ctx, req)
		}),
	), health.NewServer()
	healthpb.RegisterHealthServer(server, state)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().(*net.TCPAddr).AddrPort(), state
}

func TestGRPC(t *testing.T) {
	g := newGateway(t, Config{})
	endpoint, state := grpcBackend(t)
	g.service("s", "", endpoint)
	g.service("none", "")
	match := func(p table.PathMatch, backend string) *table.Rule {
		return &table.Rule{Matches: []table.Match{{Path: p}}, Backends: to(backend)}
	}
	l := g.serve(table.HTTP,
		match(table.GRPCMethod("grpc.health.v1.Health", "Check"), "s"),
		match(table.GRPCMethod("", "Watch"), "s"),
		match(table.GRPCMethod("grpc.health.v1.Health", "List"), "none"),
	)
	l.Routes[0].GRPC = true // before anybody asks

	conn, err := grpc.NewClient(g.at.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("grpc.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := healthpb.NewHealthClient(conn)

	var trailer metadata.MD
	if res, err := c.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Trailer(&trailer)); err != nil || res.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("Check: %v %v", res, err)
	}
	if got := trailer.Get("seen"); len(got) != 1 || got[0] != "grpc.example.com" {
		t.Errorf("trailer %v, want the authority that the backend saw", trailer)
	}
	if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
		t.Errorf("an error of the backend: %v, want NotFound", err)
	}
	if _, err := c.List(ctx, &healthpb.HealthListRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("no endpoints: %v, want Unavailable", err)
	}
	if err := conn.Invoke(ctx, "/other.Service/Method", &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("no route: %v, want Unimplemented", err)
	}

	// A stream that the server goes on with.
	stream, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if res, err := stream.Recv(); err != nil || res.Status != want {
			t.Fatalf("Watch: %v %v, want %v", res, err, want)
		}
		state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	}
}

func TestMetrics(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	m, err := NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, Config{Metrics: m})
	g.service("s", "", says(t, "s"))
	g.serve(table.HTTP, &table.Rule{Matches: []table.Match{{Path: exact("/a")}}, Backends: to("s")})
	for _, path := range []string{"/a", "/a", "/b"} {
		get(t, client(), g.url(path))
	}
	want := `# HELP skiff_gateway_requests_total [ALPHA] Requests answered, by route (namespace/name, empty if none matched) and status code (499: the client did not wait).
# TYPE skiff_gateway_requests_total counter
skiff_gateway_requests_total{code="200",route="ns/route"} 2
skiff_gateway_requests_total{code="404",route=""} 1
`
	eventually(t, func() error {
		return testutil.GatherAndCompare(registry, strings.NewReader(want), "skiff_gateway_requests_total")
	})
	// What is not there any more is not counted any more.
	g.set(func(t *table.Table) { t.Listeners = nil })
	want = strings.Replace(want, `skiff_gateway_requests_total{code="200",route="ns/route"} 2`+"\n", "", 1)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "skiff_gateway_requests_total"); err != nil {
		t.Error(err)
	}
}

// eventually waits until f is content.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
