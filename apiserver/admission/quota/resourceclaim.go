// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// ResourceClaims are those of devices.
var ResourceClaims = resourcev1.SchemeGroupVersion.WithResource("resourceclaims")

const countResourceClaims = "count/resourceclaims.resource.k8s.io"

// resourceClaimEvaluator charges a claim its devices, by class. What it has as extended resources is not charged as such.
func resourceClaimEvaluator(lister quota.ListerForResourceFunc) *evaluator {
	return &evaluator{
		resource: ResourceClaims, list: generic.ListResourceUsingListerFunc(lister, ResourceClaims),
		handles: handlesWrites, scope: generic.MatchesNoScopeFunc, usage: resourceClaimUsage,
		names: func(name corev1.ResourceName) bool {
			return name == countResourceClaims || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
		},
	}
}

func resourceClaimUsage(item runtime.Object) (corev1.ResourceList, error) {
	claim, ok := item.(*resourcev1.ResourceClaim)
	if !ok {
		return nil, fmt.Errorf("expect *v1.ResourceClaim, got %T", item)
	}
	usage := corev1.ResourceList{countResourceClaims: count(1)}
	for i := range claim.Spec.Devices.Requests {
		for name, devices := range devicesOf(&claim.Spec.Devices.Requests[i]) {
			devices.Add(usage[name])
			usage[name] = devices
		}
	}
	return usage, nil
}

// devicesOf are the most devices that a request can be given, by class: of alternatives, whichever has most.
func devicesOf(r *resourcev1.DeviceRequest) corev1.ResourceList {
	most := corev1.ResourceList{}
	add := func(class string, mode resourcev1.DeviceAllocationMode, asked int64) {
		name := corev1.ResourceName(class + corev1.ResourceClaimsPerClass)
		devices := *resource.NewQuantity(asked, resource.DecimalSI)
		switch mode {
		case resourcev1.DeviceAllocationModeExactCount:
		case resourcev1.DeviceAllocationModeAll:
			devices = count(resourcev1.AllocationResultsMaxSize)
		default: // of another release
			devices = count(0)
		}
		if have, ok := most[name]; !ok || devices.Cmp(have) > 0 {
			most[name] = devices
		}
	}
	if r.Exactly != nil {
		add(r.Exactly.DeviceClassName, r.Exactly.AllocationMode, r.Exactly.Count)
	}
	for _, alternative := range r.FirstAvailable {
		add(alternative.DeviceClassName, alternative.AllocationMode, alternative.Count)
	}
	return most
}
