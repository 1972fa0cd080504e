// SPDX-License-Identifier: Apache-2.0

// Package job runs the pods of Jobs until enough of them have succeeded, or too many have failed.
//
// No end of a pod is counted twice or lost. Every pod of a Job has a finalizer, so it stays until the
// controller has (1) written its UID, or its completion index, to the Job's status, (2) removed the finalizer,
// and (3) moved the UID from status.uncountedTerminatedPods into the counters. A crash between any two steps
// is made good by the next call: tracking.go.
//
// A Job ends in two steps too. First the condition FailureTarget or SuccessCriteriaMet says that it will end
// and why; the pods that still run are deleted then. When the last of them has gone and all are counted, the
// condition Failed or Complete follows.
//
// Reading order: job.go (events), state.go (what one call of Reconcile does), ending.go (does the Job end?),
// manage.go (which pods to create and delete), tracking.go (counting). Without I/O are indexes.go, policy.go
// and backoff.go.
//
// NewOrphans is a second controller: it takes the finalizer off pods that no Job will count any more.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/job/
package job

import (
	"context"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "job-controller"
	Component = "job-controller"
)

const (
	// batchPeriod is how long events of pods are collected before the Job is looked at.
	batchPeriod = 100 * time.Millisecond
	// burst bounds how many pods one call of Reconcile creates or deletes.
	burst = 500
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

type controller struct {
	client       kubernetes.Interface
	events       record.EventRecorder
	control      *podcontrol.Control
	jobs         batchlisters.JobLister
	pods         cache.Indexer
	expectations *reconcile.Expectations // by UID of the Job
	memory       memory
	metrics      *metrics.Job
}

// New returns the controller of Jobs.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Job) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods().Informer()
	if err := owner.Index(pods); err != nil {
		return reconcile.Controller{}, err
	}
	jobs := factory.Batch().V1().Jobs()
	c := &controller{
		client:       client,
		events:       events,
		control:      &podcontrol.Control{Client: client, Events: events},
		jobs:         jobs.Lister(),
		pods:         pods.GetIndexer(),
		expectations: reconcile.NewExpectations(),
		memory:       memory{jobs: map[types.NamespacedName]*notes{}},
		metrics:      measured,
	}
	return reconcile.Controller{
		Name:      "job",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(jobs.Informer(), c.jobChanged),
			reconcile.On(pods, c.podChanged),
		},
		MinBackoff: time.Second,
		MaxBackoff: time.Minute,
	}, nil
}

// jobChanged queues the Job: at once if somebody wants something else, later if only its status changed.
func (c *controller) jobChanged(q reconcile.Queue, old, new *batchv1.Job) {
	if old == nil && managedElsewhere(new) {
		c.metrics.ManagedElsewhere.WithLabelValues(*new.Spec.ManagedBy).Inc()
	}
	switch {
	case new == nil:
		c.expectations.Forget(old.UID)
		q.Add(reconcile.KeyOf(old))
	case old != nil && old.Generation == new.Generation && old.DeletionTimestamp.Equal(new.DeletionTimestamp):
		q.AddAfter(reconcile.KeyOf(new), batchPeriod)
	default:
		q.Add(reconcile.KeyOf(new))
	}
}

// podChanged queues the Jobs that the change concerns and settles what they expected to see.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	c.countTracked(old, new)
	switch {
	case new == nil:
		c.podGone(q, old, true)
	case new.DeletionTimestamp != nil:
		c.podGone(q, new, false)
		if old != nil {
			c.queueOwner(q, old)
		}
	case old == nil:
		if ref := metav1.GetControllerOfNoCopy(new); ref != nil {
			c.expectations.Created(ref.UID)
			c.queueOwner(q, new)
		} else {
			c.queueMatching(q, new)
		}
	default:
		c.podUpdated(q, old, new)
	}
}

// podGone notes that a pod is asked to end, or, if final, is no more.
func (c *controller) podGone(q reconcile.Queue, pod *corev1.Pod, final bool) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return
	}
	c.expectations.Deleted(ref.UID, reconcile.KeyOf(pod))
	if final || !tracked(pod) {
		c.untrackedSeen(pod, pod.UID)
	}
	c.queueOwner(q, pod)
}

