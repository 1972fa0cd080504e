// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

func regexpPath(t *testing.T, expression string) table.PathMatch {
	re, err := table.Regexp(expression)
	if err != nil {
		t.Fatal(err)
	}
	return table.PathMatch{Type: table.PathRegexp, Value: expression, Regexp: re}
}

func exact(path string) table.PathMatch  { return table.PathMatch{Type: table.PathExact, Value: path} }
func prefix(path string) table.PathMatch { return table.PathMatch{Type: table.PathPrefix, Value: path} }

func route(name string, age int, hostname string, matches ...table.Match) *table.Route {
	return &table.Route{
		Name: name, Hostnames: []string{hostname}, Created: time.Unix(int64(1000-age), 0),
		Rules: []*table.Rule{{Matches: matches}},
	}
}

func indexOf(listeners ...*table.Listener) *index {
	var all []owned
	for _, l := range listeners {
		l.Protocol = table.HTTP
		all = append(all, owned{"test", l})
	}
	return newView(all, &targets{}).plain
}

// HTTPRouteRule.matches: "Proxy or Load Balancer routing configuration generated from HTTPRoutes MUST prioritize matches".
func TestPrecedence(t *testing.T) {
	head := func(n ...string) (all []table.ValueMatch) {
		for _, name := range n {
			all = append(all, table.ValueMatch{Name: name, Value: "1"})
		}
		return all
	}
	routes := []*table.Route{
		route("any", 9, ""),
		route("wild", 0, "*.example.com"),
		route("longer-wild", 0, "*.b.example.com"),
		route("host", 0, "a.example.com", table.Match{Path: prefix("/host")}),
		route("exact-path", 0, "", table.Match{Path: exact("/paths/exact")}),
		route("regexp", 0, "", table.Match{Path: regexpPath(t, "/paths/r.*")}),
		route("longer-regexp", 0, "", table.Match{Path: regexpPath(t, "/paths/rr.*")}),
		route("prefix", 0, "", table.Match{Path: prefix("/paths")}),
		route("longer-prefix", 0, "", table.Match{Path: prefix("/paths/longer/")}),
		route("method", 0, "", table.Match{Path: prefix("/m"), Method: "PUT"}),
		route("header", 0, "", table.Match{Path: prefix("/m"), Headers: head("x-a")}),
		route("headers", 0, "", table.Match{Path: prefix("/m"), Headers: head("X-A", "x-b")}),
		route("params", 0, "", table.Match{Path: prefix("/m"), Query: head("q")}),
		route("old", 2, "", table.Match{Path: prefix("/age")}),
		route("new", 1, "", table.Match{Path: prefix("/age")}),
		route("b", 1, "", table.Match{Path: prefix("/name")}),
		route("a", 1, "", table.Match{Path: prefix("/name")}),
		route("nonempty", 0, "", table.Match{Path: prefix("/e"), Headers: []table.ValueMatch{{Name: "x-e", Regexp: regexpPath(t, ".+").Regexp}}}),
	}
	ix := indexOf(&table.Listener{Routes: routes})
	for _, test := range []struct{ method, url, headers, want string }{
		{"GET", "http://else.where/", "", "any"},
		{"GET", "http://example.com/", "", "any"},
		{"GET", "http://a.example.com/", "", "wild"},
		{"GET", "http://A.Example.COM:8080/host", "", "host"},
		{"GET", "http://a.example.com/host/b", "", "host"},
		{"GET", "http://a.example.com/hosts", "", "wild"},
		{"GET", "http://c.d.example.com/", "", "wild"},
		{"GET", "http://c.b.example.com/", "", "longer-wild"},
		{"GET", "http://b.example.com/", "", "wild"},
		{"GET", "http://x/paths/exact", "", "exact-path"},
		{"GET", "http://x/paths/exact/", "", "prefix"},
		{"GET", "http://x/paths/r", "", "regexp"},
		{"GET", "http://x/paths/rr", "", "longer-regexp"},
		{"GET", "http://x/paths/longer", "", "longer-prefix"},
		{"GET", "http://x/paths/longer/", "", "longer-prefix"},
		{"GET", "http://x/paths/longer/x", "", "longer-prefix"},
		{"GET", "http://x/paths/longerx", "", "prefix"},
		{"GET", "http://x/Paths", "", "any"},
		{"PUT", "http://x/m", "X-A X-B", "method"},
		{"GET", "http://x/m?q=1", "X-A X-B", "headers"},
		{"GET", "http://x/m?q=1", "X-A", "header"},
		{"GET", "http://x/m?q=1&q=2", "", "params"},
		{"GET", "http://x/m?q=2&q=1", "", "any"},
		{"GET", "http://x/m?Q=1", "", "any"},
		{"GET", "http://x/age", "", "old"},
		{"GET", "http://x/name", "", "a"},
		{"GET", "http://x/e", "X-E", "nonempty"},
		{"GET", "http://x/e", "", "any"},
	} {
		r := httptest.NewRequest(test.method, test.url, nil)
		for _, name := range strings.Fields(test.headers) {
			r.Header.Set(name, "1")
		}
		got := ""
		if e := ix.find(&question{request: r, host: hostOf(r), path: r.URL.Path}); e != nil {
			got = e.route.Name
		}
		if got != test.want {
			t.Errorf("%s %s %s: %q, want %q", test.method, test.url, test.headers, got, test.want)
		}
	}
}

