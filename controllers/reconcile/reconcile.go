// SPDX-License-Identifier: Apache-2.0

// Package reconcile runs controllers: it turns events of the shared informers into keys, and keys
// into calls of a level-driven Reconcile function.
//
// A controller is a value of type Controller: a name, a Reconcile function and a list of Watches.
// Everything else lives here once:
//
//   - a key is never reconciled twice at the same time, and a key added while it is being
//     reconciled is reconciled again afterwards (client-go's work queue);
//   - an error means: again, with exponential back-off; Result.RequeueAfter means: again, later;
//   - nothing is reconciled before all informers that the controller uses have synced;
//   - a queue and its goroutines exist only once the first key exists; reconciles of all
//     controllers share one limit (Runner.Limit);
//   - an informer calls one handler of ours, however many controllers watch it;
//   - a panic in Reconcile is an error of that key, not the end of the process.
//
// Queues report the workqueue_* metrics when a metrics provider is linked in.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Result says what should happen to a key that was reconciled without an error.
type Result struct {
	// RequeueAfter, if positive, is when to look at the key again, whatever else happens.
	RequeueAfter time.Duration
}

// Func brings what the key names closer to its desired state. It looks at the world, not at the
// event that caused the call. Returning an error is how to be called again.
type Func func(ctx context.Context, key types.NamespacedName) (Result, error)

// Controller declares one controller.
type Controller struct {
	// Name is the name of its queue in the metrics, e.g. "deployment".
	Name string
	// Reconcile is called for each key; nil for a controller that only has a Loop.
	Reconcile Func
	// Watches says which events become which keys.
	Watches []Watch
	// Reads are informers that Reconcile reads without being woken by them.
	Reads []cache.SharedIndexInformer
	// Workers is how many keys are reconciled at the same time at most; 0 means 5.
	Workers int
	// MinBackoff and MaxBackoff bound the exponential back-off after errors; 0 means 5ms and 1000s.
	MinBackoff, MaxBackoff time.Duration
	// Loop, if set, runs beside the queue once the informers have synced, until ctx ends.
	Loop func(ctx context.Context, q Queue) error
}

// Left is what is left of a period that began then, by the clock. If the clock was set back since, that moment is to come; the
// period then begins now, and nothing waits for longer than it.
func Left(since time.Time, period time.Duration) time.Duration {
	return min(period-time.Since(since), period)
}

// Earlier returns the smaller of two waiting times, of which those that are not positive do not count.
func Earlier(a, b time.Duration) time.Duration {
	if a <= 0 || b > 0 && b < a {
		return b
	}
	return a
}

// ErrStale is what Reconcile returns, wrapped or not, when the cache does not have its own last writes yet.
var ErrStale = errors.New("informer cache is out of date")

// Queue takes keys to be reconciled.
type Queue interface {
	Add(key types.NamespacedName)
	AddAfter(key types.NamespacedName, d time.Duration)
}

// OlderFirst orders objects by age; those of one second by namespace and name.
func OlderFirst[T metav1.Object](a, b T) int {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	return cmp.Or(at.Compare(bt.Time), strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
}

// KeyOf returns the key of an object.
func KeyOf(obj metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
