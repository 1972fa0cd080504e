// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"context"

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
	// Recheck tells the queue that a PreEnqueue plugin may no longer object to a pod.
	Recheck func(pod types.UID)
	// Nominator knows the nominated pods.
	Nominator Nominator
	// Shared returns the value that the plugins of one name have in common in all profiles, made on first use.
	Shared func(name string, make func() any) any
	// Go runs work that outlives the cycle; the scheduler waits for it before it ends.
	Go func(work func())
}

// Kinds that plugins read and that have no events for hints.
const (
	PodDisruptionBudget   Kind = "PodDisruptionBudget"
	ReplicationController Kind = "ReplicationController"
	ReplicaSet            Kind = "ReplicaSet"
	StatefulSet           Kind = "StatefulSet"
)
