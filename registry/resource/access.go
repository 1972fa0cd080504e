// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"
	"fmt"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"
)

// Deps is what resources of this group need besides their own storage.
type Deps struct {
	// Namespaces tells who may have devices that others use (nil: everyone).
	Namespaces corev1client.NamespacesGetter
	// Authorizer tells who may write which part of a claim's status (nil: whoever may write it).
	Authorizer authorizer.UnconditionalAuthorizer
}

// admin refuses devices that others use to those whose namespace has no label for it.
func (d Deps) admin(ctx context.Context, path *field.Path, namespace string) field.ErrorList {
	if d.Namespaces == nil {
		return nil
	}
	ns, err := d.Namespaces.Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf(
			"admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

func (d Deps) adminRequests(ctx context.Context, requests []resourcev1.DeviceRequest, namespace string) field.ErrorList {
	i := slices.IndexFunc(requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false)
	})
	if i < 0 {
		return nil
	}
	return d.admin(ctx, field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess"), namespace)
}

func (d Deps) permitClaim(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
	if old != nil {
		return nil // it asks for what it asked for
	}
	return d.adminRequests(ctx, c.Spec.Devices.Requests, c.Namespace)
}

func (d Deps) permitClaimTemplate(ctx context.Context, t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	if old != nil {
		return nil
	}
	return d.adminRequests(ctx, t.Spec.Spec.Devices.Requests, t.Namespace)
}

func (d Deps) permitClaimStatus(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
	return append(d.adminStatus(ctx, c, old), d.permitParts(ctx, &c.Status, &old.Status)...)
}

func (d Deps) adminStatus(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
	granted := func(c *resourcev1.ResourceClaim) int {
		if c.Status.Allocation == nil {
			return -1
		}
		return slices.IndexFunc(c.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return ptr.Deref(r.AdminAccess, false) })
	}
	i := granted(c)
	if i < 0 || granted(old) >= 0 {
		return nil
	}
	return d.admin(ctx, field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess"), c.Namespace)
}
