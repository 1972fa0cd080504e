// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Events says what is particular to events.
func Events(deps Deps) rest.Resource[*corev1.Event] {
	return rest.Resource[*corev1.Event]{
		Kind:            corev1.SchemeGroupVersion.WithKind("Event"),
		Plural:          "events",
		Singular:        "event",
		Columns:         eventColumns(),
		ShortNames:      []string{"ev"},
		Namespaced:      true,
		Served:          []schema.GroupVersion{eventsv1.SchemeGroupVersion},
		CreateOnUpdate:  true,
		NoDependents:    true,
		ValidateRequest: validateEvent,
		TTL:             func(*corev1.Event) uint64 { return uint64(cmp.Or(deps.EventTTL, eventTTL).Seconds()) },
		Fields:          eventFields,
		FieldLabels: map[schema.GroupVersion]map[string]string{eventsv1.SchemeGroupVersion: {
			"reason":                    "reason",
			"regarding.kind":            "involvedObject.kind",
			"regarding.namespace":       "involvedObject.namespace",
			"regarding.name":            "involvedObject.name",
			"regarding.uid":             "involvedObject.uid",
			"regarding.apiVersion":      "involvedObject.apiVersion",
			"regarding.resourceVersion": "involvedObject.resourceVersion",
			"regarding.fieldPath":       "involvedObject.fieldPath",
			"reportingController":       "reportingComponent",
			"type":                      "type",
		}},
	}
}
