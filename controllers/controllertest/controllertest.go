// SPDX-License-Identifier: Apache-2.0

// Package controllertest runs controllers in tests against client-go's fake clientset.
//
// The fake only stores. This package adds what controllers rely on: names from generateName, UIDs, times,
// generations, and a kubelet that makes pods run. It does not add: validation, defaults, admission, conflicts,
// finalizers and graceful deletion. What depends on those is tested against the real API server.
package controllertest

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Cluster is an API server of sorts with controllers.
type Cluster struct {
	*fake.Clientset
	Factory informers.SharedInformerFactory
	Events  *record.FakeRecorder

	t      *testing.T
	last   atomic.Int64 // used for UIDs, names and resource versions
	jumped func()       // what is to be called when the clock is set
}

// New returns a cluster with these objects. Call it in a synctest bubble.
func New(t *testing.T, objects ...runtime.Object) *Cluster {
	c := &Cluster{t: t, Events: record.NewFakeRecorder(1000)}
	for _, obj := range objects {
		c.complete(obj)
	}
	c.Clientset = fake.NewClientset(objects...)
	c.Factory = informers.NewSharedInformerFactory(c.Clientset, 0)
	c.PrependReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		c.complete(action.(clienttesting.CreateAction).GetObject())
		return false, nil, nil
	})
	c.PrependReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		update := action.(clienttesting.UpdateAction)
		obj := update.GetObject()
		m, err := meta.Accessor(obj)
		if err != nil {
			return false, nil, nil
		}
		m.SetResourceVersion(fmt.Sprint(c.last.Add(1)))
		old, err := c.Tracker().Get(action.GetResource(), action.GetNamespace(), m.GetName())
		if err != nil || action.GetSubresource() != "" {
			return false, nil, nil
		}
		if specChanged(old, obj) {
			m.SetGeneration(m.GetGeneration() + 1)
		}
		return false, nil, nil
	})
	return c
}

func specChanged(old, new runtime.Object) bool {
	switch new := new.(type) {
	case *appsv1.Deployment:
		return !apiequality.Semantic.DeepEqual(old.(*appsv1.Deployment).Spec, new.Spec)
	case *appsv1.ReplicaSet:
		return !apiequality.Semantic.DeepEqual(old.(*appsv1.ReplicaSet).Spec, new.Spec)
	}
	return false
}

// complete fills what an API server would.
func (c *Cluster) complete(obj runtime.Object) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	n := c.last.Add(1)
	m.SetResourceVersion(fmt.Sprint(n))
	if m.GetUID() == "" {
		m.SetUID(types.UID(fmt.Sprintf("uid-%d", n)))
	}
	if m.GetName() == "" {
		m.SetName(fmt.Sprintf("%s%05d", m.GetGenerateName(), n))
	}
	if m.GetGeneration() == 0 {
		m.SetGeneration(1)
	}
	if created := m.GetCreationTimestamp(); created.IsZero() {
		m.SetCreationTimestamp(metav1.Now())
	}
	if pod, ok := obj.(*corev1.Pod); ok && pod.Status.Phase == "" {
		pod.Status.Phase = corev1.PodPending
	}
}

// Run starts informers and controllers and stops them when the test ends.
func (c *Cluster) Run(controllers ...reconcile.Controller) {
	c.RunFunc((&reconcile.Runner{Controllers: controllers, ClockJumps: func(ctx context.Context, jumped func()) error {
		c.jumped = jumped
		<-ctx.Done()
		return nil
	}}).Run)
}

// SetClock sets the clock forward, or back by a negative time, while timers go on as they were. The clock of a synctest bubble
// cannot be set; what controllers can tell of it is by how much the times in the objects that they know are past, so
// it is those that change, and nobody hears of that as of a change.
func (c *Cluster) SetClock(forward time.Duration, known ...cache.SharedIndexInformer) {
	c.t.Helper()
	for _, informer := range known {
		for _, obj := range informer.GetIndexer().List() {
			moved := obj.(runtime.Object).DeepCopyObject()
			move(reflect.ValueOf(moved).Elem(), -forward)
			if err := informer.GetIndexer().Update(moved); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.jumped()
	synctest.Wait()
}

// move moves all times in a value.
func move(v reflect.Value, by time.Duration) {
	switch at := v.Addr().Interface().(type) {
	case *metav1.Time:
		if !at.IsZero() {
			at.Time = at.Add(by)
		}
		return
	case *metav1.MicroTime:
		if !at.IsZero() {
			at.Time = at.Add(by)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			move(v.Elem(), by)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				move(v.Field(i), by)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			move(v.Index(i), by)
		}
	}
}

// RunFunc is Run for anything that blocks until its context ends.
func (c *Cluster) RunFunc(run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.Factory.Start(ctx.Done())
	c.Factory.WaitForCacheSync(ctx.Done())
	done := make(chan error)
	go func() { done <- run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("Run: %v", err)
		}
		c.Factory.Shutdown()
	})
	synctest.Wait()
}

// Pods returns the pods of all namespaces.
func (c *Cluster) Pods() []corev1.Pod {
	c.t.Helper()
	list, err := c.CoreV1().Pods("").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// StartPods does the kubelet's part for each pod that waits: it runs and is ready.
func (c *Cluster) StartPods() {
	c.t.Helper()
	for _, pod := range c.Pods() {
		if pod.Status.Phase == corev1.PodPending {
			c.SetReady(&pod, true)
		}
	}
	synctest.Wait()
}

// SetReady makes a pod run, ready or not.
func (c *Cluster) SetReady(pod *corev1.Pod, ready bool) {
	c.t.Helper()
	pod = pod.DeepCopy()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Phase = corev1.PodRunning
	if pod.Status.PodIP == "" {
		ip := fmt.Sprintf("10.42.0.%d", c.last.Add(1)%250+1)
		pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
	if _, err := c.CoreV1().Pods(pod.Namespace).UpdateStatus(c.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}
