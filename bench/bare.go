// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"k8s.io/client-go/util/cert"

	"github.com/skiff-k8s/skiff/datastore"
)

// A machine is as busy as it is. So the API server is measured beside the least that could do the same: a server of
// net/http with TLS that answers with bytes which it has at hand, and puts what it is sent into an etcd like ours.

const (
	barePort = 7443
	bareDir  = "/tmp/bare" // in the host
)

// bare serves until it is told to end: GET /get is a pod, GET /list?n=500 so many, PUT stores the body and answers with it.
func bare(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	store, err := datastore.Open(ctx, datastore.Config{Dir: filepath.Join(bareDir, "db")})
	if err != nil {
		return err
	}
	defer store.Close()
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(address, nil, nil)
	if err != nil {
		return err
	}
	certFile, keyFile := filepath.Join(bareDir, "tls.crt"), filepath.Join(bareDir, "tls.key")
	if err := errors.Join(os.WriteFile(certFile, certPEM, 0o600), os.WriteFile(keyFile, keyPEM, 0o600)); err != nil {
		return err
	}
	one, err := json.Marshal(apiPod("bare", "one"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, times int) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(times*len(one)))
		for range times {
			_, _ = w.Write(one)
		}
	}
	mux.HandleFunc("GET /get", func(w http.ResponseWriter, _ *http.Request) { reply(w, 1) })
	mux.HandleFunc("GET /list", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		reply(w, n)
	})
	mux.HandleFunc("PUT /put/{key}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = store.Client().Put(r.Context(), "/bare/"+r.PathValue("key"), string(body))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, 1)
	})
	server := &http.Server{Addr: fmt.Sprintf("%s:%d", address, barePort), Handler: mux}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServeTLS(certFile, keyFile); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
