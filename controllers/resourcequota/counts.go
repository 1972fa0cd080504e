// SPDX-License-Identifier: Apache-2.0

package resourcequota

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// counts remembers when each quota was last counted, so that an object whose watch event came too late for a count is
// counted again: the count has taken away what admission charged for it.
//
// An object gets its time of creation before admission charges for it. A count that began before the charge was
// stored fails to write, by the resource version; one that began later began after the object's time of creation.
type counts struct {
	mu      sync.Mutex
	started map[types.NamespacedName]time.Time
}

func (c *counts) start(quota types.NamespacedName, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started[quota] = now
}

func (c *counts) forget(quota types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.started, quota)
}

// mayHaveMissed is whether obj, just seen for the first time, was made before the quota's last count began. Times of
// creation are whole seconds, rounded down.
func (c *counts) mayHaveMissed(quota types.NamespacedName, obj metav1.Object) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	started, counted := c.started[quota]
	return counted && !obj.GetCreationTimestamp().After(started)
}
