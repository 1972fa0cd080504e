// SPDX-License-Identifier: Apache-2.0

// Package defaultbinder binds pods through the pods/binding subresource.
package defaultbinder

import (
	"context"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct{ client kubernetes.Interface }

// New makes the plugin.
func New(h *framework.Handle) (framework.Plugin, error) { return plugin{h.Client}, nil }

func (plugin) Name() string { return "DefaultBinder" }

func (p plugin) Bind(ctx context.Context, pod *v1.Pod, nodeName string) *framework.Status {
	return framework.AsStatus(p.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: nodeName},
	}, metav1.CreateOptions{}))
}
