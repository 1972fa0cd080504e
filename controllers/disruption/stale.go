// SPDX-License-Identifier: Apache-2.0

package disruption

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// staleAfter is how long a pod may be a target of a disruption without being deleted.
const staleAfter = 2 * time.Minute

type staleConditions struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
}

// NewStaleConditions returns the controller that resets DisruptionTarget of pods that are not disrupted after all.
func NewStaleConditions(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	pods := factory.Core().V1().Pods()
	s := &staleConditions{client: client, pods: pods.Lister()}
	return reconcile.Controller{
		Name:      "stale_pod_disruption",
		Reconcile: s.Reconcile,
		Watches: []reconcile.Watch{reconcile.On(pods.Informer(), func(q reconcile.Queue, _, new *corev1.Pod) {
			if new == nil {
				return
			}
			if _, ok := staleIn(new, time.Now()); ok {
				q.Add(reconcile.KeyOf(new))
			}
		})},
	}
}

// Reconcile resets the condition if it is stale.
func (s *staleConditions) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pod, err := s.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	left, ok := staleIn(pod, time.Now())
	if !ok || left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	status := pod.Status.DeepCopy()
	podcontrol.SetCondition(status, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation})
	if err := podcontrol.PatchStatus(ctx, s.client, pod, *status); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// staleIn is how long it is until the pod's DisruptionTarget is stale; ok is false if it never is. What the kubelet says
// is not: it may take any time to end a pod.
func staleIn(pod *corev1.Pod, now time.Time) (left time.Duration, ok bool) {
	c := podcontrol.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet ||
		pod.DeletionTimestamp != nil || podcontrol.Terminal(pod) {
		return 0, false
	}
	return max(0, staleAfter-now.Sub(c.LastTransitionTime.Time)), true
}
