// SPDX-License-Identifier: Apache-2.0

// Package deviceclass knows what a DeviceClass offers, for the scheduler and for quotas.
package deviceclass

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// Resources are the extended resources that pods can request instead of a claim of the class: one that each class has, and what it says.
func Resources(class *resourcev1.DeviceClass) []corev1.ResourceName {
	list := []corev1.ResourceName{corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix + class.Name)}
	if class.Spec.ExtendedResourceName != nil {
		list = append(list, corev1.ResourceName(*class.Spec.ExtendedResourceName))
	}
	return list
}
