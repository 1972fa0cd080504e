// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A driver is asked as often as its CSIDriver says at the moment, and not at all if that says nothing.
func TestAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client := fake.NewClientset()
		var asked atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			asAsked(ctx, client, "x.io", func() { asked.Add(1) })
		}()
		want := func(what string, n int32, within time.Duration) {
			t.Helper()
			synctest.Wait()
			asked.Store(0)
			time.Sleep(within)
			synctest.Wait()
			if got := asked.Load(); got != n {
				t.Errorf("%s: asked %d times within %v, want %d", what, got, within, n)
			}
		}
		driver := func(seconds *int64) *storagev1.CSIDriver {
			return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "x.io"}, Spec: storagev1.CSIDriverSpec{NodeAllocatableUpdatePeriodSeconds: seconds}}
		}
		drivers := client.StorageV1().CSIDrivers()
		ten, minute := int64(10), int64(60)
		want("no CSIDriver", 0, time.Hour)
		if _, err := drivers.Create(ctx, driver(&ten), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		want("every ten seconds", 6, 65*time.Second)
		if _, err := drivers.Update(ctx, driver(&minute), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		want("every minute", 5, 5*time.Minute+time.Second)
		if _, err := drivers.Update(ctx, driver(nil), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		want("no more", 0, time.Hour)
		if _, err := drivers.Update(ctx, driver(&ten), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		want("again", 6, 65*time.Second)
		if err := drivers.Delete(ctx, "x.io", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("deleted", 0, time.Hour)
		cancel()
		<-done
		synctest.Wait()
	})
}
