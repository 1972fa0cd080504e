// SPDX-License-Identifier: Apache-2.0

// Package persistentvolume brings PersistentVolumeClaims and PersistentVolumes together.
//
// There are two controllers. That of claims (claims.go) finds a volume for each claim, or asks the provisioner of
// the claim's class for one, and binds the two: the volume is written first, then the claim. That of volumes
// (volumes.go) says what phase a volume is in, and what becomes of it when its claim is gone. Volumes are
// made and deleted by provisioners, which watch claims and volumes by themselves; none is built in here, but that hostPath volumes
// below /tmp are deleted.
//
// What to do is decided without I/O, from what the informers have. Before a claim gets a volume that was not
// promised to it yet, the claim is read from the API once more: a cache that is behind must not bind it twice.
// Reference: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
package persistentvolume

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storagehelper "k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controllers' identity, Component their name in events.
const (
	Name      = "persistent-volume-binder"
	Component = "persistentvolume-controller"
)

// inTree begins the names of provisioners that were once part of Kubernetes. None of them is left.
const inTree = "kubernetes.io/"

type binder struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	claims  corelisters.PersistentVolumeClaimLister
	unbound cache.Indexer
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	pods    cache.Indexer

	metrics    *metrics.Volumes
	operations *operations
}

// unboundIndex finds the claims that have no volume yet, under the one key that it has.
const (
	unboundIndex = "unboundClaim"
	unboundKey   = "unbound"
)

func newBinder(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Volumes) *binder {
	core := factory.Core().V1()
	return &binder{
		client:  client,
		events:  events,
		claims:  core.PersistentVolumeClaims().Lister(),
		unbound: core.PersistentVolumeClaims().Informer().GetIndexer(),
		volumes: core.PersistentVolumes().Lister(),
		classes: factory.Storage().V1().StorageClasses().Lister(),
		pods:    core.Pods().Informer().GetIndexer(),

		metrics:    measured,
		operations: newOperations(measured),
	}
}

// NewClaims returns the controller of claims.
func NewClaims(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Volumes) (reconcile.Controller, error) {
	core, classes := factory.Core().V1(), factory.Storage().V1().StorageClasses().Informer()
	claims, pods := core.PersistentVolumeClaims().Informer(), core.Pods().Informer()
	if err := podcontrol.IndexByClaim(pods); err != nil {
		return reconcile.Controller{}, err
	}
	if err := claims.AddIndexers(cache.Indexers{unboundIndex: func(obj any) ([]string, error) {
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && !bindCompleted(claim) {
			return []string{unboundKey}, nil
		}
		return nil, nil
	}}); err != nil {
		return reconcile.Controller{}, fmt.Errorf("add index %q: %w", unboundIndex, err)
	}
	b := newBinder(client, factory, events, measured)
	return reconcile.Controller{
		Name:      "claims",
		Reconcile: b.reconcileClaim,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.PersistentVolumeClaim](claims),
			reconcile.On(core.PersistentVolumes().Informer(), b.claimsOfVolume),
			reconcile.OnAny(classes, func(q reconcile.Queue, _ *storagev1.StorageClass) { b.addUnbound(q) }),
			reconcile.On(pods, b.claimsOfPod),
		},
	}, nil
}

// claimIndex finds the volumes that are promised to a claim, which need not know it yet.
const claimIndex = "claimOfVolume"

// NewVolumes returns the controller of volumes.
func NewVolumes(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Volumes) (reconcile.Controller, error) {
	core := factory.Core().V1()
	volumes := core.PersistentVolumes().Informer()
	if err := volumes.AddIndexers(cache.Indexers{claimIndex: func(obj any) ([]string, error) {
		if pv, ok := obj.(*corev1.PersistentVolume); ok && pv.Spec.ClaimRef != nil {
			return []string{claimOf(pv).String()}, nil
		}
		return nil, nil
	}}); err != nil {
		return reconcile.Controller{}, fmt.Errorf("add index %q: %w", claimIndex, err)
	}
	b := newBinder(client, factory, events, measured)
	return reconcile.Controller{
		Name:      "volumes",
		Reconcile: b.reconcileVolume,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.PersistentVolume](volumes),
			reconcile.OnAny(core.PersistentVolumeClaims().Informer(), func(q reconcile.Queue, claim *corev1.PersistentVolumeClaim) {
				if claim.Spec.VolumeName != "" {
					q.Add(types.NamespacedName{Name: claim.Spec.VolumeName})
				}
				promised, _ := volumes.GetIndexer().IndexKeys(claimIndex, reconcile.KeyOf(claim).String()) // the index exists
				for _, name := range promised {
					q.Add(types.NamespacedName{Name: name})
				}
			}),
		},
	}, nil
}

// claimsOfVolume queues the claims for which a change of a volume matters.
func (b *binder) claimsOfVolume(q reconcile.Queue, old, new *corev1.PersistentVolume) {
	for _, pv := range []*corev1.PersistentVolume{old, new} {
		if pv != nil && pv.Spec.ClaimRef != nil {
			q.Add(claimOf(pv))
		}
	}
	if new == nil {
		return
	}
	for _, claim := range b.unboundClaims() {
		if claim.Spec.VolumeName == new.Name || claim.Spec.VolumeName == "" && new.Spec.ClaimRef == nil && fits(claim, new) {
			q.Add(reconcile.KeyOf(claim))
		}
	}
}

// fits tells whether a volume may be what the claim waits for.
func fits(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	match, err := bestMatch(claim, []*corev1.PersistentVolume{pv}, false)
	return match != nil || err != nil
}

func (b *binder) addUnbound(q reconcile.Queue) {
	for _, claim := range b.unboundClaims() {
		q.Add(reconcile.KeyOf(claim))
	}
}

func (b *binder) unboundClaims() []*corev1.PersistentVolumeClaim {
	claims, _ := reconcile.ByIndex[*corev1.PersistentVolumeClaim](b.unbound, unboundIndex, unboundKey) // the index exists
	return claims
}

// claimsOfPod queues what a new pod waits for: the claim tells so by an event.
func (b *binder) claimsOfPod(q reconcile.Queue, old, new *corev1.Pod) {
	if old != nil || new == nil || new.Spec.NodeName != "" {
		return
	}
	for key := range podcontrol.Claims(new) {
		claim, err := b.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
		if err == nil && !bindCompleted(claim) {
			q.Add(key)
		}
	}
}

// waitingPods names the pods that use the claim and are not on a node yet.
func (b *binder) waitingPods(claim types.NamespacedName) ([]string, error) {
	pods, err := podcontrol.ByClaim(b.pods, claim)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, pod := range pods {
		if pod.Spec.NodeName == "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func bindCompleted(claim *corev1.PersistentVolumeClaim) bool {
	_, done := claim.Annotations[storagehelper.AnnBindCompleted]
	return done
}

// claimOf is the key of the claim that a volume is promised to.
func claimOf(pv *corev1.PersistentVolume) types.NamespacedName {
	return types.NamespacedName{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}
}
