// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// A hook that is to be called by HTTPS is called by HTTP if there is no TLS, without what only the other end should read.
func TestHookWithoutTLS(t *testing.T) {
	var asked http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = r.Header }))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(10)
	r := &Runtime{events: events, metrics: metrics.New("n1")}
	get := &v1.HTTPGetAction{Scheme: v1.URISchemeHTTPS, Port: intstr.Parse(at.Port()), HTTPHeaders: []v1.HTTPHeader{{Name: "Authorization", Value: "Bearer secret"}, {Name: "X-Other", Value: "seen"}}}
	if err := r.httpHook(t.Context(), &v1.Pod{}, &v1.Container{Name: "c"}, at.Hostname(), get); err != nil {
		t.Fatal(err)
	}
	if asked.Get("Authorization") != "" || asked.Get("X-Other") != "seen" {
		t.Errorf("the hook was called with %v", asked)
	}
	want := "Warning LifecycleHTTPFallback request to HTTPS lifecycle hook " + at.Host + " got HTTP response, retry with HTTP succeeded"
	if got := <-events.Events; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
}
