// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// denyServiceExternalIPs keeps Services from taking the traffic of any address over (CVE-2020-8554), unless the
// cluster allows it. What a Service already has, it keeps.
type denyServiceExternalIPs struct {
	*admission.Handler
	allowed bool
}

var _ admission.ValidationInterface = denyServiceExternalIPs{}

func newDenyServiceExternalIPs(d *Deps) admission.Interface {
	return denyServiceExternalIPs{admission.NewHandler(admission.Create, admission.Update), d.ExternalIPs}
}

func (p denyServiceExternalIPs) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	service, ok := a.GetObject().(*corev1.Service)
	if p.allowed || !ok || !isFor(a, services, "") {
		return nil
	}
	var had []string
	if old, ok := a.GetOldObject().(*corev1.Service); ok {
		had = old.Spec.ExternalIPs
	}
	isNew := func(ip string) bool { return !slices.Contains(had, ip) }
	if slices.ContainsFunc(service.Spec.ExternalIPs, isNew) {
		return admission.NewForbidden(a, errors.New("Use of external IPs is denied by admission control")) //nolint:staticcheck // upstream's words
	}
	return nil
}
