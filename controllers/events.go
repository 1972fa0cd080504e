// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
)

// eventSources are the recorders of all components.
type eventSources struct {
	recorders map[string]*recorder // by component
}

func newEventSources() *eventSources {
	return &eventSources{recorders: map[string]*recorder{}}
}

// source returns the recorder for a component, whose events the client writes. Controllers that are one component
// share it.
func (s *eventSources) source(component string, client kubernetes.Interface) record.EventRecorder {
	r := s.recorders[component]
	if r == nil {
		r = &recorder{component: component, client: client}
		s.recorders[component] = r
	}
	return r
}

// start makes the recorders work until the returned function is called.
func (s *eventSources) start(ctx context.Context) (stop func()) {
	for _, r := range s.recorders {
		r.start(ctx)
	}
	return func() {
		for _, r := range s.recorders {
			r.stop()
		}
	}
}

// lanes is how many events of a component are written at the same time. A rollout makes them faster than one after the other can be written.
const lanes = 4

// recorder records events of one component while the manager runs. What writes them has a queue that is bounded, and drops what does
// not fit: each component has its own, so that a burst of one does not cost another its events, and several, of which each object has one.
type recorder struct {
	component string
	client    kubernetes.Interface

	mu    sync.Mutex      // guards the following
	ctx   context.Context // of the manager; nil while that does not run
	lanes [lanes]lane
}

// lane writes events one after the other. It is empty until the first.
type lane struct {
	broadcaster record.EventBroadcaster
	to          record.EventRecorder
}

func (r *recorder) start(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ctx = ctx
}

func (r *recorder) stop() {
	r.mu.Lock()
	ended := r.lanes
	r.ctx, r.lanes = nil, [lanes]lane{}
	r.mu.Unlock()
	for _, l := range ended {
		if l.broadcaster != nil {
			l.broadcaster.Shutdown()
		}
	}
}

// forObject returns what takes events about an object now, or nil if nobody does.
func (r *recorder) forObject(obj runtime.Object) record.EventRecorder {
	hash := fnv.New32a()
	if m, err := meta.Accessor(obj); err == nil {
		_, _ = hash.Write([]byte(m.GetUID())) // never fails
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &r.lanes[hash.Sum32()%lanes]
	if r.ctx != nil && l.to == nil {
		l.broadcaster = record.NewBroadcaster(record.WithContext(r.ctx))
		l.broadcaster.StartRecordingToSink(&eventSink{ctx: r.ctx, client: r.client})
		l.to = l.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: r.component})
	}
	return l.to
}

func (r *recorder) Event(obj runtime.Object, eventType, reason, message string) {
	if to := r.forObject(obj); to != nil {
		to.Event(obj, eventType, reason, message)
	}
}

func (r *recorder) Eventf(obj runtime.Object, eventType, reason, format string, args ...any) {
	r.Event(obj, eventType, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(obj runtime.Object, annotations map[string]string, eventType, reason, format string, args ...any) {
	if to := r.forObject(obj); to != nil {
		to.AnnotatedEventf(obj, annotations, eventType, reason, format, args...)
	}
}

// eventSink writes events as a controller.
type eventSink struct {
	ctx    context.Context
	client kubernetes.Interface
}

func (s *eventSink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.client.CoreV1().Events(event.Namespace).CreateWithEventNamespaceWithContext(s.ctx, event)
}

func (s *eventSink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.client.CoreV1().Events(event.Namespace).Update(s.ctx, event, metav1.UpdateOptions{})
}

func (s *eventSink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.client.CoreV1().Events(event.Namespace).PatchWithEventNamespaceWithContext(s.ctx, event, data)
}