// GEP-3567, Gateway.spec.listeners: "a request is matched to at most one listener", the most specific of the Gateway.
func TestListenersAreIsolated(t *testing.T) {
	bind := netip.MustParseAddrPort("127.0.0.1:80")
	on := func(gateway, hostname string, paths ...string) *table.Listener {
		l := &table.Listener{Gateway: gateway, Name: hostname, Bind: bind, Hostname: hostname}
		for _, p := range paths {
			l.Routes = append(l.Routes, route(gateway+" "+hostname+p, 0, hostname, table.Match{Path: prefix(p)}))
		}
		return l
	}
	ix := indexOf(
		on("g", "", "/any"), on("g", "*.example.com", "/wild"), on("g", "*.a.example.com", "/a"), on("g", "b.example.com", "/b"),
		on("other", "", "/other"),
	)
	for _, test := range []struct{ url, want string }{
		{"http://x/any", "g /any"},
		{"http://x/wild", ""},
		{"http://c.example.com/wild", "g *.example.com/wild"},
		{"http://c.example.com/any", ""},
		{"http://c.a.example.com/a", "g *.a.example.com/a"},
		{"http://c.a.example.com/wild", ""},
		{"http://b.example.com/b", "g b.example.com/b"},
		{"http://b.example.com/wild", ""},
		{"http://b.example.com/any", ""},
		{"http://b.example.com/other", "other /other"},
	} {
		r := httptest.NewRequest(http.MethodGet, test.url, nil)
		got := ""
		if e := ix.find(&question{request: r, host: hostOf(r), path: r.URL.Path}); e != nil {
			got = e.route.Name
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.url, got, test.want)
		}
	}
}

