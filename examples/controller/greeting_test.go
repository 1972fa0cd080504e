// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/go-logr/logr"
	"github.com/skiff-k8s/skiff/examples/controller"
	"github.com/skiff-k8s/skiff/testenv"
	"github.com/skiff-k8s/skiff/testenv/controllers"
)

// A Greeting gets its ConfigMap, which follows it, comes back when it is deleted, and goes with it.
func TestGreeting(t *testing.T) {
	env := testenv.Start(t, testenv.CRDs("config"))
	controllers.Run(t, env) // the garbage collector, which envtest lacks
	ctx, cancel := context.WithCancel(t.Context())
	log.SetLogger(logr.Discard())
	mgr, err := ctrl.NewManager(env.Config, ctrl.Options{Metrics: server.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&controller.Reconciler{Client: mgr.GetClient()}).SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	c, err := client.New(env.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	greeting := controller.NewGreeting()
	greeting.SetNamespace("default")
	greeting.SetName("g")
	if err := unstructured.SetNestedField(greeting.Object, "", "spec", "name"); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(ctx, greeting.DeepCopy()); !apierrors.IsInvalid(err) {
		t.Errorf("a Greeting of nobody: %v, want Invalid", err)
	}
	_ = unstructured.SetNestedField(greeting.Object, "Ann", "spec", "name")
	if err := c.Create(ctx, greeting); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(greeting)
	says := func(want string) {
		t.Helper()
		eventually(t, func() error {
			var cm corev1.ConfigMap
			if err := c.Get(ctx, key, &cm); err != nil {
				return err
			}
			if cm.Data["text"] != want {
				return fmt.Errorf("the text is %q, want %q", cm.Data["text"], want)
			}
			return nil
		})
	}
	says("Hello, Ann!")
	if err := c.Patch(ctx, greeting, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"name":"Bob"}}`))); err != nil {
		t.Fatal(err)
	}
	says("Hello, Bob!")
	cm := &corev1.ConfigMap{}
	cm.Namespace, cm.Name = key.Namespace, key.Name
	if err := c.Delete(ctx, cm); err != nil {
		t.Fatal(err)
	}
	says("Hello, Bob!")
	if err := c.Delete(ctx, greeting); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		err := c.Get(ctx, key, &corev1.ConfigMap{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the ConfigMap is there: %w", err)
	})
}

func eventually(t *testing.T, ask func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
