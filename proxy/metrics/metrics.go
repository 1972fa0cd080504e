// SPDX-License-Identifier: Apache-2.0

// Package metrics holds what the Service proxy measures, under the names of kube-proxy, for dashboards that are made for it.
// Reference: https://kubernetes.io/docs/reference/instrumentation/metrics/
package metrics

import (
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"
)

// Metrics are those of one proxy.
type Metrics struct {
	Registry metrics.KubeRegistry

	sync, full, partial, programming, conntrack   *metrics.HistogramVec // ip_family
	synced, queued                                *metrics.GaugeVec     // ip_family
	serviceChanges, endpointChanges               *metrics.Counter
	servicesPending, endpointsPending             *metrics.Gauge
	restoreFailures, partialFailures, nftFailures *metrics.CounterVec // ip_family
	flows, nftCleanup                             *metrics.CounterVec // ip_family
	noLocal                                       *metrics.GaugeVec   // traffic_policy, ip_family
	rules, rulesWritten                           *metrics.GaugeVec   // table, ip_family
	healthz, livez                                *metrics.CounterVec // code
}

// New makes the metrics of a proxy.
func New() *Metrics {
	m := &Metrics{
		Registry: metrics.NewKubeRegistry(),

		sync:        histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", syncBuckets),
		full:        histogram("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", syncBuckets),
		partial:     histogram("sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", syncBuckets),
		programming: histogram("network_programming_duration_seconds", "In Cluster Network Programming Latency in seconds", programmingBuckets()),
		conntrack:   histogram("conntrack_reconciler_sync_duration_seconds", "ReconcileConntrackFlowsLatency latency in seconds", syncBuckets),

		synced: metrics.NewGaugeVec(gauge("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced"), byFamily),
		queued: metrics.NewGaugeVec(gauge("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued"), byFamily),

		serviceChanges:   metrics.NewCounter(counter("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes")),
		endpointChanges:  metrics.NewCounter(counter("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes")),
		servicesPending:  metrics.NewGauge(gauge("sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes")),
		endpointsPending: metrics.NewGauge(gauge("sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes")),

		restoreFailures: metrics.NewCounterVec(counter("sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures"), byFamily),
		partialFailures: metrics.NewCounterVec(counter("sync_proxy_rules_iptables_partial_restore_failures_total", "Cumulative proxy iptables partial restore failures"), byFamily),
		nftFailures:     metrics.NewCounterVec(counter("sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures"), byFamily),
		nftCleanup:      metrics.NewCounterVec(counter("sync_proxy_rules_nftables_cleanup_failures_total", "Cumulative proxy nftables cleanup failures"), byFamily),
		flows:           metrics.NewCounterVec(counter("conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler"), byFamily),
		noLocal: metrics.NewGaugeVec(gauge("sync_proxy_rules_no_local_endpoints_total", "Number of services with a Local traffic policy and no endpoints"),
			[]string{"traffic_policy", "ip_family"}),
		rules:        metrics.NewGaugeVec(gauge("sync_proxy_rules_iptables_total", "Total number of iptables rules owned by kube-proxy"), []string{"table", "ip_family"}),
		rulesWritten: metrics.NewGaugeVec(gauge("sync_proxy_rules_iptables_last", "Number of iptables rules written by kube-proxy in last sync"), []string{"table", "ip_family"}),

		healthz: metrics.NewCounterVec(counter("proxy_healthz_total", "Cumulative proxy healthz HTTP status"), []string{"code"}),
		livez:   metrics.NewCounterVec(counter("proxy_livez_total", "Cumulative proxy livez HTTP status"), []string{"code"}),
	}
	m.Registry.MustRegister(m.List()...)
	return m
}

// List returns all metrics.
func (m *Metrics) List() []metrics.Registerable {
	return []metrics.Registerable{
		m.sync, m.full, m.partial, m.programming, m.conntrack, m.synced, m.queued, m.serviceChanges, m.endpointChanges,
		m.servicesPending, m.endpointsPending, m.restoreFailures, m.partialFailures, m.nftFailures,
		m.nftCleanup, m.flows, m.noLocal, m.rules, m.rulesWritten, m.healthz, m.livez,
	}
}

// CountPackets adds a metric that the kernel counts. It is left out as long as it cannot be read.
func (m *Metrics) CountPackets(name, help string, read func() (uint64, error)) {
	m.Registry.CustomMustRegister(&packets{read: read, metric: metrics.NewDesc(subsystem+"_"+name, help, nil, nil, metrics.ALPHA, "")})
}

// packets is one counter of the kernel's.
type packets struct {
	metrics.BaseStableCollector
	metric *metrics.Desc
	read   func() (uint64, error)
}

func (p *packets) DescribeWithStability(ch chan<- *metrics.Desc) { ch <- p.metric }

func (p *packets) CollectWithStability(ch chan<- metrics.Metric) {
	if n, err := p.read(); err == nil {
		ch <- metrics.NewLazyConstMetric(p.metric, metrics.CounterValue, float64(n))
	}
}

