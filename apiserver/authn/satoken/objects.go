// SPDX-License-Identifier: Apache-2.0

package satoken

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// live asks the API server every time.
type live struct{ client kubernetes.Interface }

// Live looks objects up in the API server, so that what was just created is found.
func Live(client kubernetes.Interface) Objects { return live{client} }

func (l live) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return l.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l live) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return l.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l live) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return l.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l live) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return l.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

func (l live) LabelSecret(ctx context.Context, secret *corev1.Secret, label, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": secret.UID, "labels": map[string]string{label: value}}})
	if err != nil {
		return err
	}
	_, err = l.client.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// cached asks the informers first. Secrets are not among them: few tokens name one, and their
// contents would lie in memory twice.
type cached struct {
	live
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
}

// Cached looks objects up in the shared informers, and in the API server if they are not there.
func Cached(factory informers.SharedInformerFactory, client kubernetes.Interface) Objects {
	v1 := factory.Core().V1()
	return &cached{
		live:     live{client},
		accounts: v1.ServiceAccounts().Lister(),
		pods:     v1.Pods().Lister(),
		nodes:    v1.Nodes().Lister(),
	}
}

func (c *cached) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa, err := c.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return sa, nil
	}
	return c.live.ServiceAccount(ctx, namespace, name)
}

func (c *cached) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, err := c.pods.Pods(namespace).Get(name); err == nil {
		return pod, nil
	}
	return c.live.Pod(ctx, namespace, name)
}

func (c *cached) Node(ctx context.Context, name string) (*corev1.Node, error) {
	if node, err := c.nodes.Get(name); err == nil {
		return node, nil
	}
	return c.live.Node(ctx, name)
}
