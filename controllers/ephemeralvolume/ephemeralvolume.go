// SPDX-License-Identifier: Apache-2.0

// Package ephemeralvolume makes the PersistentVolumeClaims of pods' generic ephemeral volumes.
//
// It only ever creates. A claim is owned by its pod, so the garbage collector deletes it. A claim of that name that
// is not the pod's is left alone, and the pod is told so.
// Reference: https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes
package ephemeralvolume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "ephemeral-volume-controller"
	Component = "ephemeral_volume"
)

type controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	pods    corelisters.PodLister
	indexed cache.Indexer // the same pods
	claims  corelisters.PersistentVolumeClaimLister
	metrics *metrics.Ephemeral
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Ephemeral) (reconcile.Controller, error) {
	pods, claims := factory.Core().V1().Pods(), factory.Core().V1().PersistentVolumeClaims()
	if err := podcontrol.IndexByClaim(pods.Informer()); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{client: client, events: events, pods: pods.Lister(), indexed: pods.Informer().GetIndexer(), claims: claims.Lister(), metrics: measured}
	return reconcile.Controller{
		Name:      "ephemeral_volume",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(pods.Informer(), func(q reconcile.Queue, old, new *corev1.Pod) {
				if old == nil && concerns(new) { // a pod's volumes never change
					q.Add(reconcile.KeyOf(new))
				}
			}),
			reconcile.On(claims.Informer(), func(q reconcile.Queue, old, new *corev1.PersistentVolumeClaim) {
				if new == nil { // it may have been in the way, or be missed
					c.addUsers(q, reconcile.KeyOf(old))
				}
			}),
		},
	}, nil
}

// addUsers queues the pods that need a claim of this name.
func (c *controller) addUsers(q reconcile.Queue, claim types.NamespacedName) {
	pods, _ := podcontrol.ByClaim(c.indexed, claim) // the index exists
	for _, pod := range pods {
		if concerns(pod) {
			q.Add(reconcile.KeyOf(pod))
		}
	}
}

// concerns tells whether a pod has volumes that need claims.
func concerns(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// Reconcile makes the claims that a pod lacks.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && pod.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil {
			continue
		}
		if err := c.ensure(ctx, pod, v); err != nil {
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return reconcile.Result{}, fmt.Errorf("ephemeral volume %s: %w", v.Name, err)
		}
	}
	return reconcile.Result{}, nil
}

func (c *controller) ensure(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(pod, v)
	claim, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(name)
	if err == nil {
		return ephemeral.VolumeIsForPod(pod, claim)
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	template := v.Ephemeral.VolumeClaimTemplate
	claim = &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name:            name,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}
	c.metrics.Created.Inc()
	if _, err := c.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, claim, metav1.CreateOptions{}); err != nil {
		c.metrics.Failed.Inc()
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}
