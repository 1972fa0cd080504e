// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"

	"github.com/skiff-k8s/skiff/scheduler/metrics"
)

// Handle is what the scheduler lends to plugins.
type Handle struct {
	Client   kubernetes.Interface
	Recorder events.EventRecorder
	Metrics  *metrics.Set
	// Informers are the process's. At start only Pods, Nodes and Namespaces may be asked for; the others
	// once Need has returned.
	Informers informers.SharedInformerFactory
	// Need starts the informers of kinds, the first time, and waits until they have synced. From then on their
	// events reach the plugins' hints.
	Need func(ctx context.Context, kinds ...Kind) error
	// Recheck tells the queue that a PreEnqueue plugin may no longer object to a pod; or, with again, that the pod is to be tried again because what was
	// to make room for it has failed.
	Recheck func(pod types.UID, again bool)
	// Nominator knows the nominated pods.
	Nominator Nominator
	// TakeBack keeps a pod from being bound that has its node already and waits for leave to be bound, or for what a PreBinder does. It is
	// false if there is no such pod.
	TakeBack func(pod types.UID, reason string) bool
	// Preempt lets others than plugins choose whom to preempt, among nodes by name; nil if there is nobody.
	Preempt func(ctx context.Context, pod *v1.Pod, choice map[string]*Victims) (map[string]*Victims, error)
	// Shared returns the value that the plugins of one name have in common in all profiles, made on first use.
	Shared func(name string, make func() any) any
	// Go runs work that outlives the cycle; the scheduler waits for it before it ends.
	Go func(work func())
}

// Victims are the pods of a node that would have to go to make room for another, the most important first.
type Victims struct {
	Node       *NodeInfo
	Pods       []*v1.Pod
	Violations int // of PodDisruptionBudgets
}

// Kinds that plugins read and that have no events for hints.
const (
	PodDisruptionBudget   Kind = "PodDisruptionBudget"
	ReplicationController Kind = "ReplicationController"
	ReplicaSet            Kind = "ReplicaSet"
	StatefulSet           Kind = "StatefulSet"
)
