// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// report is what one attempt to empty a namespace found.
type report struct {
	discovery error   // some API groups could not be asked
	parsing   error   // some group versions could not be read
	content   []error // some resources could not be deleted

	remaining  map[schema.GroupVersionResource]int
	finalizers map[string]int // how many of the remaining objects each holds back
	wait       time.Duration  // when to look again at what remains
}

// remain notes objects that are still there and tells whether finalizers hold any of them.
func (r *report) remain(resource schema.GroupVersionResource, items []metav1.PartialObjectMetadata) (held bool) {
	if r.remaining == nil {
		r.remaining, r.finalizers = map[schema.GroupVersionResource]int{}, map[string]int{}
	}
	r.remaining[resource] = len(items)
	for _, item := range items {
		for _, finalizer := range item.Finalizers {
			r.finalizers[finalizer]++
			held = true
		}
	}
	return held
}

func (r *report) left() bool { return len(r.remaining) > 0 }

// waitFor notes that it makes no sense to look again earlier than in d.
func (r *report) waitFor(d time.Duration) { r.wait = max(r.wait, d) }

// conditions returns all five; false ones say that all is well.
func (r *report) conditions() []corev1.NamespaceCondition {
	conditions := []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
		{Type: corev1.NamespaceDeletionGVParsingFailure, Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
		{Type: corev1.NamespaceDeletionContentFailure, Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: corev1.NamespaceContentRemaining, Reason: "ContentRemoved", Message: "All content successfully removed"},
		{Type: corev1.NamespaceFinalizersRemaining, Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
	}
	for i := range conditions {
		conditions[i].Status = corev1.ConditionFalse
	}
	set := func(i int, reason, message string) {
		conditions[i].Status, conditions[i].Reason, conditions[i].Message = corev1.ConditionTrue, reason, message
	}
	if r.discovery != nil {
		message := r.discovery.Error()
		var failed *discovery.ErrGroupDiscoveryFailed
		if errors.As(r.discovery, &failed) {
			message = fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(failed.Groups), r.discovery)
		}
		set(0, "DiscoveryFailed", message)
	}
	if r.parsing != nil {
		set(1, "GroupVersionParsingFailed", r.parsing.Error())
	}
	if len(r.content) > 0 {
		var messages []string
		for _, err := range r.content {
			messages = append(messages, err.Error())
		}
		slices.Sort(messages)
		set(2, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(r.content), strings.Join(messages, ", ")))
	}
	if len(r.remaining) > 0 {
		var resources []string
		for resource, n := range r.remaining {
			resources = append(resources, fmt.Sprintf("%s.%s has %d resource instances", resource.Resource, resource.Group, n))
		}
		slices.Sort(resources)
		set(3, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(resources, ", "))
	}
	if len(r.finalizers) > 0 {
		var finalizers []string
		for finalizer, n := range r.finalizers {
			finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", finalizer, n))
		}
		slices.Sort(finalizers)
		set(4, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(finalizers, ", "))
	}
	return conditions
}

// apply writes the conditions into the status and tells whether that changed anything.
func (r *report) apply(status *corev1.NamespaceStatus, now time.Time) (changed bool) {
	for _, c := range r.conditions() {
		c.LastTransitionTime = metav1.Time{Time: now}
		i := slices.IndexFunc(status.Conditions, func(old corev1.NamespaceCondition) bool { return old.Type == c.Type })
		if i < 0 {
			status.Conditions = append(status.Conditions, c)
			changed = true
			continue
		}
		old := &status.Conditions[i]
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		changed = changed || old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message
		*old = c
	}
	return changed
}
