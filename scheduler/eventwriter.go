// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

// eventWriter writes events while a Run lasts, and drops them otherwise.
type eventWriter struct {
	name string // of the events' source
	now  atomic.Pointer[events.EventRecorder]
}

// start begins to write events, until stop is called.
func (r *eventWriter) start(ctx context.Context, client kubernetes.Interface) (stop func(), err error) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		broadcaster.Shutdown()
		return nil, fmt.Errorf("start recording events: %w", err)
	}
	var now events.EventRecorder = broadcaster.NewRecorder(scheme.Scheme, r.name)
	r.now.Store(&now)
	return func() {
		r.now.Store(nil)
		broadcaster.Shutdown()
	}, nil
}

// Eventf implements events.EventRecorder.
func (r *eventWriter) Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any) {
	if now := r.now.Load(); now != nil {
		(*now).Eventf(regarding, related, eventtype, reason, action, note, args...)
	}
}
