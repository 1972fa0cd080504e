// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/pki"
)

// Who calls a server that waits for others is told so, and what comes after has the same listener.
func TestReceive(t *testing.T) {
	keys, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "alpha"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(keys.ServerCA.PEM())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "kubernetes"}, DisableKeepAlives: true}}
	get := func() (int, string) {
		t.Helper()
		response, err := client.Get("https://" + listener.Addr().String() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for range 2 {
		leave := receive(listener.(*net.TCPListener), keys.APIServer.GetCertificate, datastore.NoMajority(3))
		if code, body := get(); code != http.StatusServiceUnavailable || !strings.Contains(body, `"message":"no majority: of 3 servers 2 must run and reach each other","reason":"ServiceUnavailable"`) {
			t.Errorf("it answers %d, %s", code, body)
		}
		leave()
	}
	after := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }), TLSConfig: &tls.Config{GetCertificate: keys.APIServer.GetCertificate}}
	go func() { _ = after.ServeTLS(listener, "", "") }()
	defer after.Close()
	if code, body := get(); code != http.StatusOK || body != "ok" {
		t.Errorf("after it %d, %s", code, body)
	}
}
