// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

// start runs a Cache inside a synctest bubble until the test ends it.
func start(t *testing.T, client *fake.Clientset) (c *Cache, changes *[]types.UID, stop func()) {
	t.Helper()
	changes = &[]types.UID{}
	c = New(client, func(uid types.UID) { *changes = append(*changes, uid) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	synctest.Wait()
	return c, changes, func() { cancel(); <-done }
}

// One watch serves all pods that refer to an object, names it, and ends with the last of them.
func TestWatchIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("1"))
		c, changes, stop := start(t, client)
		defer stop()
		c.Register(pod("a", "settings"))
		c.Register(pod("b", "settings"))
		synctest.Wait()
		if got := watches(client); got != 1 {
			t.Errorf("%d watches, want 1", got)
		}
		for _, a := range client.Actions() {
			if f, ok := a.(interface{ GetFieldSelector() string }); ok && f.GetFieldSelector() != "metadata.name=settings" {
				t.Errorf("selector %q", f.GetFieldSelector())
			}
		}
		update(t, client, configMap("2"))
		synctest.Wait()
		if len(*changes) != 2 {
			t.Errorf("changes for %v, want both pods", *changes)
		}
		cm, err := c.ConfigMap(t.Context(), "default", "settings")
		if err != nil || cm.ResourceVersion != "2" {
			t.Errorf("ConfigMap = %v, %v", cm, err)
		}
		c.Unregister("a")
		c.Unregister("b")
		synctest.Wait()
		if len(c.items) != 0 {
			t.Error("the object is still watched")
		}
		if _, err := c.ConfigMap(t.Context(), "default", "settings"); err == nil || err.Error() != `object "default"/"settings" not registered` {
			t.Errorf("ConfigMap = %v", err)
		}
	})
}

// An immutable object is not watched; a missing one is NotFound until it is there.
func TestImmutableAndMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fixed := configMap("1")
		yes := true
		fixed.Immutable = &yes
		client := fake.NewClientset(fixed)
		c, changes, stop := start(t, client)
		defer stop()
		c.Register(pod("a", "settings", "later"))
		if _, err := c.ConfigMap(t.Context(), "default", "settings"); err != nil {
			t.Error(err)
		}
		if _, err := c.ConfigMap(t.Context(), "default", "later"); !apierrors.IsNotFound(err) || err.Error() != `configmap "later" not found` {
			t.Errorf("ConfigMap = %v", err)
		}
		synctest.Wait()
		update(t, client, configMap("2"))
		later := configMap("1")
		later.Name = "later"
		if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), later, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(*changes) != 1 {
			t.Errorf("changes %v, want only that of the new object", *changes)
		}
		if cm, err := c.ConfigMap(t.Context(), "default", "settings"); err != nil || cm.ResourceVersion != "1" {
			t.Errorf("ConfigMap = %v, %v", cm, err)
		}
	})
}

// A pod's update drops what it no longer refers to.
func TestRegisterAgain(t *testing.T) {
	c := New(fake.NewClientset(), nil)
	p := pod("a", "one", "two")
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	c.Register(p)
	if len(c.items) != 3 {
		t.Errorf("%d objects, want 3", len(c.items))
	}
	c.Register(pod("a", "two"))
	if len(c.items) != 1 {
		t.Errorf("%d objects, want 1", len(c.items))
	}
}

func update(t *testing.T, client *fake.Clientset, cm *corev1.ConfigMap) {
	t.Helper()
	if _, err := client.CoreV1().ConfigMaps("default").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func watches(client *fake.Clientset) (n int) {
	for _, a := range client.Actions() {
		if a.GetVerb() == "watch" {
			n++
		}
	}
	return n
}

func configMap(version string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings", ResourceVersion: version}}
}

func pod(uid types.UID, configMaps ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: string(uid), UID: uid}}
	c := corev1.Container{Name: "c"}
	for _, name := range configMaps {
		c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}})
	}
	p.Spec.Containers = []corev1.Container{c}
	return p
}
