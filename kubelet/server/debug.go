// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/apiserver/pkg/server/statusz"
	"k8s.io/component-base/logs"
	"k8s.io/component-base/metrics/prometheus/slis"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/version"
)

// Off are parts of the API that the operator has turned off: they answer that they are.
type Off struct {
	Debugging bool // all that is for people who look for a fault, and exec, attach, logs and port-forward with it
	Profiling bool // /debug/pprof
	Flags     bool // /debug/flags/v
}

// component is the name under which the pages for people tell who answers.
const component = "kubelet"

// recorder remembers what is served, for /statusz.
type recorder struct {
	*http.ServeMux
	paths []string
}

// Handle is for paths that are listed; HandleFunc for those that say nothing without what is in them.
func (m *recorder) Handle(pattern string, handler http.Handler) {
	m.paths = append(m.paths, pattern[strings.Index(pattern, "/"):])
	m.ServeMux.Handle(pattern, handler)
}

// health serves /healthz with its checks one by one, and how often each of them was passed.
func (s *Server) health(mux *recorder) {
	healthz.InstallHandler(mux, healthz.PingHealthz, healthz.LogHealthz, healthz.NamedCheck("syncloop", func(*http.Request) error {
		if s.config.Healthy == nil {
			return nil
		}
		return s.config.Healthy()
	}))
	slis.SLIMetricsWithReset{}.Install(mux)
}

// healthAgain is when it is tried again to serve /healthz: others on the machine may have its port.
const healthAgain = 5 * time.Second

// serveHealth serves that this process is there, until ctx ends.
func (s *Server) serveHealth(ctx context.Context) {
	mux := http.NewServeMux()
	healthz.InstallHandler(mux)
	h := &http.Server{Addr: s.config.HealthAddress, Handler: mux, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout}
	context.AfterFunc(ctx, func() { h.Close() })
	for ctx.Err() == nil {
		if err := h.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(ctx).Error(err, "Serving /healthz; it is tried again")
		}
		select {
		case <-ctx.Done():
		case <-time.After(healthAgain):
		}
	}
}

// debugging serves what is for people who look for a fault.
func (s *Server) debugging(mux *recorder) {
	mux.HandleFunc("GET /logs/", http.StripPrefix("/logs/", s.nodeLogs()).ServeHTTP)
	if s.config.Off.Profiling {
		mux.Handle("/debug/pprof/", off("profiling endpoint is disabled."))
	} else {
		mux.HandleFunc("GET /debug/pprof/", profile)
	}
	if s.config.Off.Flags {
		mux.Handle("/debug/flags/v", off("flags endpoint is disabled."))
	} else {
		mux.Handle("/debug/flags/v", routes.StringFlagPutHandler(logs.GlogSetter))
	}
}

// pages tell people how this kubelet was started and what it serves.
func (s *Server) pages(mux *recorder) {
	flagz.Install(mux, component, flags(s.config.Flags))
	slices.Sort(mux.paths)
	statusz.Install(mux, component, statusz.NewRegistry(version.Effective(), statusz.WithListedPaths(mux.paths)))
}

type flags map[string]string

func (f flags) GetFlagz() map[string]string { return f }

func off(message string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, message, http.StatusMethodNotAllowed) })
}

func profile(w http.ResponseWriter, r *http.Request) {
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "cmdline":
		pprof.Cmdline(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
}
