// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/scheduler/metrics"
)

// Devices may have to be made ready for a node, by attaching them for example. Such a device names conditions, which its driver sets in the
// claim's status: the pod is bound when all are true. If one that means failure is true, or the time is up, the claim gets other devices in the
// next attempt.

var (
	errBindingFailed  = errors.New("device binding failed")
	errBindingTimeout = errors.New("device binding timeout")
)

// ready says whether all devices of the claim are ready; an error if one of them will not be.
func ready(c *resourcev1.ResourceClaim) (bool, error) {
	all := true
	for _, result := range results(c) {
		if len(result.BindingConditions) == 0 {
			continue
		}
		conditions := conditionsOf(c, &result)
		for _, name := range result.BindingFailureConditions {
			if failed := apimeta.FindStatusCondition(conditions, name); failed != nil && failed.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("%w: claim=%s, reason=%s, message=%q", errBindingFailed, c.Name, failed.Reason, failed.Message)
			}
		}
		for _, name := range result.BindingConditions {
			all = all && apimeta.IsStatusConditionTrue(conditions, name)
		}
	}
	return all, nil
}

func results(c *resourcev1.ResourceClaim) []resourcev1.DeviceRequestAllocationResult {
	if c.Status.Allocation == nil {
		return nil
	}
	return c.Status.Allocation.Devices.Results
}

// conditionsOf a device in the claim's status; none if it is not there yet.
func conditionsOf(c *resourcev1.ResourceClaim, result *resourcev1.DeviceRequestAllocationResult) []metav1.Condition {
	for i := range c.Status.Devices {
		d := &c.Status.Devices[i]
		sameShare := d.ShareID == nil && result.ShareID == nil || d.ShareID != nil && result.ShareID != nil && *d.ShareID == string(*result.ShareID)
		if d.Driver == result.Driver && d.Pool == result.Pool && d.Device == result.Device && sameShare {
			return d.Conditions
		}
	}
	return nil
}

// deadline for the claim's devices to be ready; zero if there is none.
func (p *plugin) deadline(c *resourcev1.ResourceClaim) (t time.Time) {
	for _, result := range results(c) {
		if len(result.BindingConditions) > 0 && c.Status.Allocation.AllocationTimestamp != nil {
			t = c.Status.Allocation.AllocationTimestamp.Add(p.BindingTimeout)
		}
	}
	return t
}

// failedToBind says whether a claim needs other devices than it has.
func (p *plugin) failedToBind(c *resourcev1.ResourceClaim) bool {
	ok, err := ready(c)
	deadline := p.deadline(c)
	return err != nil || !ok && !deadline.IsZero() && deadline.Before(time.Now())
}

// waitForDevices returns once the devices of all claims are ready.
func (p *plugin) waitForDevices(ctx context.Context, s *state, pod *v1.Pod, nodeName string) (err error) {
	var deadline time.Time
	for _, c := range s.claims {
		if d := p.deadline(c.ResourceClaim); deadline.IsZero() || !d.IsZero() && d.Before(deadline) {
			deadline = d
		}
	}
	if deadline.IsZero() {
		return nil
	}
	began := time.Now()
	defer func() { p.measure(s, pod, began, err) }()
	p.handle.Recorder.Eventf(pod, nil, v1.EventTypeNormal, "BindingConditionsPending", "Scheduling", "waiting for binding conditions for device on node %s", nodeName)
	changed := make(chan struct{}, 1)
	informer := p.handle.Informers.Resource().V1().ResourceClaims().Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, now any) {
		if c, ok := now.(*resourcev1.ResourceClaim); ok && c.Namespace == pod.Namespace {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		return fmt.Errorf("watching claims: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(registration) }() // fails only if there is none
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	for {
		if all, err := p.allReady(s); all || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("%w: pod=%s", errBindingTimeout, pod.Name)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// measure notes how long the pod waited for its devices, and how that ended.
func (p *plugin) measure(s *state, pod *v1.Pod, began time.Time, err error) {
	status := metrics.Result(err)
	switch {
	case errors.Is(err, errBindingTimeout):
		status = "timeout"
	case errors.Is(err, errBindingFailed):
		status = "failure"
	}
	for _, c := range s.claims {
		for _, result := range results(c.ResourceClaim) {
			labels := []string{pod.Spec.SchedulerName, result.Driver, status}
			p.handle.Metrics.DeviceWait.WithLabelValues(labels...).Observe(time.Since(began).Seconds())
			if len(result.BindingConditions) > 0 {
				p.handle.Metrics.DeviceBindings.WithLabelValues(labels...).Inc()
			}
		}
	}
}

// allReady looks at the claims as they are now.
func (p *plugin) allReady(s *state) (bool, error) {
	all := true
	for _, c := range s.claims {
		now, err := p.claims().ResourceClaims(c.Namespace).Get(c.Name)
		if err != nil || now.UID != c.UID || now.Status.Allocation == nil { // not there yet, or as it was before
			now = c.ResourceClaim
		}
		ok, err := ready(now)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	return all, nil
}
