// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"strconv"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
)

// Metrics are what a Proxy counts. A nil *Metrics counts nothing.
type Metrics struct {
	requests    *metrics.CounterVec   // by route and code
	duration    *metrics.HistogramVec // by route
	underWay    *metrics.Gauge
	connections *metrics.CounterVec // by protocol
	retries     *metrics.Counter
	lostMirrors *metrics.Counter

	routes sync.Map // name to *routeMetrics: looking labels up costs more than what is counted
}

// routeMetrics are those of one route.
type routeMetrics struct {
	codes    sync.Map // int to metrics.CounterMetric
	duration metrics.ObserverMetric
}

// Registry takes metrics. Those that it has not taken when it returns are not counted.
type Registry interface {
	Register(metrics.Registerable) error
}

// NewMetrics makes metrics and registers them.
func NewMetrics(r Registry) (*Metrics, error) {
	const subsystem = "skiff_gateway"
	counter := func(name, help string) *metrics.CounterOpts {
		return &metrics.CounterOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
	}
	m := &Metrics{
		requests: metrics.NewCounterVec(counter("requests_total", "Requests answered, by route (namespace/name, empty if none matched) and status code (499: the client did not wait)."),
			[]string{"route", "code"}),
		duration: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "request_duration_seconds", StabilityLevel: metrics.ALPHA,
			Help: "How long requests took, up to the end of the answer.", Buckets: metrics.ExponentialBuckets(0.001, 4, 9),
		}, []string{"route"}),
		underWay: metrics.NewGauge(&metrics.GaugeOpts{
			Subsystem: subsystem, Name: "requests_in_flight", Help: "Requests that are not answered yet.", StabilityLevel: metrics.ALPHA,
		}),
		connections: metrics.NewCounterVec(counter("connections_total", "Connections of clients, by protocol."), []string{"protocol"}),
		retries:     metrics.NewCounter(counter("retries_total", "Attempts beyond the first to get an answer for a request.")),
		lostMirrors: metrics.NewCounter(counter("mirrors_dropped_total", "Copies of requests that were not sent: too many at a time, or too large.")),
	}
	for _, metric := range []metrics.Registerable{m.requests, m.duration, m.underWay, m.connections, m.retries, m.lostMirrors} {
		if err := r.Register(metric); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) begin() {
	if m != nil {
		m.underWay.Inc()
	}
}

func (m *Metrics) end(x *exchange) {
	if m == nil {
		return
	}
	m.underWay.Dec()
	name := ""
	if x.entry != nil {
		name = x.route.Name
	}
	found, ok := m.routes.Load(name)
	if !ok {
		found, _ = m.routes.LoadOrStore(name, &routeMetrics{duration: m.duration.WithLabelValues(name)})
	}
	route := found.(*routeMetrics)
	code, ok := route.codes.Load(x.status)
	if !ok {
		code, _ = route.codes.LoadOrStore(x.status, m.requests.WithLabelValues(name, strconv.Itoa(x.status)))
	}
	code.(metrics.CounterMetric).Inc()
	route.duration.Observe(time.Since(x.started).Seconds())
}

// keepRoutes forgets what was counted for routes that are not there any more.
func (m *Metrics) keepRoutes(s *state) {
	if m == nil {
		return
	}
	known := map[string]bool{"": true}
	s.views(func(v *view) {
		for _, l := range v.listeners {
			for _, r := range l.Routes {
				known[r.Name] = true
			}
		}
	})
	m.routes.Range(func(name, route any) bool {
		if known[name.(string)] {
			return true
		}
		m.routes.Delete(name)
		route.(*routeMetrics).codes.Range(func(code, _ any) bool {
			m.requests.Delete(map[string]string{"route": name.(string), "code": strconv.Itoa(code.(int))})
			return true
		})
		m.duration.Delete(map[string]string{"route": name.(string)})
		return true
	})
}

func (m *Metrics) connection(k kind) {
	if m != nil {
		m.connections.WithLabelValues(string(k)).Inc()
	}
}

func (m *Metrics) retry() {
	if m != nil {
		m.retries.Inc()
	}
}

func (m *Metrics) mirrorDropped() {
	if m != nil {
		m.lostMirrors.Inc()
	}
}
