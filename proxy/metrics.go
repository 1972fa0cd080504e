// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net/http"
)

// serveMetrics answers what kube-proxy does at its port for people and their dashboards, until ctx ends.
func (p *Proxy) serveMetrics(ctx context.Context) {
	if p.cfg.MetricsAddress != "none" {
		serve(ctx, "proxy metrics", p.cfg.MetricsAddress, p.metricsHandler())
	}
}

func (p *Proxy) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", p.metrics.Handler())
	text := func(path, said string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			fmt.Fprint(w, said)
		})
	}
	text("/proxyMode", string(p.cfg.Mode))
	text("/healthz", "ok")
	return mux
}
