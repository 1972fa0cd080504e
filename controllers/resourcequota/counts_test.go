// SPDX-License-Identifier: Apache-2.0

package resourcequota

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMayHaveMissed(t *testing.T) {
	quota := types.NamespacedName{Namespace: "ns", Name: "q"}
	second := time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)
	created := &metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(second)}
	c := counts{started: map[types.NamespacedName]time.Time{}}
	want := func(what string, missed bool) {
		t.Helper()
		if got := c.mayHaveMissed(quota, created); got != missed {
			t.Errorf("%s: may have been missed: %v", what, got)
		}
	}
	want("never counted", false)
	c.start(quota, second.Add(-time.Millisecond))
	want("counted before it was made", false)
	c.start(quota, second)
	want("counted in the same instant", true)
	c.start(quota, second.Add(time.Minute))
	want("counted after it was made", true)
	c.forget(quota)
	want("quota gone", false)
}
