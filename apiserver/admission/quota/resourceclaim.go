// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"

	"github.com/skiff-k8s/skiff/internal/deviceclass"
)

// What the charge of a claim of devices depends on. Its class says which extended resources they are.
var (
	ResourceClaims = resourcev1.SchemeGroupVersion.WithResource("resourceclaims")
	DeviceClasses  = resourcev1.SchemeGroupVersion.WithResource("deviceclasses")
	Pods           = corev1.SchemeGroupVersion.WithResource("pods")
)

const countResourceClaims = "count/resourceclaims.resource.k8s.io"

// resourceClaimEvaluator charges a claim its devices: by class, and as the extended resources that their class offers.
func resourceClaimEvaluator(lister quota.ListerForResourceFunc) *evaluator {
	d := devices{lister}
	return &evaluator{
		resource: ResourceClaims, list: generic.ListResourceUsingListerFunc(lister, ResourceClaims),
		handles: handlesWrites, scope: generic.MatchesNoScopeFunc, usage: d.usage, names: d.charged,
	}
}

// devices finds what the charge of a claim depends on.
type devices struct{ lister quota.ListerForResourceFunc }

// charged says whether claims are charged to a name. To an extended resource they are only while a class offers it.
func (d devices) charged(name corev1.ResourceName) bool {
	if name == countResourceClaims || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass) {
		return true
	}
	request, isRequest := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	return isRequest && isExtended(request) && slices.ContainsFunc(d.classes(), func(class *resourcev1.DeviceClass) bool {
		return slices.Contains(deviceclass.Resources(class), corev1.ResourceName(request))
	})
}

func (d devices) usage(item runtime.Object) (corev1.ResourceList, error) {
	claim, ok := item.(*resourcev1.ResourceClaim)
	if !ok {
		return nil, fmt.Errorf("expect *v1.ResourceClaim, got %T", item)
	}
	byClass := corev1.ResourceList{}
	for i := range claim.Spec.Devices.Requests {
		byClass = quota.Add(byClass, devicesOf(&claim.Spec.Devices.Requests[i]))
	}
	usage := quota.Add(corev1.ResourceList{countResourceClaims: count(1)}, byClass)
	paid := d.chargedToPod(claim)
	for name, devices := range d.extended(byClass) {
		devices.Sub(paid[name])
		if devices.Sign() > 0 {
			usage[name] = devices
		}
	}
	return usage, nil
}

// extended are devices as extended resources.
func (d devices) extended(byClass corev1.ResourceList) corev1.ResourceList {
	usage := corev1.ResourceList{}
	for _, class := range d.classes() {
		devices, has := byClass[corev1.ResourceName(class.Name+corev1.ResourceClaimsPerClass)]
		if !has {
			continue
		}
		for _, name := range deviceclass.Resources(class) {
			usage = quota.Add(usage, corev1.ResourceList{corev1.DefaultResourceRequestsPrefix + name: devices})
		}
	}
	return usage
}

// chargedToPod is what the pod is charged for whose extended resources a claim was made; nothing for any other claim.
func (d devices) chargedToPod(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	owner := extendedOwner(claim)
	if owner == nil || d.lister == nil {
		return nil
	}
	lister, err := d.lister(Pods)
	if err != nil {
		return nil
	}
	object, err := lister.ByNamespace(claim.Namespace).Get(owner.Name)
	pod, ok := object.(*corev1.Pod)
	if err != nil || !ok || pod.UID != owner.UID {
		return nil
	}
	status := pod.Status.ExtendedResourceClaimStatus
	if status != nil && status.ResourceClaimName != claim.Name || status == nil && !d.isFirst(claim, owner.UID) {
		return nil // somebody made one more
	}
	usage, err := podUsage(pod)
	if err != nil {
		return nil
	}
	return usage
}

// extendedOwner is the pod for whose extended resources a claim says that it was made.
func extendedOwner(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(claim)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	return owner
}

// isFirst says whether there is no older claim for the same pod.
func (d devices) isFirst(claim *resourcev1.ResourceClaim, owner types.UID) bool {
	return !slices.ContainsFunc(all[*resourcev1.ResourceClaim](d.lister, ResourceClaims, claim.Namespace), func(other *resourcev1.ResourceClaim) bool {
		of, age := extendedOwner(other), other.CreationTimestamp.Compare(claim.CreationTimestamp.Time)
		return of != nil && of.UID == owner && (age < 0 || age == 0 && other.Name < claim.Name)
	})
}

func (d devices) classes() []*resourcev1.DeviceClass {
	return all[*resourcev1.DeviceClass](d.lister, DeviceClasses, metav1.NamespaceAll)
}

// all are the objects of a namespace, or of the cluster, that the lister has; none without one.
func all[T runtime.Object](lister quota.ListerForResourceFunc, of schema.GroupVersionResource, namespace string) (objects []T) {
	if lister == nil {
		return nil
	}
	list, err := generic.ListResourceUsingListerFunc(lister, of)(namespace)
	if err != nil {
		return nil // the memory of an informer does not fail
	}
	for _, object := range list {
		if typed, ok := object.(T); ok {
			objects = append(objects, typed)
		}
	}
	return objects
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
