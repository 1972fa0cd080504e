// SPDX-License-Identifier: Apache-2.0

// Package parttest runs a part of the server, such as the scheduler, in a test: with informers of its own, against an API server that
// the test has started.
package parttest

import (
	"context"
	"testing"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// Run builds a part and runs it until stop is called, or the test ends.
func Run(t testing.TB, client kubernetes.Interface, build func(informers.SharedInformerFactory) (run func(context.Context) error, err error)) (stop func()) {
	t.Helper()
	factory := informers.NewSharedInformerFactory(client, 0)
	run, err := build(factory)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		factory.Shutdown()
	}
	t.Cleanup(stop)
	return stop
}

// Eventually waits until ok.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 2 min: %s", what)
		}
	}
}
