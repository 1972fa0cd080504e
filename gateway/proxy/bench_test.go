// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// BenchmarkAgainstBare sends requests in turn through the gateway, with a thousand routes, and through httputil.ReverseProxy alone, and
// compares how many of each are answered in the same time on the same machine.
//
//	go test -run - -bench AgainstBare ./gateway/proxy
func BenchmarkAgainstBare(b *testing.B) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		b.Fatal(err)
	}
	p := New(Config{})
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConnsPerHost: idleConnections, DisableCompression: true}, BufferPool: &p.buffers,
	})
	defer bare.Close()

	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { _ = p.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	at, err := freeAddress()
	if err != nil {
		b.Fatal(err)
	}
	p.Set("bench", bigTable(at, netip.MustParseAddrPort(target.Host)))

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	ask := func(url string) time.Duration {
		r, _ := http.NewRequest(http.MethodGet, url+"/app/7/page", nil)
		r.Host = "host-500.example.com"
		start := time.Now()
		res, err := client.Do(r)
		if err != nil {
			b.Error(err)
			return 0
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b.Errorf("%s: %s", url, res.Status)
		}
		return time.Since(start)
	}
	var gateway, reverse atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			reverse.Add(int64(ask(bare.URL)))
			gateway.Add(int64(ask("http://" + at.String())))
		}
	})
	b.ReportMetric(float64(gateway.Load())/float64(b.N), "gateway-ns/req")
	b.ReportMetric(float64(reverse.Load())/float64(b.N), "bare-ns/req")
	b.ReportMetric(float64(reverse.Load())/float64(gateway.Load()), "of-bare")
}

// BenchmarkFind finds a rule among many.
func BenchmarkFind(b *testing.B) {
	at := netip.MustParseAddrPort("127.0.0.1:80")
	t := bigTable(at, at)
	ix := newView([]owned{{"bench", t.Listeners[0]}}, &targets{}).plain
	r := httptest.NewRequest(http.MethodGet, "http://host-500.example.com/app/7/page", nil)
	b.ReportAllocs()
	for b.Loop() {
		if ix.find(&question{request: r, host: hostOf(r), path: r.URL.Path}) == nil {
			b.Fatal("no rule")
		}
	}
}

// BenchmarkSet gives the gateway new endpoints of one of a thousand Services.
func BenchmarkSet(b *testing.B) {
	p := New(Config{})
	at, err := freeAddress()
	if err != nil {
		b.Fatal(err)
	}
	t := bigTable(at, at)
	p.Set("bench", t)
	defer p.Set("bench", nil)
	for b.Loop() {
		next := &table.Table{Listeners: t.Listeners, Services: map[string]*table.Service{}}
		for name, s := range t.Services {
			next.Services[name] = s
		}
		next.Services["s-1"] = &table.Service{Endpoints: []netip.AddrPort{at}}
		p.Set("bench", next)
	}
}

func freeAddress() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// bigTable has a thousand hosts, each with ten paths.
func bigTable(at, endpoint netip.AddrPort) *table.Table {
	l := &table.Listener{Gateway: "g", Name: "l", Bind: at, Protocol: table.HTTP}
	t := &table.Table{Listeners: []*table.Listener{l}, Services: map[string]*table.Service{}}
	for i := range 1000 {
		service := fmt.Sprint("s-", i)
		t.Services[service] = &table.Service{Name: service, Endpoints: []netip.AddrPort{endpoint}}
		r := &table.Route{Name: fmt.Sprint("ns/", i), Hostnames: []string{fmt.Sprintf("host-%d.example.com", i)}}
		for j := range 10 {
			r.Rules = append(r.Rules, &table.Rule{Matches: []table.Match{{Path: prefix(fmt.Sprint("/app/", j))}}, Backends: to(service)})
		}
		l.Routes = append(l.Routes, r)
	}
	return t
}
