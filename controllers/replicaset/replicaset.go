// SPDX-License-Identifier: Apache-2.0

// Package replicaset keeps as many pods running as a ReplicaSet asks for.
//
// It adopts orphaned pods that the selector matches, creates pods that are missing (a few first, more
// when that works), deletes the least valuable of those that are too many, and counts them in the status.
// It never updates the spec of anything. ReplicationControllers are driven by the same code: Sets says
// what is different.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/
package replicaset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "replicaset-controller"
	Component = "replicaset-controller"
)

// burst bounds how many pods one call of Reconcile creates or deletes.
const burst = 500

// Sets is the kind of object that says how many pods there should be, seen as ReplicaSets.
type Sets struct {
	Kind  schema.GroupVersionKind
	Queue string // name of the queue in the metrics

	Informer cache.SharedIndexInformer
	Get      func(key types.NamespacedName) (*appsv1.ReplicaSet, error) // from the cache: read only
	List     func(namespace string) ([]*appsv1.ReplicaSet, error)       // from the cache: read only
	Live     func(ctx context.Context, key types.NamespacedName) (metav1.Object, error)
	// UpdateStatus writes set.Status; set is the caller's own copy.
	UpdateStatus func(ctx context.Context, set *appsv1.ReplicaSet) error
	// EventObject returns the object that events about the set are for.
	EventObject func(set *appsv1.ReplicaSet) podcontrol.Owner
	// CountTerminating turns status.terminatingReplicas on.
	CountTerminating bool
}

// New returns the controller of ReplicaSets.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Replicas) (reconcile.Controller, error) {
	sets := factory.Apps().V1().ReplicaSets()
	lister := sets.Lister()
	return NewFor(Sets{
		Kind:     appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Queue:    "replicaset",
		Informer: sets.Informer(),
		Get: func(key types.NamespacedName) (*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(key.Namespace).Get(key.Name)
		},
		List: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).List(labels.Everything())
		},
		Live: func(ctx context.Context, key types.NamespacedName) (metav1.Object, error) {
			return client.AppsV1().ReplicaSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
		},
		UpdateStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			_, err := client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
			return err
		},
		EventObject:      func(set *appsv1.ReplicaSet) podcontrol.Owner { return set },
		CountTerminating: true,
	}, client, factory, events, measured)
}

// NewFor returns the controller of the given kind of sets.
func NewFor(sets Sets, client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Replicas) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods().Informer()
	if err := owner.Index(pods); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{
		sets:         sets,
		pods:         pods.GetIndexer(),
		control:      &podcontrol.Control{Client: client, Events: events},
		expectations: reconcile.NewExpectations(),
		metrics:      measured,
	}
	return reconcile.Controller{
		Name:      sets.Queue,
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(sets.Informer, c.setChanged),
			reconcile.On(pods, c.observe), // before the next, which queues
			reconcile.OnOwned[*corev1.Pod](pods, sets.Kind),
			owner.OnOrphans[*corev1.Pod](pods, owner.Adopters[*appsv1.ReplicaSet]{
				In:       sets.List,
				Selector: func(set *appsv1.ReplicaSet) *metav1.LabelSelector { return set.Spec.Selector },
			}),
		},
	}, nil
}

type controller struct {
	sets         Sets
	pods         cache.Indexer
	control      *podcontrol.Control
	expectations *reconcile.Expectations // by UID of the set
	metrics      *metrics.Replicas
}

func (c *controller) setChanged(q reconcile.Queue, old, new metav1.Object) {
	if new == nil {
		c.expectations.Forget(old.GetUID())
		q.Add(reconcile.KeyOf(old))
		return
	}
	q.Add(reconcile.KeyOf(new))
}

// observe settles what a set expected to see of its pods. One that is asked to end is no replica any more, even if it is the first
// that is seen of it.
func (c *controller) observe(_ reconcile.Queue, old, new *corev1.Pod) {
	pod := cmp.Or(new, old)
	ref := metav1.GetControllerOfNoCopy(pod)
	switch {
	case ref == nil:
	case new == nil || new.DeletionTimestamp != nil:
		c.expectations.Deleted(ref.UID, reconcile.KeyOf(pod))
	case old == nil:
		c.expectations.Created(ref.UID)
	}
}

// Reconcile makes the number of pods right, unless earlier creations and deletions are still to be seen,
// and writes the status.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.sets.Get(key)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(cached.Spec.Selector)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Invalid selector")
		return reconcile.Result{}, nil // an update queues it again
	}

	satisfied := c.expectations.Satisfied(cached.UID) // asked before the pods are listed
	if !satisfied {
		c.metrics.Skips.OfPods()
	}
	owned, err := owner.Owned[*corev1.Pod](c.pods, cached.UID)
	if err != nil {
		return reconcile.Result{}, err
	}
	orphans, err := owner.Orphans[*corev1.Pod](c.pods, cached.Namespace)
	if err != nil {
		return reconcile.Result{}, err
	}
	set := cached.DeepCopy()
	active, err := c.claim(ctx, set, selector, podcontrol.Filter(append(orphans, owned...), podcontrol.Active))
	if err != nil {
		return reconcile.Result{}, err
	}

	var manageErr error
	if satisfied && set.DeletionTimestamp == nil {
		var made []*corev1.Pod
		made, manageErr = c.manage(ctx, set, active)
		active = append(active, made...) // or the status would tell of each as it is seen
	}

	now := time.Now()
	status := newStatus(set, active, manageErr, now)
	if c.sets.CountTerminating {
		n := int32(len(podcontrol.Owned(podcontrol.Filter(owned, podcontrol.Terminating), set, selector)))
		status.TerminatingReplicas = &n
	}
	// While pods that were made or deleted are still to be seen, the cache is known to be behind: that event is for the status.
	if satisfied && !apiequality.Semantic.DeepEqual(set.Status, status) {
		set.Status = status
		if err := c.sets.UpdateStatus(ctx, set); err != nil {
			return reconcile.Result{}, errors.Join(fmt.Errorf("update status of %s: %w", c.sets.Kind.Kind, err), manageErr)
		}
	}
	if manageErr != nil {
		return reconcile.Result{}, manageErr
	}
	next := podcontrol.NextAvailable(active, set.Spec.MinReadySeconds, now)
	return reconcile.Result{RequeueAfter: reconcile.Earlier(next, c.expectations.Left(set.UID))}, nil
}

