// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// manage plans for each node to have the pods that it should have, whatever their template.
func (s *state) manage() plan {
	var p plan
	known := map[string]bool{}
	for _, node := range s.nodes {
		known[node.Name] = true
		s.manageNode(&p, node)
	}
	for _, node := range slices.Sorted(maps.Keys(s.byNode)) {
		if known[node] {
			continue
		}
		for _, pod := range s.byNode[node] {
			if pod.Spec.NodeName == "" { // it waits for a node that is gone
				p.delete = append(p.delete, pod)
			}
		}
	}
	return p
}

func (s *state) manageNode(p *plan, node *corev1.Node) {
	run, stay := s.placement.on(node)
	pods := s.byNode[node.Name]
	switch {
	case !stay:
		p.delete = append(p.delete, podcontrol.Filter(pods, func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil })...)
		return
	case len(pods) == 0:
		if run {
			p.create = append(p.create, node.Name)
		}
		return
	}
	running := podcontrol.Filter(pods, podcontrol.Active)
	p.delete = append(p.delete, s.ended(node, pods)...)
	switch {
	case len(running) > 1 && s.surges():
		p.delete = append(p.delete, s.tooManyForSurge(running)...)
	case len(running) > 1:
		p.delete = append(p.delete, running[1:]...)
	case len(running) == 0 && run && s.surges(): // no need to wait until the old one has gone
		p.create = append(p.create, node.Name)
	}
}

// ended returns the pods that have ended and can be deleted, so that others take their place.
func (s *state) ended(node *corev1.Node, pods []*corev1.Pod) []*corev1.Pod {
	var doomed []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodSucceeded:
			s.events.Eventf(s.set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node.Name)
			doomed = append(doomed, pod)
		case pod.Status.Phase == corev1.PodFailed && s.mayReplace(node):
			s.events.Eventf(s.set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node.Name)
			doomed = append(doomed, pod)
		}
	}
	return doomed
}

// mayReplace tells whether a failed pod may be deleted now. A kubelet may refuse one pod after the other.
func (s *state) mayReplace(node *corev1.Node) bool {
	key := fmt.Sprintf("%s/%d/%s", s.set.UID, s.set.Status.ObservedGeneration, node.Name)
	if s.backoff.IsInBackOffSinceUpdate(key, s.now) {
		if delay := s.backoff.Get(key); s.again == 0 || delay < s.again {
			s.again = delay
		}
		return false
	}
	s.backoff.GC()
	s.backoff.Next(key, s.now)
	return true
}

// tooManyForSurge returns which of a node's pods to delete, oldest first, where two may run for a while: an old one that
// still serves and the new one that does not yet.
func (s *state) tooManyForSurge(running []*corev1.Pod) []*corev1.Pod {
	var doomed []*corev1.Pod
	var newPod, oldPod *corev1.Pod
	for _, pod := range running {
		current := pod.Labels[appsv1.ControllerRevisionHashLabelKey] == s.hash
		switch {
		case current && newPod == nil:
			newPod = pod
		case !current && oldPod == nil:
			oldPod = pod
		default:
			doomed = append(doomed, pod)
		}
	}
	if newPod != nil && oldPod != nil && (!podcontrol.Ready(oldPod) || s.available(newPod)) {
		doomed = append(doomed, oldPod)
	}
	return doomed
}

func (s *state) available(pod *corev1.Pod) bool {
	return podcontrol.Available(pod, s.set.Spec.MinReadySeconds, s.now)
}
