// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// CertificateSigningRequests says what is particular to certificatesigningrequests.
func CertificateSigningRequests() rest.Resource[*certificatesv1.CertificateSigningRequest] {
	return rest.Resource[*certificatesv1.CertificateSigningRequest]{
		Kind:         certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
		Plural:       "certificatesigningrequests",
		Singular:     "certificatesigningrequest",
		Columns:      certificateSigningRequestColumns(),
		ShortNames:   []string{"csr"},
		NoGeneration: true,
		Fields: func(o *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": o.Spec.SignerName}
		},
	}
}
