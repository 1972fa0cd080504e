// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// CertificateSigningRequests says what is particular to certificatesigningrequests.
func CertificateSigningRequests() rest.Resource[*certificatesv1.CertificateSigningRequest] {
	return rest.Resource[*certificatesv1.CertificateSigningRequest]{
		Kind:                certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
		Plural:              "certificatesigningrequests",
		Singular:            "certificatesigningrequest",
		Resets:              []string{"spec"},
		StatusResets:        []string{"status.conditions"},
		Columns:             certificateSigningRequestColumns(),
		ShortNames:          []string{"csr"},
		NoGeneration:        true,
		PrepareCreate:       prepareRequestCreate,
		PrepareUpdate:       func(o, old *certificatesv1.CertificateSigningRequest) { o.Spec = old.Spec },
		PrepareStatusUpdate: prepareRequestStatusUpdate,
		ValidateName:        anyName,
		Validate:            func(o *certificatesv1.CertificateSigningRequest) field.ErrorList { return validateRequest(o, nil) },
		ValidateUpdate:      validateRequestUpdate,
		ValidateStatus:      validateSigned,
		Subresources: func(store, _ *rest.Store) map[string]genericrest.Storage {
			return map[string]genericrest.Storage{"approval": rest.Part(store, prepareApproval, validateApproved, fieldpath.NewExcludeFilterSetMap(map[fieldpath.APIVersion]*fieldpath.Set{
				"certificates.k8s.io/v1": fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate")),
			}))}
		},
		Fields: func(o *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": o.Spec.SignerName}
		},
	}
}
