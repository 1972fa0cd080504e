// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"encoding/json"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forDriver returns the tokens of the pod's service account that a CSI driver wants, by audience, as drivers read them.
func (t *tokens) forDriver(ctx context.Context, pod *corev1.Pod, requests []storagev1.TokenRequest) (string, error) {
	all := map[string]authenticationv1.TokenRequestStatus{}
	for _, r := range requests {
		projection := &corev1.ServiceAccountTokenProjection{Audience: r.Audience, ExpirationSeconds: r.ExpirationSeconds}
		text, err := t.get(ctx, pod, projection)
		if err != nil {
			return "", err
		}
		all[r.Audience] = authenticationv1.TokenRequestStatus{Token: string(text), ExpirationTimestamp: metav1.NewTime(t.expiry(pod, projection))}
	}
	data, err := json.Marshal(all)
	return string(data), err
}
