// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// gateway is a Proxy that runs for a test, with one table.
type gateway struct {
	*Proxy
	t     *testing.T
	table table.Table
	at    netip.AddrPort // where its listeners are
}

func newGateway(t *testing.T, cfg Config) *gateway {
	g := &gateway{Proxy: New(cfg), t: t, at: freePort(t), table: table.Table{Services: map[string]*table.Service{}}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return g
}

func freePort(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// set gives a new table to the proxy, which is the old one with changes.
func (g *gateway) set(change func(*table.Table)) {
	g.t.Helper()
	next := table.Table{Services: map[string]*table.Service{}}
	for name, s := range g.table.Services {
		next.Services[name] = s
	}
	next.Listeners = append(next.Listeners, g.table.Listeners...)
	change(&next)
	g.table = next
	if failed := g.Set("test", &next); len(failed) > 0 {
		g.t.Fatalf("sockets: %v", failed)
	}
}

// serve makes one listener with one route of the given rules.
func (g *gateway) serve(protocol table.Protocol, rules ...*table.Rule) *table.Listener {
	g.t.Helper()
	l := &table.Listener{
		Gateway: "g", Name: "l", Bind: g.at, Protocol: protocol,
		Routes: []*table.Route{{Name: "ns/route", Hostnames: []string{""}, Rules: rules}},
	}
	g.set(func(t *table.Table) { t.Listeners = []*table.Listener{l} })
	return l
}

// service makes endpoints known.
func (g *gateway) service(name string, protocol table.AppProtocol, endpoints ...netip.AddrPort) {
	g.t.Helper()
	g.set(func(t *table.Table) {
		t.Services[name] = &table.Service{Name: name, Protocol: protocol, Endpoints: endpoints}
	})
}

func (g *gateway) url(path string) string { return "http://" + g.at.String() + path }

// client speaks HTTP/1.1.
func client() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
}

// h2c speaks HTTP/2 in clear.
func h2c() *http.Client {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: 30 * time.Second}
}

// backend runs a server on loopback.
func backend(t *testing.T, handler http.HandlerFunc) netip.AddrPort {
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).AddrPort()
}

// says is a backend that answers with its name.
func says(t *testing.T, name string) netip.AddrPort {
	return backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

func to(service string) []table.Backend { return []table.Backend{{Service: service, Weight: 1}} }

// get returns status and body.
func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestForward(t *testing.T) {
	g := newGateway(t, Config{})
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.Host, " ", r.RequestURI, " ", r.ContentLength, " ", string(body)))
		for _, name := range []string{"For", "Host", "Proto", "Port"} {
			w.Header().Add("X-Forwarded-Seen", r.Header.Get("X-Forwarded-"+name))
		}
		w.Header().Set("X-Secret-Seen", r.Header.Get("X-Secret")+r.Header.Get("Connection")+r.Header.Get("Keep-Alive"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "tea")
	}))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(), "h2c": h2c()} {
		r, _ := http.NewRequest("PUT", g.url("/a%2Fb//c?q=%20x"), strings.NewReader("body"))
		r.Host = "web.example.com:81"
		r.Header.Set("X-Forwarded-For", "1.2.3.4")
		r.Header.Set("X-Forwarded-Host", "evil")
		r.Header.Set("X-Secret", "for the gateway only")
		if name == "HTTP/1.1" {
			r.Header.Set("Connection", "X-Secret")
		} else {
			r.Header.Del("X-Secret")
		}
		res, err := c.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusTeapot || string(body) != "tea" {
			t.Errorf("%s: %s %q", name, res.Status, body)
		}
		if got, want := res.Header.Get("X-Seen"), "PUT web.example.com:81 /a%2Fb//c?q=%20x 4 body"; got != want {
			t.Errorf("%s: the backend saw %q, want %q", name, got, want)
		}
		if got, want := strings.Join(res.Header["X-Forwarded-Seen"], " "), fmt.Sprint("127.0.0.1 web.example.com:81 http ", g.at.Port()); got != want {
			t.Errorf("%s: X-Forwarded %q, want %q", name, got, want)
		}
		if got := res.Header.Get("X-Secret-Seen"); got != "" {
			t.Errorf("%s: hop-by-hop headers reached the backend: %q", name, got)
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	g := newGateway(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Forwarded-Proto"))
	}))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	r, _ := http.NewRequest("GET", g.url("/"), nil)
	r.Header.Set("X-Forwarded-For", "1.2.3.4")
	r.Header.Set("X-Forwarded-Proto", "https")
	res, err := client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "1.2.3.4, 127.0.0.1 https" {
		t.Errorf("the backend saw %q", body)
	}
}

