// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// may allows what it lists, as "verb subresource namespace/name", and notes what it was asked.
type may struct {
	allowed []string
	asked   []string
}

func (m *may) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	question := fmt.Sprintf("%s %s/%s %s/%s", a.GetVerb(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName())
	m.asked = append(m.asked, question)
	if slices.Contains(m.allowed, question) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no role", nil
}

// Who changes a part of a claim's status needs a permission on that part (KEP-4817; upstream's
// DRAResourceClaimGranularStatusAuthorization).
func TestPartsOfAClaimsStatus(t *testing.T) {
	on := func(node string) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	devices := func(drivers ...string) (out []resourcev1.AllocatedDeviceStatus) {
		for _, d := range drivers {
			out = append(out, resourcev1.AllocatedDeviceStatus{Driver: d, Pool: "p", Device: "d"})
		}
		return out
	}
	someone := &user.DefaultInfo{Name: "someone"}
	onNode := &user.DefaultInfo{Name: "system:serviceaccount:drivers:d", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n"}}}
	const (
		binding   = "update resourceclaims/binding /"
		anyNode   = "arbitrary-node:update resourceclaims/driver default/d.example.com"
		itsNode   = "associated-node:update resourceclaims/driver default/d.example.com"
		forbidden = `status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[`
	)
	for _, c := range []struct {
		name     string
		who      user.Info
		allowed  []string
		old, new resourcev1.ResourceClaimStatus
		asked    []string
		want     string // the beginning of the error
	}{
		{name: "nothing changes", who: someone, old: resourcev1.ResourceClaimStatus{Allocation: on("n")}, new: resourcev1.ResourceClaimStatus{Allocation: on("n")}},
		{name: "allocated", who: someone, new: resourcev1.ResourceClaimStatus{Allocation: on("n")}, asked: []string{binding},
			want: `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "someone" cannot update resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope: no role`},
		{name: "allocated by one who may", who: someone, allowed: []string{binding}, new: resourcev1.ResourceClaimStatus{Allocation: on("n")}, asked: []string{binding}},
		{name: "reserved", who: someone, old: resourcev1.ResourceClaimStatus{Allocation: on("n")}, asked: []string{binding},
			new:  resourcev1.ResourceClaimStatus{Allocation: on("n"), ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p"}}},
			want: "status.allocation: Forbidden"},
		{name: "told by a driver", who: someone, old: resourcev1.ResourceClaimStatus{Allocation: on("n")}, asked: []string{anyNode},
			new: resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: devices("d.example.com")}, want: forbidden + "arbitrary-node:update]"},
		{name: "told by a driver of the node", who: onNode, allowed: []string{itsNode}, asked: []string{itsNode},
			old: resourcev1.ResourceClaimStatus{Allocation: on("n")}, new: resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: devices("d.example.com")}},
		{name: "told by a driver of the node, for all", who: onNode, allowed: []string{anyNode}, asked: []string{itsNode, anyNode},
			old: resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: devices("d.example.com")}, new: resourcev1.ResourceClaimStatus{Allocation: on("n")}},
		{name: "told by a driver of another node", who: onNode, allowed: []string{itsNode}, asked: []string{anyNode},
			old: resourcev1.ResourceClaimStatus{Allocation: on("m")}, new: resourcev1.ResourceClaimStatus{Allocation: on("m"), Devices: devices("d.example.com")},
			want: forbidden},
		{name: "another driver's stays", who: someone, allowed: []string{anyNode}, asked: []string{anyNode},
			old: resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: devices("e.example.com")},
			new: resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: devices("d.example.com", "e.example.com")}},
		{name: "given back", who: someone, allowed: []string{binding}, asked: []string{binding},
			old: resourcev1.ResourceClaimStatus{Allocation: on("n"), Devices: devices("d.example.com")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := request.WithUser(t.Context(), c.who)
			ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
				IsResourceRequest: true, Verb: "update", APIGroup: "resource.k8s.io", APIVersion: "v1", Resource: "resourceclaims", Subresource: "status",
				Namespace: "default", Name: "claim",
			})
			authorizer := &may{allowed: c.allowed}
			errs := Deps{Authorizer: authorizer}.permitParts(ctx, &c.new, &c.old)
			if !slices.Equal(authorizer.asked, c.asked) {
				t.Errorf("asked %q, want %q", authorizer.asked, c.asked)
			}
			switch {
			case c.want == "" && len(errs) > 0, c.want != "" && (len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), c.want)):
				t.Errorf("%v, want %s", errs, c.want)
			}
		})
	}
}
