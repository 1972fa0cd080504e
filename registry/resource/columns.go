// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

func resourceClaimColumns() []rest.Column[*resourcev1.ResourceClaim] {
	type C = *resourcev1.ResourceClaim
	return []rest.Column[C]{
		rest.Name[C](),
		rest.Text("State", "A summary of the current state (allocated, pending, reserved, etc.).", claimStateCell),
		rest.Age[C](),
	}
}

func claimStateCell(o *resourcev1.ResourceClaim) string {
	var out []string
	if o.DeletionTimestamp != nil {
		out = append(out, "deleted")
	}
	switch {
	case o.Status.Allocation != nil && len(o.Status.ReservedFor) > 0:
		out = append(out, "allocated", "reserved")
	case o.Status.Allocation != nil:
		out = append(out, "allocated")
	case o.DeletionTimestamp == nil:
		out = append(out, "pending")
	}
	return strings.Join(out, ",")
}

func resourceSliceColumns() []rest.Column[*resourcev1.ResourceSlice] {
	type S = *resourcev1.ResourceSlice
	spec := resourcev1.ResourceSliceSpec{}
	return []rest.Column[S]{
		rest.Name[S](),
		rest.Text("Node", rest.Doc(spec, "nodeName"), func(o S) string { return ptr.Deref(o.Spec.NodeName, "") }),
		rest.Text("Driver", rest.Doc(spec, "driver"), func(o S) string { return o.Spec.Driver }),
		rest.Text("Pool", rest.Doc(resourcev1.ResourcePool{}, "name"), func(o S) string { return o.Spec.Pool.Name }),
		rest.Age[S](),
	}
}

func deviceTaintRuleColumns() []rest.Column[*resourcev1.DeviceTaintRule] {
	type D = *resourcev1.DeviceTaintRule
	taint := resourcev1.DeviceTaint{}
	return []rest.Column[D]{
		rest.Name[D](),
		rest.Text("Key", rest.Doc(taint, "key"), func(o D) string { return o.Spec.Taint.Key }),
		rest.Text("Value", rest.Doc(taint, "value"), func(o D) string { return o.Spec.Taint.Value }),
		rest.Text("Effect", rest.Doc(taint, "effect"), func(o D) string { return string(o.Spec.Taint.Effect) }),
		rest.Text("TimeAdded", rest.Doc(taint, "timeAdded"), func(o D) string {
			if o.Spec.Taint.TimeAdded == nil {
				return ""
			}
			return rest.Since(*o.Spec.Taint.TimeAdded)
		}),
		rest.Age[D](),
	}
}