func (c *controller) podUpdated(q reconcile.Queue, old, new *corev1.Pod) {
	oldRef, newRef := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(new)
	moved := !apiequality.Semantic.DeepEqual(oldRef, newRef)
	if moved && oldRef != nil {
		if !tracked(new) {
			c.untrackedSeen(old, new.UID)
		}
		c.queueOwner(q, old)
	}
	switch {
	case newRef != nil:
		// Whether old had the finalizer does not matter: several updates may have become one event.
		if !tracked(new) {
			c.untrackedSeen(new, new.UID)
		}
		c.queueOwner(q, new)
	case moved || !maps.Equal(old.Labels, new.Labels):
		c.queueMatching(q, new)
	}
}

// untrackedSeen notes that a pod is seen without the finalizer by the Job that controls owned.
func (c *controller) untrackedSeen(owned *corev1.Pod, uid types.UID) {
	if key, ok := reconcile.OwnerKey(owned, kind); ok {
		c.memory.untrackedSeen(key, uid)
	}
}

func (c *controller) queueOwner(q reconcile.Queue, pod *corev1.Pod) {
	if key, ok := reconcile.OwnerKey(pod, kind); ok {
		q.AddAfter(key, batchPeriod)
	}
}

// queueMatching queues the Jobs that may want to adopt an orphan.
func (c *controller) queueMatching(q reconcile.Queue, pod *corev1.Pod) {
	adopters := owner.Adopters[*batchv1.Job]{
		In: func(namespace string) ([]*batchv1.Job, error) {
			return c.jobs.Jobs(namespace).List(labels.Everything())
		},
		Selector: func(job *batchv1.Job) *metav1.LabelSelector { return job.Spec.Selector },
	}
	for _, key := range adopters.Of(pod) {
		q.AddAfter(key, batchPeriod)
	}
}

// Reconcile counts the pods of the Job that have ended, creates and deletes pods, and decides whether the Job ends.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.jobs.Jobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.memory.forget(key)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	switch {
	case finished(cached):
		c.memory.forget(key)
		return reconcile.Result{}, nil
	case managedElsewhere(cached):
		return reconcile.Result{}, nil
	case !defaulted(cached):
		klog.FromContext(ctx).Info("Leaving a Job alone that lacks fields which the API server should have set")
		return reconcile.Result{}, nil
	case !knownCompletionMode(cached):
		c.events.Event(cached, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return reconcile.Result{}, nil
	}
	if !c.memory.upToDate(cached) {
		return reconcile.Result{}, nil // the event of our own write is on its way
	}
	start := time.Now()
	s, err := c.newState(ctx, cached.DeepCopy())
	if err != nil {
		return reconcile.Result{}, err
	}
	result, err := s.run(ctx)
	s.countSync(start, err)
	return result, err
}

// owned returns the pods that are the Job's, after adopting and releasing. They get the finalizer when adopted.
func (c *controller) owned(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, err
	}
	candidates, err := owner.Candidates[*corev1.Pod](c.pods, job)
	if err != nil {
		return nil, err
	}
	claimer := owner.Claimer[*corev1.Pod]{
		Owner:    job,
		Kind:     kind,
		Selector: selector,
		Live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
		Patch:      c.control.Patch,
		Finalizers: []string{batchv1.JobTrackingFinalizer},
	}
	pods, err := claimer.Claim(ctx, candidates)
	for i, pod := range pods {
		if !metav1.IsControlledBy(pod, job) && !tracked(pod) { // just adopted: the cache does not have the finalizer yet
			pods[i] = pod.DeepCopy()
			pods[i].Finalizers = append(pods[i].Finalizers, batchv1.JobTrackingFinalizer)
		}
	}
	return pods, err
}

// tracked tells whether the pod is still to be counted.
func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func managedElsewhere(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.ManagedBy, batchv1.JobControllerName) != batchv1.JobControllerName
}

// defaulted tells whether the fields that the API server fills in are there. Without a selector, the
// controller would take none of its own pods for its own.
func defaulted(job *batchv1.Job) bool {
	spec := &job.Spec
	return spec.Selector != nil && spec.Parallelism != nil && spec.BackoffLimit != nil && (!indexed(job) || spec.Completions != nil)
}

func knownCompletionMode(job *batchv1.Job) bool {
	switch ptr.Deref(job.Spec.CompletionMode, batchv1.NonIndexedCompletion) {
	case batchv1.NonIndexedCompletion, batchv1.IndexedCompletion:
		return true
	}
	return false
}

func indexed(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.CompletionMode, "") == batchv1.IndexedCompletion
}

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }

// finished tells whether the Job has come to its end.
func finished(job *batchv1.Job) bool {
	return conditionTrue(job, batchv1.JobComplete) != nil || conditionTrue(job, batchv1.JobFailed) != nil
}