// Handler serves them.
func (m *Metrics) Handler() http.Handler {
	return metrics.HandlerFor(m.Registry, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError})
}

// Changes are changes of Services and of their endpoints that wait for the next sync.
type Changes struct{ Services, Endpoints int }

// ServiceChanged and EndpointsChanged note one change, after which so many wait.
func (m *Metrics) ServiceChanged(waiting Changes) {
	m.serviceChanges.Inc()
	m.Waiting(waiting)
}

// EndpointsChanged is ServiceChanged for endpoints.
func (m *Metrics) EndpointsChanged(waiting Changes) {
	m.endpointChanges.Inc()
	m.Waiting(waiting)
}

// Waiting notes how many changes wait.
func (m *Metrics) Waiting(c Changes) {
	m.servicesPending.Set(float64(c.Services))
	m.endpointsPending.Set(float64(c.Endpoints))
}

// Queued notes that rules of a family are to be written.
func (m *Metrics) Queued(family corev1.IPFamily) {
	m.queued.WithLabelValues(string(family)).SetToCurrentTime()
}

// Synced notes that rules of a family were written, all of them or what has changed. triggers are when what they follow from
// happened, as the EndpointSlices say.
func (m *Metrics) Synced(family corev1.IPFamily, full bool, took time.Duration, triggers []time.Time) {
	m.took(family, full, took)
	m.synced.WithLabelValues(string(family)).SetToCurrentTime()
	for _, at := range triggers {
		m.programming.WithLabelValues(string(family)).Observe(time.Since(at).Seconds())
	}
}

// Failed notes that they were not. The mode is iptables or nftables.
func (m *Metrics) Failed(family corev1.IPFamily, mode string, full bool, took time.Duration) {
	m.took(family, full, took)
	failures := m.nftFailures
	switch {
	case mode == "iptables" && full:
		failures = m.restoreFailures
	case mode == "iptables":
		failures = m.partialFailures
	}
	failures.WithLabelValues(string(family)).Inc()
}

func (m *Metrics) took(family corev1.IPFamily, full bool, took time.Duration) {
	m.sync.WithLabelValues(string(family)).Observe(took.Seconds())
	kind := m.partial
	if full {
		kind = m.full
	}
	kind.WithLabelValues(string(family)).Observe(took.Seconds())
}

// FlowsCleared notes how long it took to look at the flows of a family that lead nowhere any more, and how many those were.
func (m *Metrics) FlowsCleared(family corev1.IPFamily, took time.Duration, cleared uint) {
	m.conntrack.WithLabelValues(string(family)).Observe(took.Seconds())
	m.flows.WithLabelValues(string(family)).Add(float64(cleared))
}

// NoLocalEndpoints notes how many ports of Services with policy Local lead nowhere on this node.
func (m *Metrics) NoLocalEndpoints(family corev1.IPFamily, internal, external int) {
	m.noLocal.WithLabelValues("internal", string(family)).Set(float64(internal))
	m.noLocal.WithLabelValues("external", string(family)).Set(float64(external))
}

// Rules notes how many rules a table of iptables has of ours, and how many of them the last sync wrote.
func (m *Metrics) Rules(family corev1.IPFamily, table string, all, written int) {
	m.rules.WithLabelValues(table, string(family)).Set(float64(all))
	m.rulesWritten.WithLabelValues(table, string(family)).Set(float64(written))
}

// CleanupFailed notes that chains without use could not be removed.
func (m *Metrics) CleanupFailed(family corev1.IPFamily) {
	m.nftCleanup.WithLabelValues(string(family)).Inc()
}

// Healthz and Livez note an answer.
func (m *Metrics) Healthz(code int) { m.healthz.WithLabelValues(strconv.Itoa(code)).Inc() }

// Livez is Healthz for the other question.
func (m *Metrics) Livez(code int) { m.livez.WithLabelValues(strconv.Itoa(code)).Inc() }

const subsystem = "kubeproxy"

var (
	byFamily    = []string{"ip_family"}
	syncBuckets = metrics.ExponentialBuckets(0.001, 2, 15)
)

// programmingBuckets go from a quarter of a second to five minutes, ever more coarsely.
func programmingBuckets() []float64 {
	return metrics.MergeBuckets(metrics.LinearBuckets(0.25, 0.25, 2), metrics.LinearBuckets(1, 1, 59),
		metrics.LinearBuckets(60, 5, 12), metrics.LinearBuckets(120, 30, 7))
}

func histogram(name, help string, buckets []float64) *metrics.HistogramVec {
	return metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: name, Help: help, Buckets: buckets, StabilityLevel: metrics.ALPHA,
	}, byFamily)
}

func counter(name, help string) *metrics.CounterOpts {
	return &metrics.CounterOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

func gauge(name, help string) *metrics.GaugeOpts {
	return &metrics.GaugeOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}