func TestErrors(t *testing.T) {
	g := newGateway(t, Config{})
	path := func(p string, r *table.Rule) *table.Rule {
		r.Matches = []table.Match{{Path: prefix(p)}}
		return r
	}
	g.service("empty", "")
	g.service("dead", "", freePort(t))
	g.service("s", "", says(t, "s"))
	g.serve(table.HTTP,
		path("/none", &table.Rule{}),
		path("/invalid", &table.Rule{Backends: []table.Backend{{Weight: 1, Invalid: true}}}),
		path("/zero", &table.Rule{Backends: []table.Backend{{Service: "s"}}}),
		path("/empty", &table.Rule{Backends: to("empty")}),
		path("/missing", &table.Rule{Backends: to("missing")}),
		path("/dead", &table.Rule{Backends: to("dead")}),
		path("/fine", &table.Rule{Backends: to("s")}),
	)
	for path, want := range map[string]int{
		"/": 404, "/none": 500, "/invalid": 500, "/zero": 500, "/empty": 503, "/missing": 503, "/dead": 502, "/fine": 200, "/x/..%2f": 400,
	} {
		if got, _ := get(t, client(), g.url(path)); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// A Service gets its first endpoints, and loses them, with no change of listeners.
func TestEndpointsChange(t *testing.T) {
	g := newGateway(t, Config{})
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	for _, step := range []struct {
		endpoints []netip.AddrPort
		code      int
		body      string
	}{{nil, 503, "the backend has no endpoints\n"}, {[]netip.AddrPort{says(t, "a")}, 200, "a"}, {[]netip.AddrPort{says(t, "b")}, 200, "b"}, {nil, 503, "the backend has no endpoints\n"}} {
		g.service("s", "", step.endpoints...)
		if code, body := get(t, client(), g.url("/")); code != step.code || body != step.body {
			t.Errorf("with endpoints %v: %d %q, want %d %q", step.endpoints, code, body, step.code, step.body)
		}
	}
}

// An endpoint that cannot be connected to has not seen the request: others are asked, whatever the method.
func TestDeadEndpointIsPassedOver(t *testing.T) {
	g := newGateway(t, Config{})
	g.service("s", "", freePort(t), backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	for range 10 {
		res, err := client().Post(g.url("/"), "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 200 || string(body) != "hello" {
			t.Fatalf("%s %q", res.Status, body)
		}
	}
}

func TestWeights(t *testing.T) {
	g := newGateway(t, Config{})
	g.service("a", "", says(t, "a"))
	g.service("b", "", says(t, "b"))
	g.service("c", "", says(t, "c"))
	g.serve(table.HTTP, &table.Rule{Backends: []table.Backend{{Service: "a", Weight: 70}, {Service: "b", Weight: 30}, {Service: "c"}}})
	c, counts := client(), map[string]int{}
	const n = 1000
	for range n {
		_, body := get(t, c, g.url("/"))
		counts[body]++
	}
	// 8 standard deviations: a test that fails once in 10^15 runs.
	if a := counts["a"]; a < 700-116 || a > 700+116 || a+counts["b"] != n {
		t.Errorf("answers: %v, want a and b at 700 to 300", counts)
	}
}

func TestClientIPAffinity(t *testing.T) {
	g := newGateway(t, Config{})
	s := &table.Service{ClientIP: true, Endpoints: []netip.AddrPort{says(t, "a"), says(t, "b"), says(t, "c")}}
	g.set(func(t *table.Table) { t.Services["s"] = s })
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	_, first := get(t, client(), g.url("/"))
	for range 10 {
		if _, body := get(t, client(), g.url("/")); body != first {
			t.Fatalf("%s answered after %s", body, first)
		}
	}
}

func TestFilters(t *testing.T) {
	g := newGateway(t, Config{})
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", "yes")
		w.Header().Set("X-Old", "backend")
		_, _ = fmt.Fprintf(w, "%s %s set=%s add=%s gone=%s own=%s", r.Host, r.RequestURI, r.Header.Get("X-Set"), r.Header.Get("X-Add"), r.Header.Get("X-Gone"), r.Header.Get("X-Own"))
	}))
	g.serve(table.HTTP, &table.Rule{
		Matches: []table.Match{{Path: prefix("/old")}},
		Filters: table.Filters{
			RequestHeaders:  &table.HeaderFilter{Set: []table.Header{{Name: "x-set", Value: "new"}}, Add: []table.Header{{Name: "x-add", Value: "more"}}, Remove: []string{"x-gone"}},
			ResponseHeaders: &table.HeaderFilter{Set: []table.Header{{Name: "X-Old", Value: "rule"}}, Remove: []string{"X-Backend"}},
			Rewrite:         &table.Rewrite{Hostname: "inside", Path: &table.PathModifier{Prefix: true, Replacement: "/new"}},
		},
		Backends: []table.Backend{{
			Service: "s", Weight: 1,
			RequestHeaders:  &table.HeaderFilter{Set: []table.Header{{Name: "X-Own", Value: "backend"}}},
			ResponseHeaders: &table.HeaderFilter{Add: []table.Header{{Name: "X-Old", Value: "share"}}},
		}},
	})
	r, _ := http.NewRequest("GET", g.url("/old/a?q=1"), nil)
	r.Header = http.Header{"X-Set": {"old"}, "X-Add": {"one"}, "X-Gone": {"1"}}
	res, err := client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if want := "inside /new/a?q=1 set=new add=one,more gone= own=backend"; string(body) != want {
		t.Errorf("the backend saw %q, want %q", body, want)
	}
	if got := res.Header; got.Get("X-Old") != "rule,share" || got.Get("X-Backend") != "" {
		t.Errorf("the client saw %v", got)
	}
}

