// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/utils/ptr"
)

func handlesWrites(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

func serviceEvaluator(lister quota.ListerForResourceFunc) *evaluator {
	services := corev1.SchemeGroupVersion.WithResource("services")
	return &evaluator{
		resource: services, list: generic.ListResourceUsingListerFunc(lister, services),
		handles: handlesWrites, scope: generic.MatchesNoScopeFunc, usage: serviceUsage,
		names: func(name corev1.ResourceName) bool {
			switch name {
			case "count/services", corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
				return true
			}
			return false
		},
	}
}

func serviceUsage(item runtime.Object) (corev1.ResourceList, error) {
	service, ok := item.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("expect *v1.Service, got %T", item)
	}
	balancers, nodePorts := 0, 0
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		nodePorts = len(service.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		nodePorts = len(service.Spec.Ports)
		if !ptr.Deref(service.Spec.AllocateLoadBalancerNodePorts, true) { // only those that were asked for
			nodePorts = 0
			for _, p := range service.Spec.Ports {
				if p.NodePort != 0 {
					nodePorts++
				}
			}
		}
	}
	return corev1.ResourceList{
		"count/services": count(1), corev1.ResourceServices: count(1),
		corev1.ResourceServicesLoadBalancers: count(balancers), corev1.ResourceServicesNodePorts: count(nodePorts),
	}, nil
}

const (
	perStorageClass = ".storageclass.storage.k8s.io/"
	betaClass       = corev1.BetaStorageClassAnnotation
)

func claimEvaluator(lister quota.ListerForResourceFunc) *evaluator {
	claims := corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	return &evaluator{
		resource: claims, list: generic.ListResourceUsingListerFunc(lister, claims),
		handles: handlesClaim, names: chargesClaim, scope: claimInScope, usage: claimUsage,
	}
}

// handlesClaim looks at the status only where a change of size or class shows in it.
func handlesClaim(a admission.Attributes) bool {
	if a.GetSubresource() != "status" {
		return handlesWrites(a)
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, okOld := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	return ok && okOld && Replenishes(claim, old)
}

// Replenishes tells whether what the claim is charged has changed with its status.
func Replenishes(claim, old *corev1.PersistentVolumeClaim) bool {
	return !claim.Status.AllocatedResources.Storage().Equal(*old.Status.AllocatedResources.Storage()) ||
		!attributesClasses(claim).Equal(attributesClasses(old))
}

func chargesClaim(name corev1.ResourceName) bool {
	switch name {
	case "count/persistentvolumeclaims", corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage:
		return true
	}
	return strings.HasSuffix(string(name), perStorageClass+string(corev1.ResourcePersistentVolumeClaims)) ||
		strings.HasSuffix(string(name), perStorageClass+string(corev1.ResourceRequestsStorage))
}

// claimInScope is about the classes of attributes that the claim has, had, or is to have.
func claimInScope(s corev1.ScopedResourceSelectorRequirement, item runtime.Object) (bool, error) {
	claim, ok := item.(*corev1.PersistentVolumeClaim)
	if !ok {
		return false, fmt.Errorf("expect *v1.PersistentVolumeClaim, got %T", item)
	}
	if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	classes := attributesClasses(claim)
	if len(classes) == 0 {
		return selects(s, "")
	}
	for class := range classes {
		if ok, err := selects(s, class); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func attributesClasses(claim *corev1.PersistentVolumeClaim) sets.Set[string] {
	classes := sets.New(ptr.Deref(claim.Spec.VolumeAttributesClassName, ""), ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, ""))
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		classes.Insert(m.TargetVolumeAttributesClassName)
	}
	return classes.Delete("")
}

func claimUsage(item runtime.Object) (corev1.ResourceList, error) {
	claim, ok := item.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil, fmt.Errorf("expect *v1.PersistentVolumeClaim, got %T", item)
	}
	usage := corev1.ResourceList{"count/persistentvolumeclaims": count(1), corev1.ResourcePersistentVolumeClaims: count(1)}
	if storage, ok := storageOf(claim); ok {
		usage[corev1.ResourceRequestsStorage] = storage
	}
	class, ok := claim.Annotations[betaClass]
	if !ok {
		class = ptr.Deref(claim.Spec.StorageClassName, "")
	}
	if class == "" {
		return usage, nil
	}
	prefix := corev1.ResourceName(class + perStorageClass)
	usage[prefix+corev1.ResourcePersistentVolumeClaims] = count(1)
	if storage, ok := usage[corev1.ResourceRequestsStorage]; ok {
		usage[prefix+corev1.ResourceRequestsStorage] = storage
	}
	return usage, nil
}

// storageOf is the larger of what is asked for and what is allocated already.
func storageOf(claim *corev1.PersistentVolumeClaim) (resource.Quantity, bool) {
	size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return size, false
	}
	if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(size) > 0 {
		size = allocated
	}
	size = size.DeepCopy()
	size.RoundUp(0)
	return size, true
}
