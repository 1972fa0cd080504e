// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/util/retry"
	"k8s.io/dynamic-resource-allocation/resourceclaim/metrics"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/deviceclasses"
)

// extended is what a pod requests of extended resources that DeviceClasses offer. It becomes a claim, which is written in PreBind: the
// scheduler makes it for the pod, and deletes it if the pod cannot be bound. What it asks for depends on the node, since resources that a
// device plugin has there are none of its business.
type extended struct {
	offers deviceclasses.Offers
	stale  *resourcev1.ResourceClaim // made for the pod in an earlier attempt, and in the way now
}

// extendedOf returns nil for a pod that requests none.
func (p *plugin) extendedOf(ctx context.Context, pod *framework.PodInfo) (*extended, error) {
	offers, err := deviceclasses.For(ctx, p.handle, pod)
	if err != nil || len(offers) == 0 {
		return nil, err
	}
	if err := p.needClaims(ctx); err != nil {
		return nil, err
	}
	claims, err := p.claims().ResourceClaims(pod.Pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	e := &extended{offers: offers}
	for _, c := range claims {
		if c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(c, pod.Pod) {
			e.stale = c
		}
	}
	return e, nil
}

// claimOn returns the claim for a node, and which request is for what; nil if the node has all resources by itself.
func (e *extended) claimOn(pod *v1.Pod, node *framework.NodeInfo) (*resourcev1.ResourceClaim, []v1.ContainerExtendedResourceRequest) {
	var requests []resourcev1.DeviceRequest
	var mappings []v1.ContainerExtendedResourceRequest
	for _, name := range slices.Sorted(maps.Keys(e.offers)) {
		if node.Allocatable.Scalar[name] == 0 {
			r, m := requestsFor(pod, name, e.offers[name].Name)
			requests, mappings = append(requests, r...), append(mappings, m...)
		}
	}
	if len(requests) == 0 {
		return nil, nil
	}
	slices.SortFunc(requests, func(a, b resourcev1.DeviceRequest) int { return strings.Compare(a.Name, b.Name) })
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: "<extended-resources>", // not a name that any claim could have
			UID:             uuid.NewUUID(), // until it has its own
			GenerateName:    pod.Name + "-extended-resources-",
			Annotations:     map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}, mappings
}

// requestsFor asks for the devices of all containers. Init containers end before others start, so they use those of later containers first,
// and what they need beyond that they share.
func requestsFor(pod *v1.Pod, name v1.ResourceName, class string) ([]resourcev1.DeviceRequest, []v1.ContainerExtendedResourceRequest) {
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	passing := func(i int) bool {
		policy := containers[i].RestartPolicy
		return i < len(pod.Spec.InitContainers) && (policy == nil || *policy != v1.ContainerRestartPolicyAlways)
	}
	staying := make([]*resourcev1.DeviceRequest, len(containers))
	var mappings, ofPassing []v1.ContainerExtendedResourceRequest
	use := func(i int, request string) v1.ContainerExtendedResourceRequest {
		return v1.ContainerExtendedResourceRequest{ContainerName: containers[i].Name, ResourceName: string(name), RequestName: request}
	}
	for i := range containers {
		if amount := amountOf(&containers[i], name); amount > 0 && !passing(i) {
			staying[i] = deviceRequest(&containers[i], i, name, class, amount)
			mappings = append(mappings, use(i, staying[i].Name))
		}
	}
	var shared *resourcev1.DeviceRequest
	sharing := make(map[int]bool) // positions in ofPassing
	for i := range containers {
		left := amountOf(&containers[i], name)
		if left == 0 || !passing(i) {
			continue
		}
		for _, r := range staying[i:] {
			if r != nil && left > 0 {
				left -= r.Exactly.Count
				ofPassing = append(ofPassing, use(i, r.Name))
			}
		}
		if left > 0 {
			r := deviceRequest(&containers[i], i, name, class, left)
			if shared == nil || shared.Exactly.Count < left {
				shared = r
			}
			sharing[len(ofPassing)] = true
			ofPassing = append(ofPassing, use(i, r.Name))
		}
	}
	var requests []resourcev1.DeviceRequest
	if shared != nil {
		requests = append(requests, *shared)
		for i := range sharing {
			ofPassing[i].RequestName = shared.Name
		}
	}
	for _, r := range staying {
		if r != nil {
			requests = append(requests, *r)
		}
	}
	return requests, append(mappings, ofPassing...)
}

func amountOf(c *v1.Container, name v1.ResourceName) int64 {
	quantity := c.Resources.Requests[name]
	n, _ := quantity.AsInt64()
	return n
}

// deviceRequest is named by where the container and the resource are, in the order of their names.
func deviceRequest(c *v1.Container, container int, name v1.ResourceName, class string, amount int64) *resourcev1.DeviceRequest {
	at := slices.Index(slices.Sorted(maps.Keys(c.Resources.Requests)), name)
	return &resourcev1.DeviceRequest{
		Name: fmt.Sprintf("container-%d-request-%d", container, at),
		Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: amount,
		},
	}
}

// create writes the claim, which has no devices yet, and passes on to it what is promised.
func (p *plugin) create(ctx context.Context, c *claim) error {
	next := c.DeepCopy()
	next.Name, next.UID = "", ""
	made, err := p.api(c.Namespace).Create(ctx, next, metav1.CreateOptions{})
	status := "success"
	if err != nil {
		status = "failure"
	}
	metrics.ResourceClaimCreate.WithLabelValues(status, "false", "", "Pod").Inc() // the controllers show it
	if err != nil {
		return fmt.Errorf("create claim for extended resources of pod %s: %w", c.OwnerReferences[0].Name, err)
	}
	p.pending.passOn(c.UID, made.UID)
	c.ResourceClaim = made
	return nil
}

// tell writes into the pod's status which claim has what for it, for the kubelet to read.
func (p *plugin) tell(ctx context.Context, pod *v1.Pod, c *claim) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"extendedResourceClaimStatus": v1.PodExtendedResourceClaimStatus{ResourceClaimName: c.Name, RequestMappings: c.mappings}},
	})
	if err != nil {
		return err
	}
	_, err = p.handle.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("update pod %s/%s ExtendedResourceClaimStatus: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// remove deletes a claim that the scheduler has made.
func (p *plugin) remove(ctx context.Context, c *resourcev1.ResourceClaim) error {
	latest, stale := c.DeepCopy(), false
	err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if stale {
			if latest, err = p.api(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		stale = true
		latest.Finalizers = slices.DeleteFunc(latest.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		_, err = p.api(c.Namespace).Update(ctx, latest, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = p.api(c.Namespace).Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c.UID}})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}
