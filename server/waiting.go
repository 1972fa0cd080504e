// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// receive answers whoever calls the API of a server that cannot serve yet, until leave is called: they would hang otherwise, and not know
// why. The listener stays open for what comes after.
func receive(listener *net.TCPListener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), why error) (leave func()) {
	status := apierrors.NewServiceUnavailable(why.Error()).Status()
	status.Kind, status.APIVersion = "Status", "v1"
	receptionist := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = json.NewEncoder(w).Encode(status) // who asked may be gone
		}),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = receptionist.ServeTLS(lent{listener}, "", "") // until it is closed
	}()
	return func() {
		_ = receptionist.Close()
		<-done
		_ = listener.SetDeadline(time.Time{})
	}
}

// lent is a listener that stays open when it is closed, and only accepts no more.
type lent struct{ *net.TCPListener }

func (l lent) Close() error { return l.SetDeadline(time.Now()) }