func TestRedirect(t *testing.T) {
	g := newGateway(t, Config{})
	for _, test := range []struct {
		port     uint16
		redirect table.Redirect
		want     string
	}{
		{80, table.Redirect{Hostname: "other.org", Status: 301}, "http://other.org/old/a?q=1"},
		{8080, table.Redirect{Status: 302}, "http://web:8080/old/a?q=1"},
		{8080, table.Redirect{Scheme: "https", Status: 302}, "https://web/old/a?q=1"},
		{8080, table.Redirect{Scheme: "https", Port: 8443, Status: 308}, "https://web:8443/old/a?q=1"},
		{8080, table.Redirect{Port: 80, Status: 307}, "http://web/old/a?q=1"},
		{80, table.Redirect{Path: &table.PathModifier{Replacement: "/new"}, Status: 303}, "http://web/new?q=1"},
		{80, table.Redirect{Path: &table.PathModifier{Prefix: true, Replacement: "/new"}, Status: 302}, "http://web/new/a?q=1"},
	} {
		l := g.serve(table.HTTP, &table.Rule{Matches: []table.Match{{Path: prefix("/old")}}, Filters: table.Filters{Redirect: &test.redirect}})
		l2 := *l
		l2.Port = test.port
		g.set(func(t *table.Table) { t.Listeners = []*table.Listener{&l2} })
		r, _ := http.NewRequest("GET", g.url("/old/a?q=1"), nil)
		r.Host = "web"
		res, err := client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Location"); got != test.want || res.StatusCode != test.redirect.Status {
			t.Errorf("%+v on port %d: %s %s, want %s", test.redirect, test.port, res.Status, got, test.want)
		}
	}
}

func TestCORS(t *testing.T) {
	g := newGateway(t, Config{})
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "backend")
		_, _ = io.WriteString(w, r.Method)
	}))
	ask := func(method, origin string, cors table.CORS) *http.Response {
		g.serve(table.HTTP, &table.Rule{Filters: table.Filters{CORS: &cors}, Backends: to("s")})
		r, _ := http.NewRequest(method, g.url("/"), nil)
		r.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", "PUT")
			r.Header.Set("Access-Control-Request-Headers", "x-a, x-b")
		}
		res, err := client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	strict := table.CORS{AllowOrigins: []string{"https://a.org"}, AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"x-a"}, ExposeHeaders: []string{"x-e"}, MaxAge: time.Hour}
	loose := table.CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}, AllowCredentials: true}
	for _, test := range []struct {
		method, origin string
		cors           table.CORS
		code           int
		want           map[string]string
	}{
		{"OPTIONS", "https://a.org", strict, 204, map[string]string{"Allow-Origin": "https://a.org", "Allow-Methods": "GET, PUT", "Allow-Headers": "x-a", "Expose-Headers": "x-e", "Max-Age": "3600"}},
		{"OPTIONS", "https://b.org", strict, 204, map[string]string{}},
		{"GET", "https://a.org", strict, 200, map[string]string{"Allow-Origin": "https://a.org", "Expose-Headers": "x-e"}},
		{"GET", "https://b.org", strict, 200, map[string]string{}},
		{"OPTIONS", "https://b.org", loose, 204, map[string]string{"Allow-Origin": "https://b.org", "Allow-Methods": "PUT", "Allow-Headers": "x-a, x-b", "Allow-Credentials": "true", "Max-Age": "5"}},
		{"GET", "https://b.org", loose, 200, map[string]string{"Allow-Origin": "https://b.org", "Allow-Credentials": "true"}},
	} {
		res := ask(test.method, test.origin, test.cors)
		got := map[string]string{}
		for name := range res.Header {
			if rest, ok := strings.CutPrefix(name, "Access-Control-"); ok {
				got[rest] = res.Header.Get(name)
			}
		}
		if res.StatusCode != test.code || fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s from %s: %d %v, want %d %v", test.method, test.origin, res.StatusCode, got, test.code, test.want)
		}
	}
}

