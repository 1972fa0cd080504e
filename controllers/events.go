// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// eventSources are the recorders of all controllers. They share one broadcaster, which exists while the
// manager runs; each event is written by the client of the controller that it comes from.
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
		r = &recorder{client: client}
		s.recorders[component] = r
	}
	return r
}

// start makes the recorders work until the returned function is called.
func (s *eventSources) start(ctx context.Context) (stop func()) {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&eventSink{ctx: ctx, sources: s})
	for component, r := range s.recorders {
		var current record.EventRecorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
		r.current.Store(&current)
	}
	return func() {
		for _, r := range s.recorders {
			r.current.Store(nil)
		}
		broadcaster.Shutdown()
	}
}

// recorder records events of one component while the manager runs.
type recorder struct {
	client  kubernetes.Interface
	current atomic.Pointer[record.EventRecorder]
}

func (r *recorder) Event(obj runtime.Object, eventType, reason, message string) {
	if current := r.current.Load(); current != nil {
		(*current).Event(obj, eventType, reason, message)
	}
}

func (r *recorder) Eventf(obj runtime.Object, eventType, reason, format string, args ...any) {
	r.Event(obj, eventType, reason, fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(obj runtime.Object, annotations map[string]string, eventType, reason, format string, args ...any) {
	if current := r.current.Load(); current != nil {
		(*current).AnnotatedEventf(obj, annotations, eventType, reason, format, args...)
	}
}

// eventSink writes each event as the controller that it comes from.
type eventSink struct {
	ctx     context.Context
	sources *eventSources
}

func (s *eventSink) events(event *corev1.Event) typedcorev1.EventInterface {
	return s.sources.recorders[event.Source.Component].client.CoreV1().Events(event.Namespace)
}

func (s *eventSink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.events(event).CreateWithEventNamespaceWithContext(s.ctx, event)
}

func (s *eventSink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.events(event).Update(s.ctx, event, metav1.UpdateOptions{})
}

func (s *eventSink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.events(event).PatchWithEventNamespaceWithContext(s.ctx, event, data)
}
