// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// eventTTL is how long events are kept unless Deps says otherwise.
const eventTTL = time.Hour

// eventFields are what events are selected by.
func eventFields(o *corev1.Event) fields.Set {
	source := o.Source.Component
	if source == "" {
		source = o.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            o.InvolvedObject.Kind,
		"involvedObject.namespace":       o.InvolvedObject.Namespace,
		"involvedObject.name":            o.InvolvedObject.Name,
		"involvedObject.uid":             string(o.InvolvedObject.UID),
		"involvedObject.apiVersion":      o.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": o.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       o.InvolvedObject.FieldPath,
		"reason":                         o.Reason,
		"reportingComponent":             o.ReportingController,
		"source":                         source,
		"type":                           o.Type,
	}
}
