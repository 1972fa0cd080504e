// SPDX-License-Identifier: Apache-2.0

package testenv_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/skiff-k8s/skiff/testenv"
)

// A program that was written for Kubernetes works unchanged: informers, leader election, the dynamic client
// and server-side apply.
func TestClientGoProgram(t *testing.T) {
	env := testenv.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	t.Run("informer", func(t *testing.T) {
		factory := informers.NewSharedInformerFactory(env.Client, 0)
		seen := make(chan string, 10)
		informer := factory.Core().V1().ConfigMaps().Informer()
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { seen <- "added " + obj.(*corev1.ConfigMap).Name },
			UpdateFunc: func(_, obj any) { seen <- "updated " + obj.(*corev1.ConfigMap).Data["k"] },
			DeleteFunc: func(obj any) { seen <- "deleted" },
		}); err != nil {
			t.Fatal(err)
		}
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		maps := env.Client.CoreV1().ConfigMaps("default")
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "watched"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := maps.Patch(ctx, "watched", types.MergePatchType, []byte(`{"data":{"k":"v"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := maps.Delete(ctx, "watched", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"added watched", "updated v", "deleted"} {
			select {
			case got := <-seen:
				if got != want {
					t.Errorf("event = %q, want %q", got, want)
				}
			case <-ctx.Done():
				t.Fatalf("no event %q", want)
			}
		}
	})

	t.Run("leader election", func(t *testing.T) {
		leading := make(chan string, 2)
		elect := func(name string) context.CancelFunc {
			ctx, stop := context.WithCancel(ctx)
			lock, err := resourcelock.New(resourcelock.LeasesResourceLock, "default", "leader", env.Client.CoreV1(), env.Client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name})
			if err != nil {
				t.Fatal(err)
			}
			go leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: lock, ReleaseOnCancel: true, LeaseDuration: 2 * time.Second, RenewDeadline: time.Second, RetryPeriod: 200 * time.Millisecond,
				Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { leading <- name }, OnStoppedLeading: func() {}},
			})
			return stop
		}
		stopFirst := elect("first")
		if who := receive(t, ctx, leading); who != "first" {
			t.Fatalf("leader = %s, want first", who)
		}
		defer elect("second")()
		stopFirst()
		if who := receive(t, ctx, leading); who != "second" {
			t.Errorf("leader after the first gave up = %s, want second", who)
		}
	})

	t.Run("dynamic client", func(t *testing.T) {
		client, err := dynamic.NewForConfig(env.Config)
		if err != nil {
			t.Fatal(err)
		}
		deployments := client.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("default")
		labels := map[string]any{"app": "x"}
		created, err := deployments.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "d"},
			"spec": map[string]any{
				"selector": map[string]any{"matchLabels": labels},
				"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{
					"containers": []any{map[string]any{"name": "c", "image": "example.com/i:1"}},
				}},
			},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if surge, _, _ := unstructured.NestedString(created.Object, "spec", "strategy", "rollingUpdate", "maxSurge"); surge != "25%" {
			t.Errorf("maxSurge = %q, want upstream's default of 25%%", surge)
		}
	})

	t.Run("server-side apply", func(t *testing.T) {
		maps := env.Client.CoreV1().ConfigMaps("default")
		config := func(value string) *applycorev1.ConfigMapApplyConfiguration {
			return applycorev1.ConfigMap("applied", "default").WithData(map[string]string{"k": value})
		}
		if _, err := maps.Apply(ctx, config("mine"), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
			t.Fatal(err)
		}
		if _, err := maps.Apply(ctx, config("theirs"), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
			t.Errorf("apply of another's field = %v, want a conflict", err)
		}
		forced, err := maps.Apply(ctx, config("theirs"), metav1.ApplyOptions{FieldManager: "two", Force: true})
		if err != nil || forced.Data["k"] != "theirs" {
			t.Errorf("forced apply = %v, %v; want the new value", forced, err)
		}
	})
}

func receive(t *testing.T, ctx context.Context, c <-chan string) string {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		t.Fatal("nobody leads in time")
		return ""
	}
}
