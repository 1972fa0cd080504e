// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"runtime/debug"
	"testing"

	"github.com/containerd/ttrpc"
)

// A shim at rest collects no garbage, and one that is called does.
func TestRest(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	r := newRest()
	defer r.timer.Stop()
	if got := percent(); got != busyGCPercent {
		t.Errorf("at first it is %d", got)
	}
	r.begin()
	if got := percent(); got != -1 {
		t.Errorf("at rest it is %d", got)
	}
	called := false
	_, err := r.UnaryServerInterceptor()(t.Context(), nil, nil, func(context.Context, func(any) error) (any, error) {
		called = true
		return nil, nil
	})
	if got := percent(); err != nil || !called || got != busyGCPercent {
		t.Errorf("when called it is %d; the call: %t, %v", got, called, err)
	}
}

var _ interface {
	UnaryServerInterceptor() ttrpc.UnaryServerInterceptor
} = (*rest)(nil) // else the shim would never call it
