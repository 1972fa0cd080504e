// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
)

// How long a token is still good is said by the clock of the server, which judges it.
func TestTokenListByServerClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			now := time.Now().Add(ahead).UTC()
			w.Header().Set("Date", now.Format(http.TimeFormat))
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(&corev1.SecretList{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "SecretList"},
				Items: []corev1.Secret{{Data: map[string][]byte{
					"token-id": []byte("abcdef"), "expiration": []byte(now.Add(90*time.Minute + 30*time.Second).Format(time.RFC3339)),
				}}},
			})
		}))
		kubeconfig := filepath.Join(t.TempDir(), "config")
		config := clientcmdapi.NewConfig()
		config.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL}
		config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
		config.CurrentContext = "c"
		if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
			t.Fatal(err)
		}
		cmd, out := newTokenCommand(), &bytes.Buffer{}
		cmd.SetArgs([]string{"list", "--kubeconfig", kubeconfig})
		cmd.SetOut(out)
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "abcdef   90m ") {
			t.Errorf("a server that is %s ahead: %v\n%s", ahead, err, out)
		}
		server.Close()
	}
}

// The command that is printed names a server that lives.
func TestAliveServer(t *testing.T) {
	const published = "https://192.0.2.1:6443"
	for name, tc := range map[string]struct {
		endpoints []string
		want      string
	}{
		"the one that is published": {[]string{"192.0.2.2", "192.0.2.1"}, published},
		"another one":               {[]string{"192.0.2.2"}, "https://192.0.2.2:6443"},
		"nobody says":               {nil, published},
	} {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
			Ports:      []discoveryv1.EndpointPort{{Port: ptr.To[int32](6443)}},
		}
		for _, ip := range tc.endpoints {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
		}
		if got := aliveServer(t.Context(), fake.NewClientset(slice), published); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	if got := aliveServer(t.Context(), fake.NewClientset(), published); got != published {
		t.Errorf("without endpoints: %s", got)
	}
}

// A token is for servers or for nodes, and does not say it is for both.
func TestTokenIsForOneKind(t *testing.T) {
	for _, forServer := range []bool{false, true} {
		secret, _, err := newToken(forServer, time.Hour, "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		secret.Data = map[string][]byte{}
		for k, v := range secret.StringData { // as the API server does
			secret.Data[k] = []byte(v)
		}
		want := map[bool]string{false: "nodes", true: "servers"}[forServer]
		if got := joins(secret); got != want {
			t.Errorf("it joins %s, want %s", got, want)
		}
		secret.Data["usage-bootstrap-authentication"] = []byte("false")
		if got := joins(secret); got != "nothing" {
			t.Errorf("one that authenticates nobody joins %s", got)
		}
	}
}