// Mirrors get what the backend gets, and nobody waits for them.
func TestMirror(t *testing.T) {
	g := newGateway(t, Config{})
	seen, hold := make(chan string, 10), make(chan struct{})
	g.service("s", "", backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	g.service("m", "", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen <- fmt.Sprint(r.Method, " ", r.Host, " ", r.RequestURI, " ", string(body), " ", r.Header.Get("X-Set"))
		<-hold
	}))
	defer close(hold)
	g.serve(table.HTTP, &table.Rule{Backends: to("s"), Filters: table.Filters{
		RequestHeaders: &table.HeaderFilter{Set: []table.Header{{Name: "X-Set", Value: "yes"}}},
		Mirrors:        []table.Mirror{{Service: "m"}, {Service: "m", Numerator: 0, Denominator: 1}, {Service: "nowhere"}},
	}})
	for _, test := range []struct{ method, body, want string }{{"GET", "", "GET web /x?q  yes"}, {"POST", "hello", "POST web /x?q hello yes"}} {
		r, _ := http.NewRequest(test.method, g.url("/x?q"), strings.NewReader(test.body))
		r.Host = "web"
		res, err := client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		select {
		case got := <-seen:
			if got != test.want {
				t.Errorf("mirrored: %q, want %q", got, test.want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: nothing was mirrored", test.method)
		}
	}
	select {
	case got := <-seen:
		t.Errorf("mirrored once more: %q", got)
	default:
	}
}

func TestTimeouts(t *testing.T) {
	g := newGateway(t, Config{})
	var calls sync.Map // path to *atomic.Int32
	g.service("slow", "", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		count, _ := calls.LoadOrStore(r.URL.Path, new(atomic.Int32))
		count.(*atomic.Int32).Add(1)
		<-r.Context().Done()
	}))
	g.service("fast", "", says(t, "fast"))
	const short = time.Second // for an attempt to reach the backend, however busy the machine is
	path := func(p string, r *table.Rule) *table.Rule {
		r.Matches = []table.Match{{Path: prefix(p)}}
		return r
	}
	g.serve(table.HTTP,
		path("/request", &table.Rule{Backends: to("slow"), RequestTimeout: short}),
		path("/backend", &table.Rule{Backends: to("slow"), BackendTimeout: short}),
		path("/retry", &table.Rule{Backends: to("slow"), BackendTimeout: short, Retry: &table.Retry{Attempts: 2, Backoff: time.Millisecond}}),
		path("/both", &table.Rule{Backends: to("slow"), RequestTimeout: short, BackendTimeout: time.Minute, Retry: &table.Retry{Backoff: time.Hour}}),
		path("/fast", &table.Rule{Backends: to("fast"), RequestTimeout: time.Minute, BackendTimeout: time.Minute}),
	)
	var clients sync.WaitGroup
	for path, want := range map[string]struct {
		code  int
		calls int32
	}{"/request": {504, 1}, "/backend": {504, 1}, "/retry": {504, 3}, "/both": {504, 1}, "/fast": {200, 0}} {
		clients.Go(func() {
			res, err := client().Get(g.url(path))
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
			count, _ := calls.LoadOrStore(path, new(atomic.Int32))
			if n := count.(*atomic.Int32).Load(); res.StatusCode != want.code || n != want.calls {
				t.Errorf("%s: %s after %d calls, want %d after %d", path, res.Status, n, want.code, want.calls)
			}
		})
	}
	clients.Wait()
}

func TestRetry(t *testing.T) {
	g := newGateway(t, Config{})
	var calls atomic.Int32
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch n := calls.Add(1); {
		case n == 1 && r.URL.Path == "/cut":
			panic(http.ErrAbortHandler)
		case n == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			_, _ = fmt.Fprint(w, n, string(body))
		}
	}))
	retry := &table.Rule{Backends: to("s"), Retry: &table.Retry{Codes: []int{503}, Backoff: time.Millisecond}}
	for _, test := range []struct {
		path, body string
		rule       *table.Rule
		code       int
		want       string
	}{
		{"/", "", retry, 200, "2"},
		{"/", "hello", retry, 200, "2hello"},
		{"/cut", "hello", retry, 200, "2hello"},
		{"/", "", &table.Rule{Backends: to("s")}, 503, ""},
		{"/", strings.Repeat("x", maxReplay+1), retry, 503, ""},
	} {
		calls.Store(0)
		g.serve(table.HTTP, test.rule)
		res, err := client().Post(g.url(test.path), "text/plain", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != test.code || string(body) != test.want {
			t.Errorf("%s with %d bytes: %s %.10q, want %d %q", test.path, len(test.body), res.Status, body, test.code, test.want)
		}
	}
}

