// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// newStatus counts nodes: of the pods of a node, the oldest counts.
func (s *state) newStatus() appsv1.DaemonSetStatus {
	status := *s.set.Status.DeepCopy()
	status.DesiredNumberScheduled, status.CurrentNumberScheduled, status.NumberMisscheduled = 0, 0, 0
	status.NumberReady, status.NumberAvailable, status.UpdatedNumberScheduled = 0, 0, 0
	for _, node := range s.nodes {
		pods := s.byNode[node.Name]
		run, _ := s.placement.on(node)
		if run {
			status.DesiredNumberScheduled++
		} else if len(pods) > 0 {
			status.NumberMisscheduled++
		}
		if !run || len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		if podcontrol.Ready(pods[0]) {
			status.NumberReady++
		}
		if s.available(pods[0]) {
			status.NumberAvailable++
		}
		if s.updated(pods[0]) {
			status.UpdatedNumberScheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status
}

// writeStatus writes the status if it has changed. observed says that all of the spec was acted upon.
func (s *state) writeStatus(ctx context.Context, observed bool) error {
	status := s.newStatus()
	if observed {
		status.ObservedGeneration = s.set.Generation
	}
	if apiequality.Semantic.DeepEqual(s.set.Status, status) {
		return nil
	}
	set := s.set.DeepCopy()
	set.Status = status
	if _, err := s.client.AppsV1().DaemonSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of DaemonSet: %w", err)
	}
	return nil
}
