// SPDX-License-Identifier: Apache-2.0

// Package ttlafterfinished deletes finished Jobs once spec.ttlSecondsAfterFinished has passed.
//
// It watches Jobs and only ever deletes them. A delete names the resourceVersion that it was decided on, so a Job
// that changed in the meantime, or was recreated, is looked at again instead.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/
package ttlafterfinished

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "ttl-after-finished-controller"

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, measured *metrics.TTL) reconcile.Controller {
	jobs := factory.Batch().V1().Jobs()
	lister := jobs.Lister()
	return reconcile.Controller{
		Name: "ttl_jobs_to_delete",
		Reconcile: reconcile.Expiring[*batchv1.Job]{
			Get: func(key types.NamespacedName) (*batchv1.Job, error) { return lister.Jobs(key.Namespace).Get(key.Name) },
			Due: due,
			Delete: func(ctx context.Context, job *batchv1.Job, options metav1.DeleteOptions) error {
				options.PropagationPolicy = ptr.To(metav1.DeletePropagationForeground)
				err := client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, options)
				if at, _ := due(job); err == nil {
					measured.DeletionDuration.Observe(time.Since(at).Seconds())
				}
				return err
			},
		}.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(jobs.Informer(), func(q reconcile.Queue, _, new *batchv1.Job) {
				if new != nil && new.Spec.TTLSecondsAfterFinished != nil {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
	}
}

// due is when a Job's time is over; ends is false if it does not end that way, or not yet.
func due(job *batchv1.Job) (at time.Time, ends bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}