// While tables change, sockets come and go, and endpoints move, no request on a socket that stays fails.
func TestSwapDropsNothing(t *testing.T) {
	g := newGateway(t, Config{})
	a, b := says(t, "a"), says(t, "b")
	g.service("s", "", a)
	l := g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var answered atomic.Int32
	for range 4 {
		clients.Go(func() {
			c := client()
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := c.Get(g.url("/"))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("answer %s", res.Status)
				}
				answered.Add(1)
			}
		})
	}
	other := freePort(t)
	for i := range 100 {
		g.service("s", "", []netip.AddrPort{a, b}[i%2])
		g.set(func(t *table.Table) {
			same := *l // another pointer: the view is made anew
			t.Listeners = []*table.Listener{&same}
			if i%3 == 0 {
				t.Listeners = append(t.Listeners, &table.Listener{Gateway: "h", Bind: other, Protocol: table.HTTP})
			}
		})
	}
	for deadline := time.Now().Add(30 * time.Second); answered.Load() < 100 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	clients.Wait()
	if answered.Load() < 100 {
		t.Errorf("%d answers", answered.Load())
	}
}

// A request under way ends well although its listener goes; new connections are refused.
func TestDrain(t *testing.T) {
	g := newGateway(t, Config{DrainTimeout: time.Minute})
	entered, leave := make(chan struct{}), make(chan struct{})
	g.service("s", "", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "done")
	}))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	answer := make(chan string, 1)
	go func() {
		res, err := client().Get(g.url("/"))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answer <- string(body)
	}()
	<-entered
	g.set(func(t *table.Table) { t.Listeners = nil })
	if conn, err := net.Dial("tcp", g.at.String()); err == nil {
		_ = conn.Close()
		t.Error("the socket still takes connections")
	}
	close(leave)
	if got := <-answer; got != "done" {
		t.Errorf("the request under way ended with %q", got)
	}
}

func TestPortInUse(t *testing.T) {
	g := newGateway(t, Config{})
	l, err := net.Listen("tcp", g.at.String())
	if err != nil {
		t.Fatal(err)
	}
	tab := &table.Table{Listeners: []*table.Listener{{Gateway: "g", Bind: g.at, Protocol: table.HTTP}}}
	if failed := g.Set("test", tab); failed[g.at] == nil || !strings.Contains(failed[g.at].Error(), "address already in use") {
		t.Errorf("Set: %v, want address already in use", failed)
	}
	_ = l.Close()
	if failed := g.Set("test", tab); len(failed) > 0 {
		t.Errorf("Set once the port was free: %v", failed)
	}
}

func TestUpgrade(t *testing.T) {
	g := newGateway(t, Config{})
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	}))
	// Timeouts are for requests; what is upgraded lasts.
	g.serve(table.HTTP, &table.Rule{Backends: to("s"), RequestTimeout: 2 * time.Second, BackendTimeout: 2 * time.Second})
	conn, err := net.Dial("tcp", g.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", res, err)
	}
	for _, line := range []string{"one\n", "two\n"} {
		_, _ = io.WriteString(conn, line)
		if got, err := reader.ReadString('\n'); got != line {
			t.Fatalf("echo of %q: %q %v", line, got, err)
		}
		time.Sleep(2500 * time.Millisecond) // longer than the timeouts
	}
}

