// SPDX-License-Identifier: Apache-2.0

// Package deviceclasses knows which extended resources DeviceClasses offer: a pod that requests one of them gets devices on nodes
// where no device plugin has any. NodeResourcesFit leaves those nodes to DynamicResources.
package deviceclasses

import (
	"context"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/internal/deviceclass"
	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Offers are the classes that offer resources.
type Offers map[v1.ResourceName]*resourcev1.DeviceClass

// For returns the offers of what the pod requests, nil if there are none. No informer starts before the first pod that requests an
// extended resource.
func For(ctx context.Context, h *framework.Handle, pod *framework.PodInfo) (Offers, error) {
	if !requestsAny(pod) {
		return nil, nil
	}
	if err := h.Need(ctx, framework.DeviceClass); err != nil {
		return nil, err
	}
	return Known(h, pod), nil
}

// Known is For a pod that it was called for before.
func Known(h *framework.Handle, pod *framework.PodInfo) Offers {
	if !requestsAny(pod) {
		return nil
	}
	classes, _ := h.Informers.Resource().V1().DeviceClasses().Lister().List(labels.Everything()) // reads memory; does not fail
	offers := make(Offers)
	for _, class := range classes {
		for _, name := range deviceclass.Resources(class) {
			if pod.Request.Scalar[name] > 0 && newer(class, offers[name]) {
				offers[name] = class
			}
		}
	}
	return offers
}

// Hint is for pods that wait for a class that offers what they request.
func Hint() framework.Hint {
	return framework.Hint{
		Kind: framework.DeviceClass, Action: framework.Add | framework.UpdateOther,
		Helps: func(pod *framework.PodInfo, event *framework.Event) bool {
			class, ok := event.New.(*resourcev1.DeviceClass)
			if !ok {
				return true
			}
			if old, ok := event.Old.(*resourcev1.DeviceClass); ok && ptr.Equal(old.Spec.ExtendedResourceName, class.Spec.ExtendedResourceName) {
				return false
			}
			for _, name := range deviceclass.Resources(class) {
				if pod.Request.Scalar[name] > 0 {
					return true
				}
			}
			return false
		},
	}
}

func requestsAny(pod *framework.PodInfo) bool {
	for name, amount := range pod.Request.Scalar {
		if amount > 0 && MayOffer(name) {
			return true
		}
	}
	return false
}

// MayOffer says whether a class could offer a resource of that name.
func MayOffer(name v1.ResourceName) bool {
	return framework.IsExtendedResource(name) || strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix)
}

// newer says which of two classes with one resource counts: the later one, so that the resource can move from class to class.
func newer(class, than *resourcev1.DeviceClass) bool {
	if than == nil {
		return true
	}
	if c := class.CreationTimestamp.Compare(than.CreationTimestamp.Time); c != 0 {
		return c > 0
	}
	return class.Name < than.Name
}
