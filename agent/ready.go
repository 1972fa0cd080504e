// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// AwaitReady returns true when a Node has become Ready: not as an earlier run has left it, but with a heartbeat
// from after a start. It returns false when ctx ends first.
func AwaitReady(ctx context.Context, nodes cache.SharedIndexInformer, name string, start time.Time) (bool, error) {
	ready := make(chan struct{})
	once := sync.OnceFunc(func() { close(ready) })
	start = start.Truncate(time.Second) // as coarse as heartbeats
	look := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok && n.Name == name && isReady(n, start) {
			once()
		}
	}
	registration, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }})
	if err != nil {
		return false, fmt.Errorf("watch the Node: %w", err)
	}
	defer func() { _ = nodes.RemoveEventHandler(registration) }()
	select {
	case <-ready:
		return true, nil
	case <-ctx.Done():
		return false, nil
	}
}

func isReady(n *corev1.Node, since time.Time) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(since)
		}
	}
	return false
}

// DropManagedFields takes from informers' objects what no part reads and what is a third of their size.
func DropManagedFields(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil && len(m.GetManagedFields()) > 0 {
		m.SetManagedFields(nil)
	}
	return obj, nil
}