// An answer is passed on as it comes.
func TestStreaming(t *testing.T) {
	g := newGateway(t, Config{})
	next := make(chan struct{})
	g.service("s", "", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = io.WriteString(w, "data\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	res, err := client().Get(g.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for range 3 {
		if line, err := lines.ReadString('\n'); line != "data\n" {
			t.Fatalf("%q %v", line, err)
		}
		next <- struct{}{}
	}
}

// Requests that two servers might understand differently.
func TestSmuggling(t *testing.T) {
	g := newGateway(t, Config{})
	var seen atomic.Int32
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s.", r.Host, r.RequestURI, body)
	}))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	for name, test := range map[string]struct {
		request, want string
		seen          int32
	}{
		"two lengths":              {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400", 0},
		"length and chunks":        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n", "x / a.", 1},
		"an odd encoding":          {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, x\r\n\r\n1\r\na\r\n0\r\n\r\n", "501", 0},
		"a space before the colon": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400", 0},
		"a folded header":          {"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nConnection: close\r\n\r\n", "", -1},
		"two hosts":                {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "400", 0},
		"no host":                  {"GET / HTTP/1.1\r\n\r\n", "400", 0},
		"an absolute URI":          {"GET http://y/z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "y /z .", 1},
		"CONNECT":                  {"CONNECT y:80 HTTP/1.1\r\nHost: y:80\r\n\r\n", "405", 0},
		"OPTIONS *":                {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "400", 0},
		"huge headers":             {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", maxHeaderBytes+8192) + "\r\n\r\n", "431", 0},
		"a huge URI":               {"GET /" + strings.Repeat("a", maxHeaderBytes+8192) + " HTTP/1.1\r\nHost: x\r\n\r\n", "431", 0},
		"a dot path":               {"GET /a/../b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "x /b .", 1},
	} {
		seen.Store(0)
		conn, err := net.Dial("tcp", g.at.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		go func() { _, _ = io.WriteString(conn, test.request) }()
		reader := bufio.NewReader(conn)
		res, err := http.ReadResponse(reader, nil)
		if err != nil {
			if !strings.Contains(name, "huge") || seen.Load() > 0 { // who speaks on when nobody listens may be cut off before reading why
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		body, _ := io.ReadAll(res.Body)
		if test.want != "" && string(body) != test.want && fmt.Sprint(res.StatusCode) != test.want {
			t.Errorf("%s: %s %q, want %q", name, res.Status, body, test.want)
		}
		if test.seen >= 0 && seen.Load() != test.seen {
			t.Errorf("%s: the backend saw %d requests, want %d", name, seen.Load(), test.seen)
		}
		_ = conn.Close()
	}
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{pool: x509.NewCertPool()}
	c := a.issue(t, "the authority")
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t *testing.T, names ...string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, parent, signer = true, template, key
		template.ExtKeyUsage = nil
	} else {
		for _, name := range names {
			if u, err := url.Parse(name); err == nil && u.Scheme != "" {
				template.URIs = append(template.URIs, u)
			} else {
				template.DNSNames = append(template.DNSNames, name)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// over is a client that reaches the gateway under any name, and speaks HTTP/2 if it can.
func (g *gateway) over(a *authority, change func(*tls.Config)) *http.Client {
	config := &tls.Config{RootCAs: a.pool}
	if change != nil {
		change(config)
	}
	c := client()
	c.Transport = &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", g.at.String())
		},
	}
	return c
}

func TestHTTPS(t *testing.T) {
	g, a := newGateway(t, Config{}), newAuthority(t)
	g.service("s", "", backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Host, " ", r.Header.Get("X-Forwarded-Proto"))
	}))
	on := func(hostname string, certs ...*tls.Certificate) *table.Listener {
		return &table.Listener{
			Gateway: "g", Name: hostname, Bind: g.at, Protocol: table.HTTPS, Hostname: hostname, TLS: &table.ServerTLS{Certificates: certs},
			Routes: []*table.Route{{Name: "r", Hostnames: []string{hostname}, Rules: []*table.Rule{{Backends: to("s")}}}},
		}
	}
	named := on("", a.issue(t, "default.org"))
	named.TLS.ByName = map[string][]*tls.Certificate{"*.named.org": {a.issue(t, "*.named.org")}}
	g.set(func(tab *table.Table) {
		tab.Listeners = []*table.Listener{on("a.org", a.issue(t, "a.org")), on("*.b.org", a.issue(t, "*.b.org")), on("nocert.org"), named}
	})
	c := g.over(a, nil)
	for _, host := range []string{"a.org", "x.b.org", "default.org", "y.named.org"} {
		res, err := c.Get("https://" + host + "/")
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.ProtoMajor != 2 || string(body) != host+" https" {
			t.Errorf("%s: %s %q, want HTTP/2 and its name", host, res.Proto, body)
		}
	}
	if _, err := c.Get("https://nocert.org/"); err == nil {
		t.Error("a listener without a certificate answered")
	}
	// A request on a connection that was made for another listener.
	r, _ := http.NewRequest("GET", "https://a.org/", nil)
	r.Host = "x.b.org"
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("x.b.org on a connection for a.org: %s, want 421", res.Status)
	}
}

// A new certificate is used by the next connection, and those there are stay.
func TestCertificateReload(t *testing.T) {
	g, a := newGateway(t, Config{}), newAuthority(t)
	g.service("s", "", says(t, "s"))
	l := g.serve(table.HTTPS, &table.Rule{Backends: to("s")})
	serial := func(c *http.Client) string {
		res, err := c.Get("https://a.org/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		return res.TLS.PeerCertificates[0].SerialNumber.String()
	}
	use := func(cert *tls.Certificate) {
		next := *l
		next.TLS = &table.ServerTLS{Certificates: []*tls.Certificate{cert}}
		g.set(func(t *table.Table) { t.Listeners = []*table.Listener{&next} })
	}
	first, second := a.issue(t, "a.org"), a.issue(t, "a.org")
	use(first)
	old := g.over(a, nil)
	if serial(old) != first.Leaf.SerialNumber.String() {
		t.Error("the first certificate is not in use")
	}
	use(second)
	if serial(g.over(a, nil)) != second.Leaf.SerialNumber.String() {
		t.Error("the second certificate is not in use")
	}
	if serial(old) != first.Leaf.SerialNumber.String() {
		t.Error("the connection from before was not used any more")
	}
}

func TestClientCertificates(t *testing.T) {
	g, a, stranger := newGateway(t, Config{}), newAuthority(t), newAuthority(t)
	g.service("s", "", says(t, "s"))
	l := g.serve(table.HTTPS, &table.Rule{Backends: to("s")})
	for _, lax := range []bool{false, true} {
		next := *l
		next.TLS = &table.ServerTLS{Certificates: []*tls.Certificate{a.issue(t, "a.org")}, ClientCAs: a.pool, AllowInsecureClients: lax}
		g.set(func(t *table.Table) { t.Listeners = []*table.Listener{&next} })
		for name, test := range map[string]struct {
			cert *tls.Certificate
			want bool
		}{"none": {nil, lax}, "valid": {a.issue(t, "me"), true}, "a stranger's": {stranger.issue(t, "me"), lax}} {
			c := g.over(a, func(config *tls.Config) {
				if test.cert != nil {
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return test.cert, nil }
				}
			})
			res, err := c.Get("https://a.org/")
			if err == nil {
				_ = res.Body.Close()
			}
			if (err == nil) != test.want {
				t.Errorf("client certificate %s, insecure allowed %v: %v", name, lax, err)
			}
		}
	}
}

// Who must show a certificate for a host cannot come in by the connection for another one.
func TestClientCertificateIsNotAvoided(t *testing.T) {
	g, a := newGateway(t, Config{}), newAuthority(t)
	g.service("s", "", says(t, "s"))
	on := func(hostname string, server *table.ServerTLS) *table.Listener {
		return &table.Listener{
			Gateway: hostname, Name: "l", Bind: g.at, Protocol: table.HTTPS, Hostname: hostname, TLS: server,
			Routes: []*table.Route{{Name: "r", Hostnames: []string{hostname}, Rules: []*table.Rule{{Backends: to("s")}}}},
		}
	}
	g.set(func(tab *table.Table) {
		tab.Listeners = []*table.Listener{
			on("", &table.ServerTLS{Certificates: []*tls.Certificate{a.issue(t, "open.org")}}),
			on("secret.org", &table.ServerTLS{Certificates: []*tls.Certificate{a.issue(t, "secret.org")}, ClientCAs: a.pool}),
		}
	})
	for url, want := range map[string]int{"https://open.org/": 421, "https://127.0.0.1/": 421} { // an address is no server name
		c := g.over(a, func(config *tls.Config) { config.InsecureSkipVerify = true })
		r, _ := http.NewRequest("GET", url, nil)
		r.Host = "secret.org"
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("secret.org on the connection of %s: %s, want %d", url, res.Status, want)
		}
	}
}

func TestBackendTLS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Proto, " ", r.TLS.ServerName, " ", len(r.TLS.PeerCertificates))
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*a.issue(t, "inside.org", "spiffe://cluster/inside")}, ClientAuth: tls.RequestClientCert}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	g := newGateway(t, Config{})
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	for name, test := range map[string]struct {
		config table.ClientTLS
		want   string
	}{
		"valid":            {table.ClientTLS{ServerName: "inside.org", Roots: a.pool}, "HTTP/2.0 inside.org 0"},
		"own certificate":  {table.ClientTLS{ServerName: "inside.org", Roots: a.pool, Certificate: a.issue(t, "gateway")}, "HTTP/2.0 inside.org 1"},
		"another name":     {table.ClientTLS{ServerName: "outside.org", Roots: a.pool}, ""},
		"another root":     {table.ClientTLS{ServerName: "inside.org", Roots: stranger.pool}, ""},
		"alternative name": {table.ClientTLS{ServerName: "sni.org", SubjectAltNames: []string{"x.org", "inside.org"}, Roots: a.pool}, "HTTP/2.0 sni.org 0"},
		"alternative URI":  {table.ClientTLS{ServerName: "sni.org", SubjectAltNames: []string{"spiffe://cluster/inside"}, Roots: a.pool}, "HTTP/2.0 sni.org 0"},
		"none of them":     {table.ClientTLS{ServerName: "inside.org", SubjectAltNames: []string{"x.org"}, Roots: a.pool}, ""},
		"SAN, other root":  {table.ClientTLS{ServerName: "inside.org", SubjectAltNames: []string{"inside.org"}, Roots: stranger.pool}, ""},
		"insecure":         {table.ClientTLS{Insecure: true}, "HTTP/2.0  0"},
	} {
		g.set(func(tab *table.Table) {
			tab.Services["s"] = &table.Service{TLS: &test.config, Endpoints: []netip.AddrPort{server.Listener.Addr().(*net.TCPAddr).AddrPort()}}
		})
		code, body := get(t, client(), g.url("/"))
		if test.want == "" && code != 502 || test.want != "" && body != test.want {
			t.Errorf("%s: %d %q, want %q", name, code, body, test.want)
		}
	}
}

