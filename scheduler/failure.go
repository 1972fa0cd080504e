// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/metrics"
)

// maxNote is how long an event's note may be.
const maxNote = 1024

// fail puts a pod back into the queue and says why: in an event and in its PodScheduled condition.
// A nil nomination leaves the pod's nominated node as it is.
func (s *Scheduler) fail(ctx context.Context, p *framework.QueuedPod, began time.Time, err error, nomination *framework.Nomination) {
	logger := klog.FromContext(ctx)
	reason := v1.PodReasonSchedulerError
	p.Rejectors, p.Waiting = nil, nil
	message := err.Error() // now: what it is made of belongs to this cycle
	var fit *fitError
	switch {
	case errors.As(err, &fit):
		reason = v1.PodReasonUnschedulable
		p.Rejectors, p.Waiting = fit.Rejectors, fit.Waiting
		logger.V(2).Info("Unable to schedule pod; no fit; waiting", "pod", klog.KObj(p.Pod), "err", message)
	case errors.Is(err, errNoNodes):
		reason = v1.PodReasonUnschedulable
		p.Rejectors = sets.New("") // no plugin: any event may help
		logger.V(2).Info("Unable to schedule pod; no nodes are registered to the cluster; waiting", "pod", klog.KObj(p.Pod))
	default:
		logger.Error(err, "Error scheduling pod; retrying", "pod", klog.KObj(p.Pod))
	}

	result := metrics.Unschedulable
	if reason == v1.PodReasonSchedulerError {
		result = metrics.Error
	}
	s.metrics.Attempted(result, p.Pod.Spec.SchedulerName, began)
	announced := p.Announced
	p.Announced = ""
	pod := s.queue.PutBack(p, reason == v1.PodReasonSchedulerError, nomination)
	if pod == nil {
		return // gone, or bound after all
	}
	if announced != "" {
		now := *pod
		now.Status.NominatedNodeName = announced
		pod = &now
	}

	s.recorder.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", truncate(message))
	condition := &v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation,
	}
	if err := s.patchStatus(ctx, pod, condition, nomination); err != nil && !apierrors.IsNotFound(err) {
		logger.Error(err, "Updating the status of pod", "pod", klog.KObj(pod))
	}
}

// latest implements queue.Config.Latest.
func (s *Scheduler) latest(pod *v1.Pod) *v1.Pod {
	now, err := s.pods.Pods(pod.Namespace).Get(pod.Name)
	if err != nil || now.UID != pod.UID || now.Spec.NodeName != "" || finished(now) {
		return nil
	}
	return now
}

func truncate(note string) string {
	if len(note) <= maxNote {
		return note
	}
	return note[:maxNote-len(" ...")] + " ..."
}

// patchStatus writes the condition and the nomination, if that changes anything; nil leaves them.
func (s *Scheduler) patchStatus(ctx context.Context, pod *v1.Pod, condition *v1.PodCondition, nomination *framework.Nomination) error {
	status := make(map[string]any)
	if condition != nil {
		if c, changed := changedCondition(pod, *condition); changed {
			status["conditions"] = []v1.PodCondition{c}
		}
	}
	if nomination != nil && nomination.NodeName != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = nomination.NodeName
		if nomination.NodeName == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, // of this pod, not of a later one of the same name
		"status":   status,
	})
	if err != nil {
		return fmt.Errorf("encoding the patch of pod %v: %w", framework.Key(pod), err)
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func changedCondition(pod *v1.Pod, c v1.PodCondition) (v1.PodCondition, bool) {
	c.LastTransitionTime = metav1.Now()
	for _, old := range pod.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		same := old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message && old.ObservedGeneration == c.ObservedGeneration
		return c, !same
	}
	return c, true
}
