// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// leaseColumns are what kubectl prints, in the order and the words of upstream.
func leaseColumns() []rest.Column[*coordinationv1.Lease] {
	type L = *coordinationv1.Lease
	return []rest.Column[L]{
		rest.Name[L](),
		rest.Text("Holder", rest.Doc(coordinationv1.LeaseSpec{}, "holderIdentity"), func(o L) string { return ptr.Deref(o.Spec.HolderIdentity, "") }),
		rest.Age[L](),
	}
}