// TLS is told apart by server name: passed through, ended here, or HTTPS, all on one socket.
func TestTLSStreams(t *testing.T) {
	g, a := newGateway(t, Config{}), newAuthority(t)
	echo := func(config *tls.Config) netip.AddrPort {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if config != nil {
			l = tls.NewListener(l, config)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
					_, _ = io.WriteString(conn, "!")
				}()
			}
		}()
		address, _ := netip.ParseAddrPort(l.Addr().String())
		return address
	}
	own := a.issue(t, "pass.org")
	g.service("pass", "", echo(&tls.Config{Certificates: []tls.Certificate{*own}}))
	g.service("end", "", freePort(t), echo(nil)) // one of its endpoints is dead
	g.service("web", "", says(t, "web"))
	on := func(name string, protocol table.Protocol, hostname string, server *table.ServerTLS, streams ...*table.Stream) *table.Listener {
		return &table.Listener{Gateway: "g", Name: name, Bind: g.at, Protocol: protocol, Hostname: hostname, TLS: server, Streams: streams}
	}
	https := on("https", table.HTTPS, "", &table.ServerTLS{Certificates: []*tls.Certificate{a.issue(t, "web.org")}})
	https.Routes = []*table.Route{{Name: "r", Hostnames: []string{""}, Rules: []*table.Rule{{Backends: to("web")}}}}
	ended := a.issue(t, "*.end.org")
	g.set(func(tab *table.Table) {
		tab.Listeners = []*table.Listener{
			https,
			on("pass", table.TLS, "pass.org", &table.ServerTLS{Passthrough: true}, &table.Stream{Hostnames: []string{"pass.org"}, Backends: to("pass")}),
			on("end", table.TLS, "*.end.org", &table.ServerTLS{Certificates: []*tls.Certificate{ended}}, &table.Stream{Hostnames: []string{"a.end.org"}, Backends: to("end")}),
		}
	})
	for name, cert := range map[string]*tls.Certificate{"pass.org": own, "a.end.org": ended} {
		conn, err := tls.Dial("tcp", g.at.String(), &tls.Config{ServerName: name, RootCAs: a.pool})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(conn, "hello")
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "hello!" {
			t.Errorf("%s: %q %v, want the end of what was said passed on both ways", name, got, err)
		}
		if !conn.ConnectionState().PeerCertificates[0].Equal(cert.Leaf) {
			t.Errorf("%s: the certificate is another's", name)
		}
		_ = conn.Close()
	}
	res, err := g.over(a, nil).Get("https://web.org/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
}