// IngressRule.host: "*.foo.com" matches one label only.
func TestSingleLabel(t *testing.T) {
	r := route("one", 0, "*.example.com")
	r.SingleLabel = true
	ix := indexOf(&table.Listener{Routes: []*table.Route{r}})
	for host, want := range map[string]bool{"a.example.com": true, "a.b.example.com": false, "example.com": false} {
		got := ix.find(&question{request: httptest.NewRequest("GET", "/", nil), host: host, path: "/"}) != nil
		if got != want {
			t.Errorf("%s matches: %v, want %v", host, got, want)
		}
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"/":                  "/",
		"/a/b/":              "/a/b/",
		"/a//b":              "/a//b",
		"/a/...":             "/a/...",
		"/a/.b/..c":          "/a/.b/..c",
		"/a/./b":             "/a/b",
		"/a/../b":            "/b",
		"/a/%2e%2E/b":        "/b",
		"/a/.%2e":            "/",
		"/a/b/..":            "/a/",
		"/a/b/.":             "/a/b/",
		"/../..":             "/",
		"/a%2Fb/../c%20d":    "/c%20d",
		"/x/../a%2Fb":        "/a%2Fb",
		"/a/..%2fadmin":      "",
		"/a%2f..%2f..%2fetc": "",
		"/a%00":              "",
		"a":                  "",
	} {
		u, err := url.ParseRequestURI("http://x" + in)
		if in == "a" {
			u, err = &url.URL{Path: "a"}, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if normalize(u) {
			got = u.EscapedPath()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// HTTPPathModifier.replacePrefixMatch has this table.
func TestModifyPath(t *testing.T) {
	for _, test := range []struct{ path, prefix, replacement, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/bar", "/", "/xyz", "/xyz/bar"},
		{"/f%6Fo/a%2Fb", "/foo", "/x y", "/x%20y/a%2Fb"},
	} {
		e := &hostNode{}
		e.add(&rule{Rule: &table.Rule{Matches: []table.Match{{Path: prefix(test.prefix)}}}, route: &table.Route{}})
		u, err := url.Parse("http://x" + test.path)
		if err != nil {
			t.Fatal(err)
		}
		var matched string
		for p := range e.prefixes {
			matched = p
		}
		modify(&table.PathModifier{Prefix: true, Replacement: test.replacement}, u, matched)
		if got := u.EscapedPath(); got != test.want {
			t.Errorf("%s with %s replaced by %q: %s, want %s", test.path, test.prefix, test.replacement, got, test.want)
		}
	}
}

func TestOriginMatches(t *testing.T) {
	for _, test := range []struct {
		allowed, origin string
		want            bool
	}{
		{"*", "https://a", true},
		{"https://a.com", "https://a.com", true},
		{"https://a.com", "http://a.com", false},
		{"https://a.com", "https://a.com:443", true},
		{"https://a.com", "https://a.com:8443", false},
		{"https://*.a.com", "https://b.a.com", true},
		{"https://*.a.com", "https://c.b.a.com", true},
		{"https://*.a.com", "https://a.com", false},
		{"https://*.a.com", "https://evil-a.com", false},
		{"https://*", "https://b.a.com", true},
		{"https://*", "http://b.a.com", false},
		{"https://a.com", "null", false},
	} {
		if got := originMatches(test.allowed, test.origin); got != test.want {
			t.Errorf("%s allows %s: %v, want %v", test.allowed, test.origin, got, test.want)
		}
	}
}

func TestBind(t *testing.T) {
	on := func(name, bind string, protocol table.Protocol) owned {
		return owned{"test", &table.Listener{Gateway: "g", Name: name, Bind: netip.MustParseAddrPort(bind), Protocol: protocol}}
	}
	all, one, other := on("all", "0.0.0.0:80", table.HTTP), on("one", "10.0.0.1:80", table.HTTP), on("other", "10.0.0.2:81", table.HTTP)
	odd := on("odd", "10.0.0.2:81", table.TCP)
	s, conflicts := bind([]owned{all, one, other, odd}, &state{}, &targets{})
	if len(s.bound) != 2 || conflicts[odd] == nil || len(conflicts) != 1 {
		t.Fatalf("sockets %v, conflicts %v; want [::]:80 and 10.0.0.2:81, and a conflict of the TCP listener", s.bound, conflicts)
	}
	on80 := s.bound[s.socketOf(one.Bind)]
	if got := on80.on(netip.MustParseAddr("10.0.0.1")).listeners; len(got) != 2 {
		t.Errorf("on 10.0.0.1: %v, want its own listener and that of all addresses", got)
	}
	if got := on80.on(netip.MustParseAddr("10.0.0.9")).listeners; len(got) != 1 || got[0] != all {
		t.Errorf("on another address: %v, want the listener of all addresses", got)
	}
	again, _ := bind([]owned{all, one}, s, &targets{})
	if again.bound[anyAddress(all.Bind)].all != on80.all {
		t.Error("a view was made anew although its listeners are the same")
	}
}