func (c *controller) claim(ctx context.Context, set *appsv1.ReplicaSet, selector labels.Selector, pods []*corev1.Pod) ([]*corev1.Pod, error) {
	claimer := owner.Claimer[*corev1.Pod]{
		Owner:    set,
		Kind:     c.sets.Kind,
		Selector: selector,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.sets.Live(ctx, reconcile.KeyOf(set))
		},
		Patch: c.control.Patch,
	}
	return claimer.Claim(ctx, pods)
}

// manage creates or deletes pods until there are as many as the set wants. It returns those that it has made.
func (c *controller) manage(ctx context.Context, set *appsv1.ReplicaSet, active []*corev1.Pod) (made []*corev1.Pod, err error) {
	missing := int(*set.Spec.Replicas) - len(active)
	switch {
	case missing > 0:
		return c.create(ctx, set, min(missing, burst))
	case missing < 0:
		return nil, c.delete(ctx, set, active, min(-missing, burst))
	}
	return nil, nil
}

func (c *controller) create(ctx context.Context, set *appsv1.ReplicaSet, n int) ([]*corev1.Pod, error) {
	klog.FromContext(ctx).V(2).Info("Too few replicas", "need", *set.Spec.Replicas, "creating", n)
	ref := metav1.NewControllerRef(set, c.sets.Kind)
	object := c.sets.EventObject(set)
	c.expectations.ExpectCreations(set.UID, n)
	made := make([]*corev1.Pod, n)
	created, err := podcontrol.SlowStart(n, func(i int) (err error) {
		made[i], err = c.control.Create(ctx, object, podcontrol.FromTemplate(&set.Spec.Template, set, ref))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // cannot work and need not: the set goes as well
		}
		return err
	})
	for range n - created {
		c.expectations.Created(set.UID)
	}
	return podcontrol.Filter(made, func(pod *corev1.Pod) bool { return pod != nil }), err
}

func (c *controller) delete(ctx context.Context, set *appsv1.ReplicaSet, active []*corev1.Pod, n int) error {
	klog.FromContext(ctx).V(2).Info("Too many replicas", "need", *set.Spec.Replicas, "deleting", n)
	if n < len(active) { // otherwise all go, in whatever order
		related, err := c.related(set)
		if err != nil {
			return err
		}
		now := time.Now()
		podcontrol.SortForDeletion(active, related, now)
		for _, ratio := range deletionAgeRatios(active, n, now) {
			c.metrics.DeletionAgeRatio.Observe(ratio)
		}
	}
	doomed := active[:n]
	keys := make([]types.NamespacedName, n)
	for i, pod := range doomed {
		keys[i] = reconcile.KeyOf(pod)
	}
	c.expectations.ExpectDeletions(set.UID, keys...)

	object := c.sets.EventObject(set)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, pod := range doomed {
		wg.Go(func() {
			if err := c.control.Delete(ctx, object, pod); err != nil {
				c.expectations.Deleted(set.UID, keys[i]) // nothing to wait for
				if !apierrors.IsNotFound(err) {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// deletionAgeRatios compares the ages of those of the first n pods that are ready with that of the youngest ready one. As
// upstream's, the ratios are whole numbers.
func deletionAgeRatios(pods []*corev1.Pod, n int, now time.Time) (ratios []float64) {
	age := func(pod *corev1.Pod) int64 { return now.Sub(pod.CreationTimestamp.Time).Milliseconds() }
	ready := podcontrol.Filter(pods, podcontrol.Ready)
	if len(ready) == 0 {
		return nil
	}
	youngest := age(slices.MinFunc(ready, func(a, b *corev1.Pod) int { return cmp.Compare(age(a), age(b)) }))
	if youngest <= 0 {
		return nil
	}
	for _, pod := range podcontrol.Filter(pods[:n:n], podcontrol.Ready) {
		ratios = append(ratios, float64(age(pod)/youngest))
	}
	return ratios
}

// related returns the pods of all sets that have the same controller as the given one: during a
// rollout, the pods of the other revisions count as neighbours too.
func (c *controller) related(set *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return nil, nil
	}
	sets, err := c.sets.List(set.Namespace)
	if err != nil {
		return nil, err
	}
	var related []*corev1.Pod
	for _, sibling := range sets {
		if siblingRef := metav1.GetControllerOfNoCopy(sibling); siblingRef == nil || siblingRef.UID != ref.UID {
			continue
		}
		pods, err := owner.Owned[*corev1.Pod](c.pods, sibling.UID)
		if err != nil {
			return nil, err
		}
		related = append(related, pods...)
	}
	return related, nil
}
