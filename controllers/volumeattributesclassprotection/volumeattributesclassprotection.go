// SPDX-License-Identifier: Apache-2.0

// Package volumeattributesclassprotection keeps a deleted VolumeAttributesClass until no claim and no volume names it.
//
// Admission gives each new class a finalizer; this controller takes it away, and gives it to classes that lack it.
// Reference: https://kubernetes.io/docs/concepts/storage/volume-attributes-classes/
package volumeattributesclassprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "volumeattributesclass-protection-controller"

const finalizer = "kubernetes.io/vac-protection"

// classIndex finds the claims and the volumes that name a class.
const classIndex = "volumeAttributesClass"

type controller struct {
	client          kubernetes.Interface
	classes         storagelisters.VolumeAttributesClassLister
	claims, volumes cache.Indexer
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) (reconcile.Controller, error) {
	classes := factory.Storage().V1().VolumeAttributesClasses()
	claims, volumes := factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().PersistentVolumes().Informer()
	for _, informer := range []cache.SharedIndexInformer{claims, volumes} {
		if err := informer.AddIndexers(cache.Indexers{classIndex: func(obj any) ([]string, error) { return named(obj), nil }}); err != nil {
			return reconcile.Controller{}, fmt.Errorf("add index %q: %w", classIndex, err)
		}
	}
	c := &controller{client: client, classes: classes.Lister(), claims: claims.GetIndexer(), volumes: volumes.GetIndexer()}
	return reconcile.Controller{
		Name:      "vacprotection",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*storagev1.VolumeAttributesClass](classes.Informer()),
			reconcile.On(claims, func(q reconcile.Queue, old, new *corev1.PersistentVolumeClaim) { addDropped(q, named(old), named(new)) }),
			reconcile.On(volumes, func(q reconcile.Queue, old, new *corev1.PersistentVolume) { addDropped(q, named(old), named(new)) }),
		},
	}, nil
}

// named lists the classes that a claim or a volume names: what it wants, has, and is changing to.
func named(obj any) []string {
	var names []string
	switch obj := obj.(type) {
	case *corev1.PersistentVolume:
		if obj != nil {
			names = []string{ptr.Deref(obj.Spec.VolumeAttributesClassName, "")}
		}
	case *corev1.PersistentVolumeClaim:
		if obj == nil {
			break
		}
		names = []string{ptr.Deref(obj.Spec.VolumeAttributesClassName, ""), ptr.Deref(obj.Status.CurrentVolumeAttributesClassName, "")}
		if s := obj.Status.ModifyVolumeStatus; s != nil {
			names = append(names, s.TargetVolumeAttributesClassName)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// addDropped queues the classes that are no longer named.
func addDropped(q reconcile.Queue, before, now []string) {
	for _, name := range before {
		if !slices.Contains(now, name) {
			q.Add(types.NamespacedName{Name: name})
		}
	}
}

// Reconcile gives the finalizer to a class, or takes it away.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	class, err := c.classes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	protected := slices.Contains(class.Finalizers, finalizer)
	finalizers := slices.Clone(class.Finalizers)
	switch {
	case class.DeletionTimestamp == nil && !protected:
		finalizers = append(finalizers, finalizer)
	case class.DeletionTimestamp != nil && protected && !c.used(class.Name):
		finalizers = slices.DeleteFunc(finalizers, func(f string) bool { return f == finalizer })
	default:
		return reconcile.Result{}, nil
	}
	class = class.DeepCopy()
	class.Finalizers = finalizers
	_, err = c.client.StorageV1().VolumeAttributesClasses().Update(ctx, class, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("update finalizers of class: %w", err)
	}
	return reconcile.Result{}, nil
}

func (c *controller) used(class string) bool {
	for _, objects := range []cache.Indexer{c.volumes, c.claims} {
		if keys, err := objects.IndexKeys(classIndex, class); err != nil || len(keys) > 0 {
			return true
		}
	}
	return false
}