func TestTCPAndUDP(t *testing.T) {
	g := newGateway(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = packets.Close() })
	go func() {
		buffer := make([]byte, 100)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buffer[:n], from)
		}
	}()
	for _, protocol := range []table.Protocol{table.TCP, table.UDP} {
		endpoint := l.Addr().(*net.TCPAddr).AddrPort()
		if protocol == table.UDP {
			endpoint = packets.LocalAddr().(*net.UDPAddr).AddrPort()
		}
		g.service("s", "", endpoint)
		g.set(func(tab *table.Table) {
			tab.Listeners = []*table.Listener{{Gateway: "g", Bind: g.at, Protocol: protocol, Streams: []*table.Stream{{Backends: to("s")}}}}
		})
		conn, err := net.Dial(strings.ToLower(string(protocol)), g.at.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		for _, said := range []string{"one", "two"} {
			_, _ = io.WriteString(conn, said)
			got := make([]byte, 3)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != said {
				t.Errorf("%s: echo of %q is %q, %v", protocol, said, got, err)
			}
		}
		_ = conn.Close()
	}
}

// Connections beyond the limit wait, and get their turn.
func TestMaxConnections(t *testing.T) {
	g := newGateway(t, Config{MaxConnections: 1})
	g.service("s", "", says(t, "s"))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	first := client()
	if code, _ := get(t, first, g.url("/")); code != 200 {
		t.Fatalf("%d", code)
	}
	second := client()
	second.Timeout = 200 * time.Millisecond
	if _, err := second.Get(g.url("/")); err == nil {
		t.Error("a second connection was served beside the first")
	}
	first.CloseIdleConnections()
	if code, _ := get(t, client(), g.url("/")); code != 200 {
		t.Errorf("after the first connection: %d", code)
	}
}

// A client that goes is not waited for, and neither is what the backend does for it.
func TestClientGone(t *testing.T) {
	g := newGateway(t, Config{})
	entered, gone := make(chan struct{}), make(chan struct{})
	g.service("s", "", backend(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(gone)
	}))
	g.serve(table.HTTP, &table.Rule{Backends: to("s")})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	r, _ := http.NewRequestWithContext(ctx, "GET", g.url("/"), nil)
	if _, err := client().Do(r); !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("the backend still works for a client that went")
	}
}
