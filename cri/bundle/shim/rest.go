// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

const (
	busyGCPercent = 40               // a small heap: there is a shim for each pod
	restAfter     = 30 * time.Second // without a call
	restLimit     = 32 << 20         // bytes: what may come together at rest, of exits and output, before it is collected
)

// rest gives memory back once calls have ceased, and then lets the runtime sleep: Go would collect garbage every two
// minutes, also where none is made.
type rest struct {
	timer *time.Timer

	mu      sync.Mutex
	resting bool // guarded by mu
}

// newRest is one that is busy.
func newRest() *rest {
	debug.SetMemoryLimit(restLimit)
	debug.SetGCPercent(busyGCPercent)
	r := &rest{}
	r.timer = time.AfterFunc(restAfter, r.begin)
	return r
}

func (r *rest) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	debug.FreeOSMemory()
	debug.SetGCPercent(-1)
	r.resting = true
}

// called ends a rest, and puts the next one off.
func (r *rest) called() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resting {
		debug.SetGCPercent(busyGCPercent)
		r.resting = false
	}
	r.timer.Reset(restAfter)
}

// UnaryServerInterceptor hears of each call.
func (r *rest) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		r.called()
		return method(ctx, unmarshal)
	}
}
