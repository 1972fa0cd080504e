// SPDX-License-Identifier: Apache-2.0

// Package replicationcontroller keeps as many pods running as a ReplicationController asks for. A
// ReplicationController is a ReplicaSet with a simpler selector, so package replicaset does the work.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/
package replicationcontroller

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/replicaset"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "replication-controller"
	Component = "replication-controller"
)

// New returns the controller of ReplicationControllers.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Replicas) (reconcile.Controller, error) {
	controllers := factory.Core().V1().ReplicationControllers()
	lister := controllers.Lister()
	return replicaset.NewFor(replicaset.Sets{
		Kind:     corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Queue:    "replicationmanager",
		Informer: controllers.Informer(),
		Get: func(key types.NamespacedName) (*appsv1.ReplicaSet, error) {
			rc, err := lister.ReplicationControllers(key.Namespace).Get(key.Name)
			if err != nil {
				return nil, err
			}
			return asReplicaSet(rc), nil
		},
		List: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			rcs, err := lister.ReplicationControllers(namespace).List(labels.Everything())
			if err != nil {
				return nil, err
			}
			sets := make([]*appsv1.ReplicaSet, len(rcs))
			for i, rc := range rcs {
				sets[i] = asReplicaSet(rc)
			}
			return sets, nil
		},
		Live: func(ctx context.Context, key types.NamespacedName) (metav1.Object, error) {
			return client.CoreV1().ReplicationControllers(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
		},
		UpdateStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			_, err := client.CoreV1().ReplicationControllers(set.Namespace).UpdateStatus(ctx, asReplicationController(set), metav1.UpdateOptions{})
			return err
		},
		EventObject: func(set *appsv1.ReplicaSet) podcontrol.Owner { return asReplicationController(set) },
	}, client, factory, events, measured)
}

// asReplicaSet shares all that the two have in common with rc.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}

// asReplicationController is the way back.
func asReplicationController(set *appsv1.ReplicaSet) *corev1.ReplicationController {
	rc := &corev1.ReplicationController{
		ObjectMeta: set.ObjectMeta,
		Spec: corev1.ReplicationControllerSpec{
			Replicas:        set.Spec.Replicas,
			MinReadySeconds: set.Spec.MinReadySeconds,
			Selector:        set.Spec.Selector.MatchLabels,
			Template:        &set.Spec.Template,
		},
		Status: corev1.ReplicationControllerStatus{
			Replicas:             set.Status.Replicas,
			FullyLabeledReplicas: set.Status.FullyLabeledReplicas,
			ReadyReplicas:        set.Status.ReadyReplicas,
			AvailableReplicas:    set.Status.AvailableReplicas,
			ObservedGeneration:   set.Status.ObservedGeneration,
		},
	}
	for _, c := range set.Status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rc
}
