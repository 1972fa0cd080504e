// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// podFields are what pods are selected by.
func podFields(o *corev1.Pod) fields.Set {
	podIP := ""
	if len(o.Status.PodIPs) > 0 {
		podIP = o.Status.PodIPs[0].IP
	}
	set := make(fields.Set, 10)
	set["spec.nodeName"] = o.Spec.NodeName
	set["spec.restartPolicy"] = string(o.Spec.RestartPolicy)
	set["spec.schedulerName"] = o.Spec.SchedulerName
	set["spec.serviceAccountName"] = o.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(o.Spec.HostNetwork)
	set["status.phase"] = string(o.Status.Phase)
	set["status.podIP"] = podIP
	set["status.nominatedNodeName"] = o.Status.NominatedNodeName
	return set
}

// eventTTL is how long events are kept, in seconds: upstream's --event-ttl.
const eventTTL = 60 * 60

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
