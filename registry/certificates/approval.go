// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// validateApproval: decided once, one way.
func validateApproval(o, old *request) field.ErrorList {
	path := field.NewPath("status", "conditions")
	var errs field.ErrorList
	approved, denied := conditionsOf(o, certificatesv1.CertificateApproved), conditionsOf(o, certificatesv1.CertificateDenied)
	if len(approved) > 0 && len(denied) > 0 {
		i := slices.IndexFunc(o.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateDenied
		})
		errs = append(errs, field.Invalid(path.Index(i).Child("type"), certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if is, was := conditionsOf(o, t), conditionsOf(old, t); len(was) > 0 && !equality.Semantic.DeepEqual(is, was) {
			errs = append(errs, field.Forbidden(path, "updates may not remove or modify a condition of type \""+string(t)+"\""))
		}
	}
	for i, c := range o.Status.Conditions {
		if c.Type == "" {
			errs = append(errs, field.Required(path.Index(i).Child("type"), ""))
		}
		if c.Status != corev1.ConditionTrue && c.Type != "" && (len(approved)+len(denied) > 0) && (c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed) {
			errs = append(errs, field.NotSupported(path.Index(i).Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
		}
	}
	return errs
}
