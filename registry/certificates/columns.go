// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

func certificateSigningRequestColumns() []rest.Column[*certificatesv1.CertificateSigningRequest] {
	type C = *certificatesv1.CertificateSigningRequest
	spec := certificatesv1.CertificateSigningRequestSpec{}
	return []rest.Column[C]{
		rest.Name[C](),
		rest.Age[C](),
		rest.Text("SignerName", rest.Doc(certificatesv1beta1.CertificateSigningRequestSpec{}, "signerName"), func(o C) string { return rest.Or(o.Spec.SignerName, "<none>") }),
		rest.Text("Requestor", rest.Doc(certificatesv1beta1.CertificateSigningRequestSpec{}, "request"), func(o C) string { return o.Spec.Username }),
		rest.Text("RequestedDuration", rest.Doc(spec, "expirationSeconds"), func(o C) string {
			if o.Spec.ExpirationSeconds == nil {
				return "<none>"
			}
			return duration.HumanDuration(time.Duration(*o.Spec.ExpirationSeconds) * time.Second)
		}),
		rest.Text("Condition", rest.Doc(certificatesv1beta1.CertificateSigningRequestStatus{}, "conditions"), conditionCell),
	}
}

func conditionCell(o *certificatesv1.CertificateSigningRequest) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for _, c := range o.Status.Conditions {
		has[c.Type] = true
	}
	out := "Pending"
	switch {
	case has[certificatesv1.CertificateDenied]:
		out = "Denied"
	case has[certificatesv1.CertificateApproved]:
		out = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		out += ",Failed"
	}
	if len(o.Status.Certificate) > 0 {
		out += ",Issued"
	}
	return out
}

func clusterTrustBundleColumns() []rest.Column[*certificatesv1.ClusterTrustBundle] {
	type B = *certificatesv1.ClusterTrustBundle
	return []rest.Column[B]{
		rest.Name[B](),
		rest.Text("SignerName", rest.Doc(certificatesv1.ClusterTrustBundleSpec{}, "signerName"), func(o B) string { return rest.Or(o.Spec.SignerName, "<none>") }),
	}
}

func podCertificateRequestColumns() []rest.Column[*certificatesv1.PodCertificateRequest] {
	type R = *certificatesv1.PodCertificateRequest
	spec := certificatesv1.PodCertificateRequestSpec{}
	return []rest.Column[R]{
		rest.Name[R](),
		rest.Text("PodName", rest.Doc(spec, "podName"), func(o R) string { return o.Spec.PodName }),
		rest.Text("ServiceAccountName", rest.Doc(spec, "serviceAccountName"), func(o R) string { return o.Spec.ServiceAccountName }),
		rest.Text("NodeName", rest.Doc(spec, "nodeName"), func(o R) string { return string(o.Spec.NodeName) }),
		rest.Text("SignerName", rest.Doc(spec, "signerName"), func(o R) string { return o.Spec.SignerName }),
		rest.Text("State", "Is the request Pending, Issued, Denied, or Failed?", func(o R) string {
			for _, c := range o.Status.Conditions {
				switch c.Type {
				case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
					return c.Type // they exclude each other, and their names are the states
				}
			}
			return "Pending"
		}),
		rest.Text("UnverifiedUserAnnotations", rest.Doc(spec, "unverifiedUserAnnotations"), func(o R) string { return labels.FormatLabels(o.Spec.UnverifiedUserAnnotations) }),
	}
}
