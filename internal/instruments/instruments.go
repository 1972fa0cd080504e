// SPDX-License-Identifier: Apache-2.0

// Package instruments makes the metrics of a part, one line each.
package instruments

import "k8s.io/component-base/metrics"

// Of is the part whose metrics are made: what their names begin with.
type Of string

// The levels of stability, shorter.
const (
	Alpha  = metrics.ALPHA
	Beta   = metrics.BETA
	Stable = metrics.STABLE
)

// Counter makes one that has no labels; Counters has them.
func (o Of) Counter(level metrics.StabilityLevel, name, help string) *metrics.Counter {
	return metrics.NewCounter(o.counter(level, name, help))
}

func (o Of) Counters(level metrics.StabilityLevel, name, help string, labels ...string) *metrics.CounterVec {
	return metrics.NewCounterVec(o.counter(level, name, help), labels)
}

// Gauge makes one that has no labels; Gauges has them.
func (o Of) Gauge(level metrics.StabilityLevel, name, help string) *metrics.Gauge {
	return metrics.NewGauge(o.gauge(level, name, help))
}

func (o Of) Gauges(level metrics.StabilityLevel, name, help string, labels ...string) *metrics.GaugeVec {
	return metrics.NewGaugeVec(o.gauge(level, name, help), labels)
}

// Histogram makes one that has no labels; Histograms has them.
func (o Of) Histogram(level metrics.StabilityLevel, name, help string, buckets []float64) *metrics.Histogram {
	return metrics.NewHistogram(o.histogram(level, name, help, buckets))
}

func (o Of) Histograms(level metrics.StabilityLevel, name, help string, buckets []float64, labels ...string) *metrics.HistogramVec {
	return metrics.NewHistogramVec(o.histogram(level, name, help, buckets), labels)
}

func (o Of) counter(level metrics.StabilityLevel, name, help string) *metrics.CounterOpts {
	return &metrics.CounterOpts{Subsystem: string(o), Name: name, Help: help, StabilityLevel: level}
}

func (o Of) gauge(level metrics.StabilityLevel, name, help string) *metrics.GaugeOpts {
	return &metrics.GaugeOpts{Subsystem: string(o), Name: name, Help: help, StabilityLevel: level}
}

func (o Of) histogram(level metrics.StabilityLevel, name, help string, buckets []float64) *metrics.HistogramOpts {
	return &metrics.HistogramOpts{Subsystem: string(o), Name: name, Help: help, Buckets: buckets, StabilityLevel: level}
}
