// SPDX-License-Identifier: Apache-2.0

// Package localpath makes PersistentVolumes out of directories on nodes: the provisioner of the class local-path.
//
// It does what an external provisioner does, and by the same annotations. A claim that the binder has handed to it
// (claims.go) gets a directory on the node that the scheduler has selected, and a volume that only that node can
// use. A volume whose claim is gone (volumes.go) loses its directory first, then its object.
//
// The directories are made and removed by the nodes' kubelets, which are asked through the API server (nodes.go):
// nodes need no further rights, and no pods. Nothing limits what is written to a directory.
// Reference: https://kubernetes.io/docs/concepts/storage/storage-classes/#local
package localpath

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/role"
)

// Name is the controllers' identity, Component their name in events.
const (
	Name      = "local-path-provisioner"
	Component = "local-path-provisioner"
)

// Provisioner is what StorageClasses call this provisioner.
const Provisioner = "local-path.skiff.io"

type provisioner struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	nodes   Nodes
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	node    corelisters.NodeLister
}

// Nodes makes and removes directories on nodes.
type Nodes interface {
	// Make makes a directory, or finds it, and returns where it is.
	Make(ctx context.Context, node, volume string) (path string, err error)
	// Remove removes a directory and all in it; there may be none.
	Remove(ctx context.Context, node, volume string) error
}

func newProvisioner(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, nodes Nodes) *provisioner {
	return &provisioner{
		client:  client,
		events:  events,
		nodes:   nodes,
		claims:  factory.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: factory.Core().V1().PersistentVolumes().Lister(),
		classes: factory.Storage().V1().StorageClasses().Lister(),
		node:    factory.Core().V1().Nodes().Lister(),
	}
}

// NewClaims returns the controller that makes volumes.
func NewClaims(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, nodes Nodes) reconcile.Controller {
	p := newProvisioner(client, factory, events, nodes)
	core := factory.Core().V1()
	return reconcile.Controller{
		Name:      "local_path_claims",
		Reconcile: p.reconcileClaim,
		Watches: []reconcile.Watch{
			reconcile.On(core.PersistentVolumeClaims().Informer(), func(q reconcile.Queue, _, new *corev1.PersistentVolumeClaim) {
				if new != nil && asksUs(new) {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{
			core.PersistentVolumes().Informer(), core.Nodes().Informer(), factory.Storage().V1().StorageClasses().Informer(),
		},
	}
}

// NewVolumes returns the controller that takes volumes away.
func NewVolumes(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, nodes Nodes) reconcile.Controller {
	p := newProvisioner(client, factory, events, nodes)
	return reconcile.Controller{
		Name:      "local_path_volumes",
		Reconcile: p.reconcileVolume,
		Watches: []reconcile.Watch{
			reconcile.On(factory.Core().V1().PersistentVolumes().Informer(), func(q reconcile.Queue, _, new *corev1.PersistentVolume) {
				if new != nil && due(new) != nothing {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{factory.Core().V1().Nodes().Informer()},
	}
}

// asksUs says whether a claim waits for a volume that we have to make.
func asksUs(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil &&
		claim.Annotations[storagehelper.AnnStorageProvisioner] == Provisioner
}

// Made says whether a volume is one of ours.
func Made(pv *corev1.PersistentVolume) bool {
	return pv.Annotations[storagehelper.AnnDynamicallyProvisioned] == Provisioner && pv.Spec.Local != nil
}

// Class is the StorageClass that claims get which name none.
func Class() *storagev1.StorageClass {
	mode, policy := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete
	class := &storagev1.StorageClass{Provisioner: Provisioner, VolumeBindingMode: &mode, ReclaimPolicy: &policy, AllowVolumeExpansion: ptr.To(true)}
	class.Name = "local-path"
	class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	return class
}

// Role is what the provisioner may do, and the binding that says so.
func Role() (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	return role.New(Name,
		role.Rule("create delete get update", "", "persistentvolumes"),
		role.Rule("update", "", "persistentvolumeclaims"),
		role.Rule("update delete", "", "nodes/proxy"),
		role.Rule("create patch update", "", "events"),
	)
}
