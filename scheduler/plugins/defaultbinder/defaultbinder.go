// SPDX-License-Identifier: Apache-2.0

// Package defaultbinder binds pods through the pods/binding subresource.
package defaultbinder

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct{ client kubernetes.Interface }

// New makes the plugin.
func New(h *framework.Handle) (framework.Plugin, error) { return plugin{h.Client}, nil }

func (plugin) Name() string { return "DefaultBinder" }

func (p plugin) Bind(ctx context.Context, pod *v1.Pod, nodeName string) *framework.Status {
	err := p.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: nodeName},
	}, metav1.CreateOptions{})
	if err != nil && unanswered(err) && p.bound(ctx, pod, nodeName) {
		return nil
	}
	return framework.AsStatus(err)
}

// unanswered says whether the binding may have been made all the same.
func unanswered(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsInternalError(err)
}

// bound asks. Without, the pod's room on the node would be given away until the informer brings the news.
func (p plugin) bound(ctx context.Context, pod *v1.Pod, nodeName string) bool {
	now, err := p.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return err == nil && now.UID == pod.UID && now.Spec.NodeName == nodeName
}
