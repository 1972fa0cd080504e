// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// orphans takes the finalizer off pods that no Job will count: the Job is gone or has ended, or the pod is not its
// own any more.
type orphans struct {
	control *podcontrol.Control
	jobs    batchlisters.JobLister
	pods    corelisters.PodLister
	indexer cache.Indexer // of the same pods
}

// NewOrphans returns the controller that keeps pods of Jobs deletable.
func NewOrphans(client kubernetes.Interface, factory informers.SharedInformerFactory) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods()
	if err := owner.Index(pods.Informer()); err != nil {
		return reconcile.Controller{}, err
	}
	jobs := factory.Batch().V1().Jobs()
	o := &orphans{
		control: &podcontrol.Control{Client: client},
		jobs:    jobs.Lister(),
		pods:    pods.Lister(),
		indexer: pods.Informer().GetIndexer(),
	}
	return reconcile.Controller{
		Name:      "job_orphan_pod",
		Reconcile: o.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(jobs.Informer(), o.jobChanged),
			reconcile.On(pods.Informer(), o.podChanged),
		},
		MinBackoff: time.Second,
		MaxBackoff: time.Minute,
	}, nil
}

// jobChanged queues the pods of a Job that is gone or has ended. It should have none with the finalizer.
func (o *orphans) jobChanged(q reconcile.Queue, old, new *batchv1.Job) {
	job := new
	if new == nil {
		job = old
	} else if !finished(new) {
		return
	}
	pods, err := owner.Owned[*corev1.Pod](o.indexer, job.UID)
	if err != nil {
		return
	}
	for _, pod := range podcontrol.Filter(pods, tracked) {
		q.Add(reconcile.KeyOf(pod))
	}
}

// podChanged queues pods that have no owner, or that are to go and have no Job that looks after them.
func (o *orphans) podChanged(q reconcile.Queue, _, new *corev1.Pod) {
	if new == nil || !tracked(new) {
		return
	}
	if metav1.GetControllerOfNoCopy(new) == nil || new.DeletionTimestamp != nil && o.orphaned(new) {
		q.Add(reconcile.KeyOf(new))
	}
}

// Reconcile removes the finalizer if the pod is an orphan.
func (o *orphans) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pod, err := o.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil || !o.orphaned(pod) {
		return reconcile.Result{}, err
	}
	if err := untrack(ctx, o.control, pod); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// orphaned tells whether no Job will count the pod.
func (o *orphans) orphaned(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return true
	}
	if ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return false
	}
	job, err := o.jobs.Jobs(pod.Namespace).Get(ref.Name)
	if err != nil || job.UID != ref.UID {
		return true
	}
	return finished(job) && !managedElsewhere(job)
}
