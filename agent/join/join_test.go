// SPDX-License-Identifier: Apache-2.0

package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/pki"
)

func TestToken(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	whole := Token{ID: "abcdef", Secret: "0123456789abcdef", CAHash: hash}
	if got, err := ParseToken(whole.String()); err != nil || got != whole {
		t.Errorf("ParseToken(%s) = %v, %v", whole, got, err)
	}
	for text, want := range map[string]string{
		"":                               "is not one of Skiff",
		"abcdef.0123456789abcdef":        "lacks the hash",
		"abcdef.0123456789abcdef.0a0a":   "is not one of Skiff",
		"abc.0123456789abcdef." + hash:   "is not one of Skiff",
		"abcdef.0123456789abcde." + hash: "is not one of Skiff",
	} {
		if _, err := ParseToken(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseToken(%q) = %v, want %q", text, err, want)
		}
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{
		"https://192.0.2.1:6443": "192.0.2.1:6443", "https://api.example/": "api.example:6443", "https://[2001:db8::1]:443": "[2001:db8::1]:443", "": "",
	} {
		if got, err := parseServer(text); err != nil || got != want {
			t.Errorf("parseServer(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"192.0.2.1", "http://192.0.2.1", "https://", "https://a/b"} {
		if got, err := parseServer(text); err == nil {
			t.Errorf("parseServer(%q) = %q, want an error", text, got)
		}
	}
}

// Nodes may be three minor versions older than servers, and not newer.
func TestCheckVersion(t *testing.T) {
	for _, tc := range []struct{ own, server, want string }{
		{"1.37.2", "v1.37.2", ""},
		{"1.37.9", "v1.37.0-rc.1+skiff", ""},
		{"1.34.0", "v1.37.2", ""},
		{"1.33.9", "v1.37.2", "upgrade the agent"},
		{"1.38.0", "v1.37.2", "upgrade the servers first"},
		{"2.1.0", "v1.37.2", "upgrade the servers first"},
	} {
		err := checkVersion(tc.own, &apimachineryversion.Info{GitVersion: tc.server})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("an agent of %s at a server of %s: %v, want %q", tc.own, tc.server, err, tc.want)
		}
	}
}

func TestCheckClock(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for after, want := range map[time.Duration]string{
		0: "", 4 * time.Minute: "", -4 * time.Minute: "",
		time.Hour:  "this machine's clock is 1h0m0s behind the server's",
		-time.Hour: "this machine's clock is 1h0m0s ahead of the server's",
	} {
		err := checkClock(now.Add(after).Format(http.TimeFormat), now)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("a server that is %s ahead: %v, want %q", after, err, want)
		}
	}
}

// clusterServer answers as a server's cluster-info does.
func clusterServer(t *testing.T, ca []byte, date time.Time) *servers {
	t.Helper()
	kubeconfig := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"","cluster":{"server":"https://x","certificate-authority-data":%s}}]}`, must(json.Marshal(ca)))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != clusterInfoPath {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
		_ = json.NewEncoder(w).Encode(corev1.ConfigMap{Data: map[string]string{"kubeconfig": kubeconfig}})
	}))
	t.Cleanup(server.Close)
	s, err := newServers(filepath.Join(t.TempDir(), "servers"), server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A machine believes a server that it does not know if, and only if, it has the authority that the token names.
func TestFetchCA(t *testing.T) {
	keys, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	ca, other := keys.ServerCA.PEM(), keys.ClientCA.PEM()
	hash := must(HashCA(ca))
	if got, err := fetchCA(t.Context(), clusterServer(t, ca, time.Now()).dialer.DialContext, hash); err != nil || string(got) != string(ca) {
		t.Errorf("fetchCA = %q, %v", got, err)
	}
	// What comes after the authority that the hash is of is not trusted because of it.
	if _, err := fetchCA(t.Context(), clusterServer(t, slices.Concat(other, ca), time.Now()).dialer.DialContext, hash); err == nil || !strings.Contains(err.Error(), "another hash") {
		t.Errorf("fetchCA of another cluster = %v", err)
	}
	if got, err := fetchCA(t.Context(), clusterServer(t, slices.Concat(ca, other), time.Now()).dialer.DialContext, hash); err == nil && string(got) != string(ca) {
		t.Errorf("fetchCA takes an authority that nobody vouches for:\n%s", got)
	}
	if _, err := fetchCA(t.Context(), clusterServer(t, ca, time.Now().Add(-time.Hour)).dialer.DialContext, hash); err == nil || !strings.Contains(err.Error(), "clock is 1h0m") {
		t.Errorf("fetchCA with clocks that differ = %v", err)
	}
}

// A server that is away is no harm if there is another, and what the cluster says about its servers is remembered.
func TestServersGoOn(t *testing.T) {
	listen := func(name string) net.Listener {
		l := must(net.Listen("tcp", "127.0.0.1:0"))
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, name)
				conn.Close()
			}
		}()
		return l
	}
	a, b := listen("a"), listen("b")
	file := filepath.Join(t.TempDir(), "servers")
	s := must(newServers(file, a.Addr().String()))
	answers := func() string {
		t.Helper()
		conn, err := s.dialer.DialContext(t.Context(), "tcp", "kubernetes:443")
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return string(must(io.ReadAll(conn)))
	}
	if got := answers(); got != "a" {
		t.Errorf("the one that was named: %s", got)
	}
	s.learn(t.Context(), &discoveryv1.EndpointSlice{ // which is all that there are
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}},
		Ports:     []discoveryv1.EndpointPort{{Port: ptr.To(int32(a.Addr().(*net.TCPAddr).Port))}},
	})
	if again := must(newServers(file, "")); !slices.Equal(again.list(), s.list()) {
		t.Errorf("after a restart there are %v, want the one that was named", again.list())
	}
	_, changed := s.watch()
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	for _, l := range []net.Listener{b, a} {
		s.learn(t.Context(), &discoveryv1.EndpointSlice{ // one of them at a time: each says all that there are
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}},
			Ports:     []discoveryv1.EndpointPort{{Port: ptr.To(int32(l.Addr().(*net.TCPAddr).Port))}},
		})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Port: ptr.To(int32(l.Addr().(*net.TCPAddr).Port))})
	}
	<-changed
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}}
	s.learn(t.Context(), slice) // two
	s.learn(t.Context(), &discoveryv1.EndpointSlice{})
	if all, _ := s.watch(); len(all) != 2 || all[0] != a.Addr().String() {
		t.Errorf("servers = %v, want the one in use first", all)
	}
	a.Close()
	if got := answers(); got != "b" {
		t.Errorf("without a: %s", got)
	}
	if again := must(newServers(file, "")); len(again.list()) != 2 {
		t.Errorf("after a restart there are %v", again.list())
	}
	s.learn(t.Context(), &discoveryv1.EndpointSlice{ // b was away when a said that, and a has gone for good since
		Endpoints: slice.Endpoints, Ports: []discoveryv1.EndpointPort{{Port: ptr.To(int32(a.Addr().(*net.TCPAddr).Port))}},
	})
	if all, _ := s.watch(); len(all) != 1 {
		t.Errorf("servers = %v, want the one that the cluster names", all)
	}
	if got := answers(); got != "b" {
		t.Errorf("when the only one that is named has gone: %s, want one that was there before", got)
	}
	if _, err := newServers(filepath.Join(t.TempDir(), "none"), ""); err == nil || !strings.Contains(err.Error(), "has not joined a cluster yet") {
		t.Errorf("without any server: %v", err)
	}
}

// A server that has only just started for the first time has nothing to say about its cluster yet, and that is no reason to give up.
func TestFetchCATooEarly(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		s := must(newServers(filepath.Join(t.TempDir(), "servers"), server.Listener.Addr().String()))
		if _, err := fetchCA(t.Context(), s.dialer.DialContext, ""); !errors.As(err, &notYet{}) || !strings.Contains(err.Error(), "is it a server of Skiff?") {
			t.Errorf("after %d: %v", status, err)
		}
		server.Close()
	}
}
