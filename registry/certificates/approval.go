// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// A request says who asks; who signs relies on that. So the API server writes it, whatever the client sent,
// and only the approval subresource writes the conditions Approved and Denied.

type request = certificatesv1.CertificateSigningRequest

func prepareRequestCreate(ctx context.Context, o *request) {
	o.Spec.Username, o.Spec.UID, o.Spec.Groups, o.Spec.Extra = "", "", nil, nil
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return
	}
	o.Spec.Username, o.Spec.UID, o.Spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
	for k, v := range u.GetExtra() {
		if o.Spec.Extra == nil {
			o.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		o.Spec.Extra[k] = v
	}
}

// prepareRequestStatusUpdate is what a signer writes. The decision stays as it was; adding to it or taking
// from it is left to validation.
func prepareRequestStatusUpdate(o, old *request) {
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		is, was := conditionsOf(o, t), conditionsOf(old, t)
		if len(is) != len(was) {
			continue
		}
		for i := range is {
			*is[i] = *was[i]
		}
	}
	setConditionTimes(o, old)
}

// prepareApproval lets nothing but conditions change.
func prepareApproval(o, old *request) {
	setConditionTimes(o, old)
	conditions := o.Status.Conditions
	o.Spec, o.Status = old.Spec, old.Status
	o.Status.Conditions = conditions
}

func conditionsOf(o *request, t certificatesv1.RequestConditionType) []*certificatesv1.CertificateSigningRequestCondition {
	var out []*certificatesv1.CertificateSigningRequestCondition
	for i := range o.Status.Conditions {
		if o.Status.Conditions[i].Type == t {
			out = append(out, &o.Status.Conditions[i])
		}
	}
	return out
}

func setConditionTimes(o, old *request) {
	now := metav1.Now()
	for i := range o.Status.Conditions {
		c := &o.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, was := range conditionsOf(old, c.Type) {
			if was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
				break
			}
		}
	}
}
