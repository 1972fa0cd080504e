// SPDX-License-Identifier: Apache-2.0

// Package ttlafterfinished deletes finished Jobs once spec.ttlSecondsAfterFinished has passed.
//
// It watches Jobs and only ever deletes them. A delete names the resourceVersion that it was decided on, so a Job
// that changed in the meantime, or was recreated, is looked at again instead.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "ttl-after-finished-controller"

type controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	jobs := factory.Batch().V1().Jobs()
	c := &controller{client: client, jobs: jobs.Lister()}
	return reconcile.Controller{
		Name:      "ttl_jobs_to_delete",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(jobs.Informer(), func(q reconcile.Queue, _, new *batchv1.Job) {
				if new != nil && new.Spec.TTLSecondsAfterFinished != nil {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
	}
}

// Reconcile deletes the Job if its TTL has passed, or asks to see it again when it will have.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	job, err := c.jobs.Jobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	left, ok := ttlLeft(job, time.Now())
	if !ok || left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	foreground := metav1.DeletePropagationForeground
	err = c.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
		PropagationPolicy: &foreground,
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	})
	// Conflict: it changed, and that change queues it again.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return reconcile.Result{}, fmt.Errorf("delete expired Job: %w", err)
	}
	return reconcile.Result{}, nil
}

// ttlLeft is how long a Job still stays; ok is false if it does not end that way (yet).
func ttlLeft(job *batchv1.Job, now time.Time) (left time.Duration, ok bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			ttl := time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second
			return c.LastTransitionTime.Add(ttl).Sub(now), true
		}
	}
	return 0, false
}
