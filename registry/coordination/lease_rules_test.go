// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestLease(t *testing.T) {
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1", Namespace: "kube-node-lease"}}
	l.Spec.PreferredHolder = ptr.To("me")
	if got := validateLease(l).ToAggregate(); got == nil || got.Error() != "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined" {
		t.Errorf("errors are %v", got)
	}
	prepareLeaseCreate(l)
	if errs := validateLease(l); len(errs) > 0 {
		t.Errorf("unexpected errors: %v", errs)
	}
	l.Spec.LeaseDurationSeconds, l.Spec.LeaseTransitions = ptr.To[int32](0), ptr.To[int32](-1)
	want := "[spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0, spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0]"
	if got := validateLeaseUpdate(l, l).ToAggregate(); got == nil || got.Error() != want {
		t.Errorf("errors are %v, want %s", got, want)
	}
}
