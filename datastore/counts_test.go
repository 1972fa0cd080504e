// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
)

// The storage is asked when somebody wants to know, and not again for a while.
func TestCountsAskOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounts()
		asked, answer := 0, error(nil)
		remove := c.add(schema.GroupResource{Group: "apps", Resource: "deployments"}, func(context.Context) (storage.Stats, error) {
			asked++
			return storage.Stats{ObjectCount: int64(asked)}, answer
		})
		get := func(wantCount int64, wantErr error) {
			t.Helper()
			stats, err := c.Get("deployments.apps")
			if stats.ObjectCount != wantCount || !errors.Is(err, wantErr) {
				t.Errorf("Get = %d, %v; want %d, %v", stats.ObjectCount, err, wantCount, wantErr)
			}
		}
		if asked != 0 {
			t.Error("it asked before anybody wanted to know")
		}
		get(1, nil)
		get(1, nil)
		time.Sleep(countTTL)
		get(2, nil)
		answer = errors.New("down")
		time.Sleep(countTTL)
		get(3, flowcontrolrequest.ObjectCountStaleErr)

		again := c.add(schema.GroupResource{Group: "apps", Resource: "deployments"}, func(context.Context) (storage.Stats, error) {
			return storage.Stats{ObjectCount: 70}, nil
		})
		remove() // the one that was replaced
		get(70, nil)
		again()
		get(0, flowcontrolrequest.ObjectCountNotFoundErr)
	})
}
