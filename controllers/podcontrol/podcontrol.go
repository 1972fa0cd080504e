// SPDX-License-Identifier: Apache-2.0

// Package podcontrol is what all controllers that own pods share: creating and deleting them with
// the usual events, finding them by owner or node, and telling what state they are in.
package podcontrol

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

// Owner is an API object that owns pods.
type Owner interface {
	metav1.Object
	runtime.Object
}

// Control creates and deletes pods for their owners and tells the owners' events about it.
type Control struct {
	Client kubernetes.Interface
	Events record.EventRecorder
}

// Create creates the pod in the namespace of its owner.
func (c *Control) Create(ctx context.Context, owner Owner, pod *corev1.Pod) (*corev1.Pod, error) {
	created, err := c.Client.CoreV1().Pods(owner.GetNamespace()).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.Events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return nil, err
	}
	c.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return created, nil
}

// Delete deletes the pod. A pod that is gone already is an error that IsNotFound.
func (c *Control) Delete(ctx context.Context, owner Owner, pod *corev1.Pod) error {
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		c.Events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	c.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// Patch applies a strategic merge patch to the pod: what owner.Claimer needs.
func (c *Control) Patch(ctx context.Context, pod *corev1.Pod, patch []byte) error {
	_, err := c.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// FromTemplate makes the pod that a template describes, owned by ref, with a generated name.
func FromTemplate(template *corev1.PodTemplateSpec, owner metav1.Object, ref *metav1.OwnerReference) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: generateName(owner.GetName()),
			Namespace:    owner.GetNamespace(),
			Labels:       map[string]string{},
			Annotations:  map[string]string{},
			Finalizers:   slices.Clone(template.Finalizers),
		},
		Spec: *template.Spec.DeepCopy(),
	}
	maps.Copy(pod.Labels, template.Labels)
	maps.Copy(pod.Annotations, template.Annotations)
	if ref != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	return pod
}

// generateName appends a dash unless the name with the dash could not be a pod's name.
func generateName(owner string) string {
	// A generated suffix follows, so the dash itself need not end a valid name.
	if len(validation.IsDNS1123Subdomain(owner+"-a")) == 0 && len(owner)+1 <= validation.DNS1123SubdomainMaxLength {
		return owner + "-"
	}
	return owner
}
