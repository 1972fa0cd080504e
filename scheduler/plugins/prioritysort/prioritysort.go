// SPDX-License-Identifier: Apache-2.0

// Package prioritysort tries pods of higher priority first, and older ones first among equals.
package prioritysort

import "github.com/skiff-k8s/skiff/scheduler/framework"

type plugin struct{}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "PrioritySort" }

func (plugin) Less(a, b *framework.QueuedPod) bool {
	pa, pb := framework.Priority(a.Pod), framework.Priority(b.Pod)
	return pa > pb || pa == pb && a.Timestamp.Before(b.Timestamp)
}
