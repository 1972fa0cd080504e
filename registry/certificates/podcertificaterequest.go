// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PodCertificateRequests says what is particular to podcertificaterequests.
func PodCertificateRequests() rest.Resource[*certificatesv1.PodCertificateRequest] {
	return rest.Resource[*certificatesv1.PodCertificateRequest]{
		Kind:                 certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"),
		Plural:               "podcertificaterequests",
		Singular:             "podcertificaterequest",
		StatusKeepsMetadata:  true,
		NeedsResourceVersion: true,
		Columns:              podCertificateRequestColumns(),
		Namespaced:           true,
		NoGeneration:         true,
		Default:              defaultPodCertificate,
		Validate:             validatePodCertificate,
		ValidateUpdate:       validatePodCertificateUpdate,
		PrepareStatusUpdate:  preparePodCertificateStatus,
		ValidateStatus:       validatePodCertificateStatus,
		Fields: func(o *certificatesv1.PodCertificateRequest) fields.Set {
			return fields.Set{"spec.signerName": o.Spec.SignerName, "spec.podName": o.Spec.PodName, "spec.nodeName": string(o.Spec.NodeName)}
		},
	}
}
