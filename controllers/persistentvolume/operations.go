// SPDX-License-Identifier: Apache-2.0

package persistentvolume

import (
	"cmp"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/controllers/metrics"
)

// Operations that are measured. Others do them, so they last from when they were asked to until that is seen to be done.
const (
	provisioning = "provision"
	deletion     = "delete"
)

// operations measures how long volumes take to come and to go.
type operations struct {
	metrics *metrics.Volumes

	mu    sync.Mutex
	began map[string]operation // by claim or volume; guarded by mu
}

type operation struct {
	plugin, name string
	at           time.Time
}

func newOperations(measured *metrics.Volumes) *operations {
	return &operations{metrics: measured, began: map[string]operation{}}
}

// begin notes that an operation has begun, unless it has before.
func (o *operations) begin(of, plugin, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.began[of]; !known {
		o.began[of] = operation{plugin: cmp.Or(plugin, "N/A"), name: name, at: time.Now()}
	}
}

// result notes that an operation, if there is one, is done, or that a step of it failed.
func (o *operations) result(of string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	operation, known := o.began[of]
	switch {
	case !known:
	case err != nil:
		o.metrics.OperationErrors.WithLabelValues(operation.plugin, operation.name).Inc()
	default:
		o.metrics.OperationDuration.WithLabelValues(operation.plugin, operation.name).Observe(time.Since(operation.at).Seconds())
		delete(o.began, of)
	}
}

func (o *operations) forget(of string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.began, of)
}
