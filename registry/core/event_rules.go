// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxEventField = 128  // bytes of reason, action and reportingInstance
	maxEventNote  = 1024 // bytes
)

// validateEvent is as lenient with events of the core group as ever; those of events.k8s.io are new, and have what the
// new fields are for.
func validateEvent(ctx context.Context, e, old *corev1.Event) field.ErrorList {
	strict := false
	if info, ok := request.RequestInfoFrom(ctx); ok {
		strict = info.APIGroup == eventsv1.GroupName
	}
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		errs = validateOldEvent(e)
	} else {
		errs = validateNewEvent(e, strict)
	}
	switch {
	case !strict:
		return errs
	case old == nil:
		return append(errs, validateStrictEvent(e)...)
	}
	return append(errs, validateStrictEventUpdate(e, old)...)
}

const otherNamespace = "does not match event.namespace"

func validateOldEvent(e *corev1.Event) field.ErrorList {
	of := e.InvolvedObject.Namespace
	same := of == e.Namespace || of == "" && e.Namespace == metav1.NamespaceDefault
	return rule.If(!same, field.Invalid(field.NewPath("involvedObject", "namespace"), of, otherNamespace))
}

func validateNewEvent(e *corev1.Event, strict bool) field.ErrorList {
	of := e.InvolvedObject.Namespace
	errs := rule.If(of == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem,
		field.Invalid(field.NewPath("involvedObject", "namespace"), of, otherNamespace))
	controller := field.NewPath("reportingComponent")
	if strict {
		controller = field.NewPath("reportingController")
	}
	errs = append(errs, rule.Required(controller, e.ReportingController)...)
	errs = append(errs, rule.QualifiedName(controller, e.ReportingController)...)
	for _, f := range []struct {
		name, value string
		most        int
	}{{"reportingInstance", e.ReportingInstance, maxEventField}, {"action", e.Action, maxEventField}, {"reason", e.Reason, maxEventField}, {"message", e.Message, maxEventNote}} {
		at := field.NewPath(f.name)
		errs = append(errs, rule.If(f.value == "" && f.name != "message", field.Required(at, ""))...)
		errs = append(errs, rule.If(len(f.value) > f.most, field.Invalid(at, "", fmt.Sprintf("can have at most %v characters", f.most)))...)
	}
	return errs
}

func validateStrictEvent(e *corev1.Event) field.ErrorList {
	errs := rule.ObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateSeries(e.Series)...)
	errs = append(errs, rule.If(e.EventTime.IsZero(), field.Required(field.NewPath("eventTime"), ""))...)
	errs = append(errs, rule.If(e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning,
		field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))...)
	for _, old := range []struct {
		name string
		set  bool
	}{{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()}, {"count", e.Count != 0}, {"source", e.Source != corev1.EventSource{}}} {
		errs = append(errs, rule.If(old.set, field.Invalid(field.NewPath(old.name), "", "needs to be unset"))...)
	}
	return errs
}

func validateSeries(s *corev1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := rule.If(s.Count < 2, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	return append(errs, rule.If(s.LastObservedTime.IsZero(), field.Required(field.NewPath("series.lastObservedTime"), ""))...)
}

// validateStrictEventUpdate lets the series of an event go on, and nothing else.
func validateStrictEventUpdate(e, old *corev1.Event) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&e.ObjectMeta)
	if !reflect.DeepEqual(e.Series, old.Series) {
		errs = append(errs, validateSeries(e.Series)...)
	}
	for _, f := range []struct {
		name    string
		is, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason},
		{"message", e.Message, old.Message},
		{"source", e.Source, old.Source},
		{"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count},
		{"type", e.Type, old.Type},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, rule.Unchanged(field.NewPath(f.name), f.is, f.was)...)
	}
	// Clients keep microseconds, or do not: https://github.com/kubernetes/kubernetes/issues/111928
	if e.EventTime.Truncate(time.Microsecond).UTC() != old.EventTime.Truncate(time.Microsecond).UTC() {
		errs = append(errs, rule.Unchanged(field.NewPath("eventTime"), e.EventTime, old.EventTime)...)
	}
	return errs
}
