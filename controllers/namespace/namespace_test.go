// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

func TestConditions(t *testing.T) {
	var status corev1.NamespaceStatus
	start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	well := &report{}
	if !well.apply(&status, start) || len(status.Conditions) != 5 {
		t.Fatalf("conditions are %+v", status.Conditions)
	}
	if well.apply(&status, start.Add(time.Hour)) {
		t.Error("the same report changed something")
	}

	bad := &report{discovery: errors.New("metrics are down"), content: []error{errors.New("b"), errors.New("a")}}
	bad.remain(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, make([]metav1.PartialObjectMetadata, 2))
	held := bad.remain(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
		[]metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"example.com/x"}}}})
	if !held || !bad.left() {
		t.Error("the finalizer was not seen")
	}
	if !bad.apply(&status, start.Add(time.Hour)) {
		t.Error("nothing changed")
	}
	var messages []string
	for _, c := range status.Conditions {
		if c.Status == corev1.ConditionTrue {
			messages = append(messages, c.Reason+": "+c.Message)
			if !c.LastTransitionTime.Time.Equal(start.Add(time.Hour)) {
				t.Errorf("%s changed at %v", c.Type, c.LastTransitionTime)
			}
		}
	}
	want := []string{
		"DiscoveryFailed: metrics are down",
		"ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b",
		"SomeResourcesRemain: Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
		"SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances",
	}
	if got := strings.Join(messages, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("conditions say\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestGracePeriod(t *testing.T) {
	pod := func(phase corev1.PodPhase, seconds *int64) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: seconds}, Status: corev1.PodStatus{Phase: phase}}
	}
	got := gracePeriod([]corev1.Pod{pod(corev1.PodRunning, ptr.To[int64](30)), pod(corev1.PodSucceeded, ptr.To[int64](600)), pod(corev1.PodRunning, nil)})
	if got != 30*time.Second {
		t.Errorf("grace period is %v, want 30s", got)
	}
}
