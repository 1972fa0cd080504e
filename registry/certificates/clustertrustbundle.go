// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ClusterTrustBundles says what is particular to clustertrustbundles.
func ClusterTrustBundles() rest.Resource[*certificatesv1.ClusterTrustBundle] {
	return rest.Resource[*certificatesv1.ClusterTrustBundle]{
		Kind:                 certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"),
		Plural:               "clustertrustbundles",
		Singular:             "clustertrustbundle",
		NeedsResourceVersion: true,
		Columns:              clusterTrustBundleColumns(),
		NoGeneration:         true,
		Validate:             validateTrustBundle,
		ValidateUpdate:       validateTrustBundleUpdate,
		Fields: func(o *certificatesv1.ClusterTrustBundle) fields.Set {
			return fields.Set{"spec.signerName": o.Spec.SignerName}
		},
	}
}
