// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
)

// tokenObjects looks up what service account tokens are bound to: in the informers' memory, and in the API
// where that does not know the object (yet).
type tokenObjects struct {
	informers informers.SharedInformerFactory
	client    kubernetes.Interface
}

var _ satoken.Objects = tokenObjects{}

func (o tokenObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	sa, err := o.informers.Core().V1().ServiceAccounts().Lister().ServiceAccounts(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return sa, err
}

func (o tokenObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := o.informers.Core().V1().Pods().Lister().Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return pod, err
}

// Secret is always asked of the API: nothing keeps all secrets in memory.
func (o tokenObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o tokenObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := o.informers.Core().V1().Nodes().Lister().Get(name)
	if apierrors.IsNotFound(err) {
		return o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	return node, err
}

func (o tokenObjects) LabelSecret(ctx context.Context, secret *corev1.Secret, label, value string) error {
	updated := secret.DeepCopy()
	if updated.Labels == nil {
		updated.Labels = map[string]string{}
	}
	updated.Labels[label] = value
	_, err := o.client.CoreV1().Secrets(secret.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
	return err
}
