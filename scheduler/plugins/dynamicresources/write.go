// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"

	typedresourcev1 "k8s.io/client-go/kubernetes/typed/resource/v1"
)

func (p *plugin) api(namespace string) typedresourcev1.ResourceClaimInterface {
	return p.handle.Client.ResourceV1().ResourceClaims(namespace)
}

// bind writes the promised devices into the claim, if it has none yet, and the pod as who it is reserved for.
func (p *plugin) bind(ctx context.Context, c *claim, pod *v1.Pod) (*resourcev1.ResourceClaim, error) {
	latest, stale := c.DeepCopy(), false
	err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if stale {
			if latest, err = p.api(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{}); err != nil {
				return fmt.Errorf("get updated claim %s after conflict: %w", klog.KObj(c.ResourceClaim), err)
			}
		}
		stale = true
		latest, err = p.write(ctx, latest, c.promised, pod)
		return err
	})
	if err != nil {
		return nil, err
	}
	if c.promised != nil {
		p.pending.written(latest)
	}
	return latest, nil
}

func (p *plugin) write(ctx context.Context, c *resourcev1.ResourceClaim, promised *resourcev1.AllocationResult, pod *v1.Pod) (*resourcev1.ResourceClaim, error) {
	name := klog.KObj(c)
	switch {
	case c.DeletionTimestamp != nil:
		return nil, fmt.Errorf("claim %s got deleted in the meantime", name)
	case promised != nil && c.Status.Allocation != nil:
		return nil, fmt.Errorf("claim %s got allocated elsewhere in the meantime", name)
	case promised == nil && c.Status.Allocation == nil:
		return nil, fmt.Errorf("claim %s got deallocated elsewhere in the meantime", name)
	}
	if promised != nil && !slices.Contains(c.Finalizers, resourcev1.Finalizer) {
		c.Finalizers = append(c.Finalizers, resourcev1.Finalizer)
		updated, err := p.api(c.Namespace).Update(ctx, c, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("add finalizer to claim %s: %w", name, err)
		}
		c = updated
	}
	what := "reservation"
	if promised != nil {
		what = "allocation and reservation"
		c.Status.Allocation = promised.DeepCopy()
		now := metav1.Now()
		c.Status.Allocation.AllocationTimestamp = &now
	}
	c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	updated, err := p.api(c.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("add %s to claim %s: %w", what, name, err)
	}
	return updated, nil
}

// unreserve takes the pod out of the claim. If that fails, the next attempt finds it reserved, or the controller takes it out.
func (p *plugin) unreserve(ctx context.Context, c *resourcev1.ResourceClaim, pod *v1.Pod) {
	patch := fmt.Sprintf(`{"metadata": {"uid": %q}, "status": {"reservedFor": [{"$patch": "delete", "uid": %q}]}}`, c.UID, pod.UID)
	_, err := p.api(c.Namespace).Patch(context.WithoutCancel(ctx), c.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil {
		klog.FromContext(ctx).Error(err, "Taking back the reservation of a claim", "resourceclaim", klog.KObj(c), "pod", klog.KObj(pod))
	}
}

// deallocate gives the claim's devices back.
func (p *plugin) deallocate(ctx context.Context, c *resourcev1.ResourceClaim) error {
	next := c.DeepCopy()
	next.Status.Allocation, next.Status.ReservedFor, next.Status.Devices = nil, nil, nil
	if _, err := p.api(c.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("deallocate claim %s: %w", klog.KObj(c), err)
	}
	return nil
}
