// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"errors"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/labels"
)

// What an autoscaler does, or would do, for the metrics.
const (
	actionUp   = "scale_up"
	actionDown = "scale_down"
	actionNone = "none"
)

func actionFor(before, after int32) string {
	switch {
	case after > before:
		return actionUp
	case after < before:
		return actionDown
	}
	return actionNone
}

// specError is an error that the spec of the autoscaler is the reason for.
type specError struct{ error }

func (e specError) Unwrap() error { return e.error }

// blame says whose error it is.
func blame(err error) string {
	var spec specError
	switch {
	case err == nil:
		return "none"
	case errors.As(err, &spec):
		return "spec"
	}
	return "internal"
}

func (c *controller) countAutoscalers() {
	if all, err := c.autoscalers.List(labels.Everything()); err == nil {
		c.Measured.Number.Set(float64(len(all)))
	}
}

func (c *controller) countReconciliation(start time.Time, action string, err error) {
	c.Measured.Reconciliations.WithLabelValues(action, blame(err)).Inc()
	c.Measured.ReconciliationDuration.WithLabelValues(action, blame(err)).Observe(time.Since(start).Seconds())
}

func (c *controller) countComputation(start time.Time, metric autoscalingv2.MetricSourceType, action string, err error) {
	if err != nil {
		action = actionNone
	}
	c.Measured.Computations.WithLabelValues(action, blame(err), string(metric)).Inc()
	c.Measured.ComputationDuration.WithLabelValues(action, blame(err), string(metric)).Observe(time.Since(start).Seconds())
}
