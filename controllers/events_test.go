// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// writer is a client that takes so long for each event, and counts them.
func writer(each time.Duration) (kubernetes.Interface, *atomic.Int32) {
	written := new(atomic.Int32)
	return clientFunc{create: func(*corev1.Event) {
		time.Sleep(each)
		written.Add(1)
	}}, written
}

// clientFunc is a client that creates events by calling a function.
type clientFunc struct {
	kubernetes.Interface
	typedcorev1.CoreV1Interface
	typedcorev1.EventInterface
	create func(*corev1.Event)
}

func (c clientFunc) CoreV1() typedcorev1.CoreV1Interface { return c }

func (c clientFunc) Events(string) typedcorev1.EventInterface { return c }

func (c clientFunc) CreateWithEventNamespaceWithContext(_ context.Context, event *corev1.Event) (*corev1.Event, error) {
	c.create(event)
	return event, nil
}

// 1,000 Deployments of three replicas are rolled out in ten seconds, while the API server takes three times as long to write the events
// of it. None is lost, neither of the one controller nor of the other.
func TestBurstOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sources := newEventSources()
		one, ofDeployments := writer(10 * time.Millisecond)
		other, ofSets := writer(10 * time.Millisecond)
		deployments, sets := sources.source("deployment-controller", one), sources.source("replicaset-controller", other)
		stop := sources.start(t.Context())
		for i := range 1000 {
			meta := metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("web-", i), UID: types.UID(fmt.Sprint(i))}
			deployments.Eventf(&appsv1.Deployment{ObjectMeta: meta}, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to 3", meta.Name)
			for j := range 3 {
				sets.Eventf(&appsv1.ReplicaSet{ObjectMeta: meta}, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s-%d", meta.Name, j)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		stop()
		if ofDeployments.Load() != 1000 || ofSets.Load() != 3000 {
			t.Errorf("%d and %d were written, want 1000 and 3000", ofDeployments.Load(), ofSets.Load())
		}
	})
}

// A component that never says anything costs nothing, and none says anything while the manager does not run.
func TestEventsWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sources := newEventSources()
		client, written := writer(0)
		silent := sources.source("silent", client).(*recorder)
		events := sources.source("loud", client)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
		for range 2 {
			events.Event(pod, corev1.EventTypeNormal, "Lost", "nobody hears it")
			ctx, cancel := context.WithCancel(t.Context())
			stop := sources.start(ctx)
			events.Event(pod, corev1.EventTypeNormal, "Heard", "it runs")
			synctest.Wait()
			if silent.lanes != [lanes]lane{} {
				t.Error("the silent component has a queue")
			}
			cancel()
			stop()
		}
		if written.Load() != 2 {
			t.Errorf("%d events were written, want 2", written.Load())
		}
	})
}
