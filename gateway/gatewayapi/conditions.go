// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// verdict is a condition before it has a time: what holds, why, and what a person should know.
type verdict struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

func yes[R ~string](reason R, message string) verdict {
	return verdict{metav1.ConditionTrue, string(reason), message}
}

func no[R ~string](reason R, message string) verdict {
	return verdict{metav1.ConditionFalse, string(reason), message}
}

func (v verdict) is() bool { return v.status == metav1.ConditionTrue }

// conditions collects an object's conditions. Those that the object has already keep the time since which they hold.
type conditions struct {
	generation int64
	now        metav1.Time
	old        []metav1.Condition
	list       []metav1.Condition
}

func set[T ~string](c *conditions, kind T, v verdict) {
	condition := metav1.Condition{
		Type: string(kind), Status: v.status, Reason: v.reason, Message: v.message, ObservedGeneration: c.generation, LastTransitionTime: c.now,
	}
	for _, old := range c.old {
		if old.Type == condition.Type && old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
	}
	c.list = append(c.list, condition)
}
