// SPDX-License-Identifier: Apache-2.0

// Package statefulset runs pods that each have a name, a number and storage of their own.
//
// Pods are created in the order of their numbers and deleted in the opposite order, one at a time and only while
// the others are available; with podManagementPolicy Parallel, all at once. A pod that ends or is deleted comes
// back under its name, with its claims. What a pod is made from is kept in ControllerRevisions; an update deletes
// pods, highest number first, which then come back at the new revision.
//
// Each call of Reconcile looks at what there is and does the next step: rollout.go. pods.go says what a pod is
// like, claims.go what becomes of its PersistentVolumeClaims, revisions.go which templates there are.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/
package statefulset

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/history"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "statefulset-controller"
	Component = "statefulset-controller"
)

var (
	kind    = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	podKind = corev1.SchemeGroupVersion.WithKind("Pod")
)

type controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	sets    appslisters.StatefulSetLister
	pods    cache.Indexer
	claims  corelisters.PersistentVolumeClaimLister
	history *history.Store
	metrics *metrics.Stateful
}

// New returns the controller of StatefulSets.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Stateful) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods().Informer()
	if err := owner.Index(pods); err != nil {
		return reconcile.Controller{}, err
	}
	revisions, err := history.New(client, factory, kind)
	if err != nil {
		return reconcile.Controller{}, err
	}
	sets, claims := factory.Apps().V1().StatefulSets(), factory.Core().V1().PersistentVolumeClaims()
	c := &controller{
		client:  client,
		events:  events,
		sets:    sets.Lister(),
		pods:    pods.GetIndexer(),
		claims:  claims.Lister(),
		history: revisions,
		metrics: measured,
	}
	adopters := owner.Adopters[*appsv1.StatefulSet]{
		In: func(namespace string) ([]*appsv1.StatefulSet, error) {
			return c.sets.StatefulSets(namespace).List(labels.Everything())
		},
		Selector: func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector },
	}
	return reconcile.Controller{
		Name:      "statefulset",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(sets.Informer(), c.setChanged),
			reconcile.OnOwned[*corev1.Pod](pods, kind),
			owner.OnOrphans[*corev1.Pod](pods, adopters),
			reconcile.On(claims.Informer(), c.claimChanged),
		},
		Reads: []cache.SharedIndexInformer{factory.Apps().V1().ControllerRevisions().Informer()},
	}, nil
}

func (c *controller) setChanged(q reconcile.Queue, old, new *appsv1.StatefulSet) {
	if new == nil {
		c.metrics.Forget(old.Namespace, old.Name)
		return
	}
	q.Add(reconcile.KeyOf(new))
}

// claimChanged queues the sets that a claim which is gone was for: a pod may wait for that, or lack it.
func (c *controller) claimChanged(q reconcile.Queue, old, new *corev1.PersistentVolumeClaim) {
	if new != nil {
		return
	}
	sets, err := c.sets.StatefulSets(old.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		if isClaimOf(set, old.Name) {
			q.Add(reconcile.KeyOf(set))
		}
	}
}

// Reconcile does the next step for a StatefulSet and writes its status.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	set, err := c.sets.StatefulSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	set = set.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Invalid selector")
		return reconcile.Result{}, nil // an update queues it again
	}
	live := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
	revisions, err := c.history.Claim(ctx, set, selector, live)
	if err != nil {
		return reconcile.Result{}, err
	}
	pods, err := c.claim(ctx, set, selector, live)
	if err != nil {
		return reconcile.Result{}, err
	}

	r, err := c.newRollout(ctx, set, pods, revisions)
	if err != nil {
		return reconcile.Result{}, err
	}
	r.measure()
	err = errors.Join(r.step(ctx), r.writeStatus(ctx), r.forgetRevisions(ctx, revisions))
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: r.nextLook()}, nil
}

// claim returns the pods of the set after adopting and releasing. Pods belong to it by selector and by name.
func (c *controller) claim(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*corev1.Pod, error) {
	candidates, err := owner.Candidates[*corev1.Pod](c.pods, set)
	if err != nil {
		return nil, err
	}
	control := podcontrol.Control{Client: c.client}
	claimer := owner.Claimer[*corev1.Pod]{
		Owner: set, Kind: kind, Selector: selector, Live: live,
		Match: func(pod *corev1.Pod) bool {
			name, _ := parseName(pod.Name)
			return name == set.Name
		},
		Patch: control.Patch,
	}
	return claimer.Claim(ctx, candidates)
}

// writeStatus writes the status if it has changed. An update is complete once all pods are there, ready, and at its revision.
func (r *rollout) writeStatus(ctx context.Context) error {
	s, want := &r.status, *r.set.Spec.Replicas
	if s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	if apiequality.Semantic.DeepEqual(r.set.Status, *s) {
		return nil
	}
	set := r.set.DeepCopy()
	set.Status = *s
	if _, err := r.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of StatefulSet: %w", err)
	}
	return nil
}

// nextLook is when a pod that is ready becomes available.
func (r *rollout) nextLook() time.Duration {
	if r.status.ReadyReplicas == r.status.AvailableReplicas {
		return 0
	}
	return podcontrol.NextAvailable(r.pods, r.set.Spec.MinReadySeconds, r.now)
}
