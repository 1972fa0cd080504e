// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/queue"
)

// watch registers for what every pod needs. Handlers run one after the other for each kind.
func (s *Scheduler) watch() error {
	core := s.informers.Core().V1()
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{core.Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.podChanged(nil, obj.(*v1.Pod)) },
			UpdateFunc: func(old, obj any) { s.podChanged(old.(*v1.Pod), obj.(*v1.Pod)) },
			DeleteFunc: onDelete(s.podDeleted),
		}},
		{core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.nodeChanged(nil, obj.(*v1.Node)) },
			UpdateFunc: func(old, obj any) { s.nodeChanged(old.(*v1.Node), obj.(*v1.Node)) },
			DeleteFunc: onDelete(s.nodeDeleted),
		}},
		{core.Namespaces().Informer(), cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, obj any) { s.namespaceChanged(old.(*v1.Namespace), obj.(*v1.Namespace)) },
		}},
	} {
		registration, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return err
		}
		s.synced = append(s.synced, registration.HasSyncedChecker())
	}
	return nil
}

// notify has pods tried again that the event may help.
func (s *Scheduler) notify(event *framework.Event) {
	began := time.Now()
	s.queue.Notify(event)
	s.handled(event.Label(), began)
}

func (s *Scheduler) handled(event string, began time.Time) {
	s.metrics.Handling.WithLabelValues(event).Observe(time.Since(began).Seconds())
}

func onDelete[T any](handle func(T)) func(any) {
	return func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if t, ok := obj.(T); ok {
			handle(t)
		}
	}
}

func finished(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// podChanged takes over a pod; old is nil if it is new.
func (s *Scheduler) podChanged(old, pod *v1.Pod) {
	if old != nil && old.UID != pod.UID { // recreated between two looks
		s.podDeleted(old)
		old = nil
	}
	switch {
	case finished(pod):
		if old != nil && !finished(old) {
			s.podDeleted(old)
		}
	case pod.Spec.NodeName != "":
		s.assignedPodChanged(old, pod)
	case s.profileOf(pod) == nil:
	case s.cache.IsAssumed(pod):
		if pod.DeletionTimestamp != nil && (old == nil || old.DeletionTimestamp == nil) {
			s.assumedPodDeleted(pod)
		}
	case old == nil:
		began := time.Now()
		s.queue.Add(pod)
		s.handled(queue.PodAdd, began)
	default:
		began := time.Now()
		s.queue.Update(old, pod, targetPodEvents(old, pod))
		s.handled(queue.PodUpdate, began)
		if n := old.Status.NominatedNodeName; n != "" && n != pod.Status.NominatedNodeName {
			s.nominationEnded(old)
		}
	}
}

func (s *Scheduler) assignedPodChanged(old, pod *v1.Pod) {
	s.cache.SetPod(framework.NewPodInfo(pod))
	event := &framework.Event{Kind: framework.AssignedPod, Action: framework.Add, New: pod}
	if old == nil || old.Spec.NodeName == "" {
		s.queue.Delete(pod)
	} else {
		event.Old, event.Action = old, podActions(old, pod)
	}
	if event.Action != 0 {
		s.notify(event)
	}
}

func (s *Scheduler) podDeleted(pod *v1.Pod) {
	s.queue.Delete(pod)
	if pod.Spec.NodeName == "" && s.cache.IsAssumed(pod) {
		s.assumedPodDeleted(pod)
		return
	}
	s.cache.RemovePod(pod)
	switch {
	case pod.Spec.NodeName != "":
		s.notify(&framework.Event{Kind: framework.AssignedPod, Action: framework.Delete, Old: pod})
	case pod.Status.NominatedNodeName != "":
		s.nominationEnded(pod)
	}
}

// assumedPodDeleted gives others the room of a pod whose binding may still go on for a while, and will fail.
func (s *Scheduler) assumedPodDeleted(pod *v1.Pod) {
	s.preparing.takeBack(pod.UID, "pod is being deleted")
	if assumed := s.cache.RemovePod(pod); assumed != nil {
		s.notify(&framework.Event{Kind: framework.AssignedPod, Action: framework.Delete, Old: assumed})
	}
}

// nominationEnded tells the queue that a pod no longer keeps room on the node it was nominated to. More important pods never minded it.
func (s *Scheduler) nominationEnded(pod *v1.Pod) {
	was := pod.DeepCopy()
	was.Spec.NodeName = pod.Status.NominatedNodeName
	priority := framework.Priority(pod)
	s.notify(&framework.Event{Kind: framework.AssignedPod, Action: framework.Delete, Old: was, UpTo: &priority})
}

// podActions says what a pod's update may mean to other pods.
func podActions(old, pod *v1.Pod) framework.Action {
	var a framework.Action
	if !maps.Equal(old.Labels, pod.Labels) {
		a |= framework.UpdatePodLabel
	}
	if scaledDown(old, pod) {
		a |= framework.UpdatePodScaleDown
	}
	if old.DeletionTimestamp == nil && pod.DeletionTimestamp != nil {
		a |= framework.UpdateOther // topology spread does not count terminating pods
	}
	return a
}

func scaledDown(old, pod *v1.Pod) bool {
	if old.Generation == pod.Generation && equality.Semantic.DeepEqual(old.Status.ContainerStatuses, pod.Status.ContainerStatuses) {
		return false
	}
	before, after := framework.NewPodInfo(old).Request, framework.NewPodInfo(pod).Request
	if after.MilliCPU < before.MilliCPU || after.Memory < before.Memory || after.EphemeralStorage < before.EphemeralStorage {
		return true
	}
	for name, value := range before.Scalar {
		if after.Scalar[name] < value {
			return true
		}
	}
	return false
}

// targetPodEvents says what a waiting pod's update may mean to itself. A status update is no event, but for the names of
// claims that were made for it.
func targetPodEvents(old, pod *v1.Pod) []*framework.Event {
	a := podActions(old, pod)
	if len(old.Spec.Tolerations) != len(pod.Spec.Tolerations) {
		a |= framework.UpdatePodTolerations
	}
	if len(old.Spec.SchedulingGates) > 0 && len(pod.Spec.SchedulingGates) == 0 {
		a |= framework.UpdatePodGates
	}
	if !resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) ||
		!resourceclaim.PodExtendedStatusEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus) {
		a |= framework.UpdatePodGeneratedClaim
	}
	if a == 0 && old.Generation != pod.Generation {
		a = framework.UpdateOther
	}
	if a == 0 {
		return nil
	}
	return []*framework.Event{{Kind: framework.TargetPod, Action: a, Old: old, New: pod}}
}

