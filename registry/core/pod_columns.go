// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

func podColumns() []rest.Column[*corev1.Pod] {
	spec, status := corev1.PodSpec{}, corev1.PodStatus{}
	return []rest.Column[*corev1.Pod]{
		rest.Name[*corev1.Pod](),
		rest.Text("Ready", "The aggregate readiness state of this pod for accepting traffic.", func(p *corev1.Pod) string {
			s := summarize(p)
			return fmt.Sprintf("%d/%d", s.ready, s.containers)
		}),
		rest.Text("Status", "The aggregate status of the containers in this pod.", func(p *corev1.Pod) string { return summarize(p).reason }),
		rest.Text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.", func(p *corev1.Pod) string {
			s := summarize(p)
			if s.restarts == 0 || s.restarted.IsZero() {
				return strconv.Itoa(s.restarts)
			}
			return fmt.Sprintf("%d (%s ago)", s.restarts, rest.Since(s.restarted))
		}),
		rest.Age[*corev1.Pod](),
		rest.Text("IP", rest.Doc(status, "podIP"), podIPCell).OnWide(),
		rest.Text("Node", rest.Doc(spec, "nodeName"), func(p *corev1.Pod) string { return rest.Or(p.Spec.NodeName, "<none>") }).OnWide(),
		rest.Text("Nominated Node", rest.Doc(status, "nominatedNodeName"), func(p *corev1.Pod) string { return rest.Or(p.Status.NominatedNodeName, "<none>") }).OnWide(),
		rest.Text("Readiness Gates", rest.Doc(spec, "readinessGates"), readinessGatesCell).OnWide(),
	}
}

// podRowConditions tell kubectl which pods are done.
func podRowConditions(p *corev1.Pod) []metav1.TableRowCondition {
	done := func(message string) []metav1.TableRowCondition {
		return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: string(p.Status.Phase), Message: message}}
	}
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		return done("The pod has completed successfully.")
	case corev1.PodFailed:
		return done("The pod failed.")
	}
	return nil
}

func podIPCell(p *corev1.Pod) string {
	if len(p.Status.PodIPs) == 0 {
		return "<none>"
	}
	return rest.Or(p.Status.PodIPs[0].IP, "<none>")
}

func readinessGatesCell(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	open := 0
	for _, gate := range p.Spec.ReadinessGates {
		if podConditionTrue(p, gate.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
}

func podConditionTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == t })
	return i >= 0 && p.Status.Conditions[i].Status == corev1.ConditionTrue
}

// podSummary is a pod in one line.
type podSummary struct {
	containers, ready, restarts int
	restarted                   metav1.Time // the last time
	reason                      string
}

func (s *podSummary) count(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.restarted.Before(&t.FinishedAt) {
		s.restarted = t.FinishedAt
	}
}

// summarize finds the one word that tells most about a pod: what its containers wait for or died of rather
// than its phase. While it initializes, it is the first init container that is not through that matters.
func summarize(p *corev1.Pod) podSummary {
	s := podSummary{containers: len(p.Spec.Containers), reason: rest.Or(p.Status.Reason, string(p.Status.Phase))}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	initializing, sidecars := s.summarizeInit(p)
	if !initializing || podConditionTrue(p, corev1.PodInitialized) {
		s.restarts, s.restarted = sidecars.restarts, sidecars.restarted // init containers are of the past
		s.summarizeContainers(p)
	}
	terminal := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	switch {
	case p.DeletionTimestamp != nil && p.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case p.DeletionTimestamp != nil && !terminal:
		s.reason = "Terminating"
	}
	return s
}

// summarizeInit is over the init containers. sidecars counts those that run on.
func (s *podSummary) summarizeInit(p *corev1.Pod) (initializing bool, sidecars podSummary) {
	isSidecar := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			isSidecar[c.Name] = true
			s.containers++
		}
	}
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.count(c)
		if isSidecar[c.Name] {
			sidecars.count(c)
		}
		terminated, waiting := c.State.Terminated, c.State.Waiting
		switch {
		case terminated != nil && terminated.ExitCode == 0:
			continue
		case isSidecar[c.Name] && ptr.Deref(c.Started, false):
			if c.Ready {
				s.ready++
			}
			continue
		case terminated != nil:
			s.reason = "Init:" + terminationReason(terminated)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true, sidecars
	}
	return false, sidecars
}

// summarizeContainers is over the containers, so that the first of several reasons wins.
func (s *podSummary) summarizeContainers(p *corev1.Pod) {
	running, failed := false, ""
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.count(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = terminationReason(c.State.Terminated)
			if c.State.Terminated.ExitCode != 0 {
				failed = s.reason
			}
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason != "Completed" { // some are, which says little about the others
		return
	}
	switch {
	case running && podConditionTrue(p, corev1.PodReady):
		s.reason = "Running"
	case failed != "":
		s.reason = failed
	case running:
		s.reason = "NotReady"
	}
}

func terminationReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}
