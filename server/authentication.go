// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/pki"
)

const authenticationInfo = "extension-apiserver-authentication"

// keepAuthentication has what aggregated API servers are told stay current: when other authorities are trusted, and
// when somebody changes it.
func keepAuthentication(ctx context.Context, client kubernetes.Interface, keys *pki.PKI) error {
	again := make(changed, 1)
	keys.ClientCA.AddListener(again)
	keys.RequestHeaderCA.AddListener(again)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, authenticationInfo).String()
		}))
	if _, err := factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, _ any) { again.Enqueue() },
		DeleteFunc: func(any) { again.Enqueue() },
	}); err != nil {
		return fmt.Errorf("watch ConfigMap %s: %w", authenticationInfo, err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		}
		if err := publishAuthentication(ctx, client, keys); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Trying again")
			time.AfterFunc(publishAgain, again.Enqueue)
		}
	}
}

// publishAgain is how long after an error.
const publishAgain = 5 * time.Second

// changed has an entry if something has changed since it was last looked at.
type changed chan struct{}

func (c changed) Enqueue() {
	select {
	case c <- struct{}{}:
	default:
	}
}

// publishAuthentication tells aggregated API servers how to recognize users: those who come through this
// server by its certificate and headers, others by their own certificate.
func publishAuthentication(ctx context.Context, client kubernetes.Interface, keys *pki.PKI) error {
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
	old, err := configMaps.Get(ctx, authenticationInfo, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: authenticationInfo}, Data: data}, metav1.CreateOptions{})
	case err == nil && !maps.Equal(old.Data, data):
		old.Data = data
		_, err = configMaps.Update(ctx, old, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish how API servers recognize users: %w", err)
	}
	return nil
}
