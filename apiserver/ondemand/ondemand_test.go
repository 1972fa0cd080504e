// SPDX-License-Identifier: Apache-2.0

package ondemand

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/inprocess"
)

const aggregatedJSON = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"

// listen serves handler to clients outside and inside of the process.
func listen(t *testing.T, handler http.Handler) (outside, inside *http.Client, url string) {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Client(), within(t, handler, "a-part"), server.URL
}

// within returns a client in the process.
func within(t *testing.T, handler http.Handler, name string) *http.Client {
	t.Helper()
	door := inprocess.NewDoor()
	door.Open(handler)
	client, err := restclient.HTTPClientFor(door.ClientConfig(&user.DefaultInfo{Name: name}))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", aggregatedJSON)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// groups lists what a discovery document has.
func groups(t *testing.T, document string) string {
	t.Helper()
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal([]byte(document), &list); err != nil {
		t.Fatalf("%v in %s", err, document)
	}
	var out []string
	for _, g := range list.Items {
		out = append(out, g.Name+"/"+g.Versions[0].Version+"/"+g.Versions[0].Resources[0].Resource)
	}
	return strings.Join(out, " ")
}

func version(name, resource string) apidiscoveryv2.APIVersionDiscovery {
	return apidiscoveryv2.APIVersionDiscovery{Version: name, Resources: []apidiscoveryv2.APIResourceDiscovery{{Resource: resource}}}
}

// Clients outside find a group that can be had; the parts of this process do not, and what is really there goes before.
func TestDiscovery(t *testing.T) {
	m := NewManager([]Group{{Name: "x.io", Versions: []apidiscoveryv2.APIVersionDiscovery{version("v1", "expected")}}})
	m.AddGroupVersion("apps", version("v1", "deployments"))
	outside, inside, url := listen(t, m)
	if got := groups(t, get(t, outside, url+"/apis")); got != "apps/v1/deployments x.io/v1/expected" {
		t.Errorf("outside there is %s", got)
	}
	if got := groups(t, get(t, inside, "http://in.process/apis")); got != "apps/v1/deployments" {
		t.Errorf("inside there is %s", got)
	}
	if got := groups(t, get(t, within(t, m, AddOns), "http://in.process/apis")); got != "apps/v1/deployments x.io/v1/expected" {
		t.Errorf("for add-ons there is %s", got)
	}
	m.WithSource(aggregated.CRDSource).AddGroupVersion("x.io", version("v1", "real"))
	for _, got := range []string{groups(t, get(t, outside, url+"/apis")), groups(t, get(t, inside, "http://in.process/apis"))} {
		if got != "apps/v1/deployments x.io/v1/real" {
			t.Errorf("once it is installed there is %s", got)
		}
	}
}

// The first requests for a group wait until it is there; it is installed once, and not for the parts of this process.
func TestHandler(t *testing.T) {
	var installed atomic.Bool
	var installs atomic.Int32
	group := Group{
		Name: "x.io", Installed: installed.Load,
		Install: func(context.Context) error {
			installs.Add(1)
			installed.Store(true)
			return nil
		},
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if installed.Load() {
			_, _ = io.WriteString(w, "there")
		}
	})
	outside, inside, url := listen(t, Handler([]Group{group}, next))
	for _, path := range []string{"/apis", "/apis/x.io.example.com/v1/things", "/api/v1/pods"} {
		if got := get(t, outside, url+path); got != "" {
			t.Errorf("%s: the group is %s", path, got)
		}
	}
	if got := get(t, inside, "http://in.process/apis/x.io/v1/things"); got != "" {
		t.Errorf("a part of the process had the group installed")
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got := get(t, outside, url+"/apis/x.io/v1/things"); got != "there" {
				t.Errorf("a request found %q", got)
			}
		})
	}
	wg.Wait()
	if n := installs.Load(); n != 1 {
		t.Errorf("it was installed %d times", n)
	}
}