// nodeChanged takes over a node; old is nil if it is new. A heartbeat is no event.
func (s *Scheduler) nodeChanged(old, node *v1.Node) {
	s.cache.SetNode(node)
	event := &framework.Event{Kind: framework.Node, Action: framework.Add, New: node}
	if old != nil {
		event.Old, event.Action = old, nodeActions(old, node)
	}
	if event.Action != 0 {
		s.notify(event)
	}
}

func nodeActions(old, node *v1.Node) framework.Action {
	var a framework.Action
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		a |= framework.UpdateNodeAllocatable
	}
	if !maps.Equal(old.Labels, node.Labels) {
		a |= framework.UpdateNodeLabel
	}
	if !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) || old.Spec.Unschedulable && !node.Spec.Unschedulable {
		a |= framework.UpdateNodeTaint
	}
	if !slices.Equal(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures) {
		a |= framework.UpdateNodeDeclaredFeature
	}
	if !slices.EqualFunc(old.Status.Conditions, node.Status.Conditions, sameCondition) {
		a |= framework.UpdateNodeCondition
	}
	if !maps.Equal(old.Annotations, node.Annotations) {
		a |= framework.UpdateNodeAnnotation
	}
	return a
}

func sameCondition(a, b v1.NodeCondition) bool { return a.Type == b.Type && a.Status == b.Status }

func (s *Scheduler) nodeDeleted(node *v1.Node) {
	s.cache.RemoveNode(node)
	s.notify(&framework.Event{Kind: framework.Node, Action: framework.Delete, Old: node})
}

func (s *Scheduler) namespaceChanged(old, namespace *v1.Namespace) {
	if !maps.Equal(old.Labels, namespace.Labels) {
		s.notify(&framework.Event{Kind: framework.Namespace, Action: framework.UpdateOther, Old: old, New: namespace})
	}
}
