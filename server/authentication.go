// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/pki"
)

// publishAuthentication tells aggregated API servers how to recognize users: those who come through this
// server by its certificate and headers, others by their own certificate.
func publishAuthentication(ctx context.Context, client kubernetes.Interface, keys *pki.PKI) error {
	const name = "extension-apiserver-authentication"
	list := func(items ...string) string {
		raw, _ := json.Marshal(items) // strings always encode
		return string(raw)
	}
	headers := authn.FrontProxyHeaders
	data := map[string]string{
		"client-ca-file":                     string(keys.ClientCA.PEM()),
		"requestheader-client-ca-file":       string(keys.RequestHeaderCA.PEM()),
		"requestheader-allowed-names":        list(keys.FrontProxyClient.Leaf().Subject.CommonName),
		"requestheader-username-headers":     list(headers.User),
		"requestheader-uid-headers":          list(headers.UID),
		"requestheader-group-headers":        list(headers.Group),
		"requestheader-extra-headers-prefix": list(headers.ExtraPrefix),
	}
	configMaps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	old, err := configMaps.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	case err == nil && !maps.Equal(old.Data, data):
		old.Data = data
		_, err = configMaps.Update(ctx, old, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish how API servers recognize users: %w", err)
	}
	return nil
}
