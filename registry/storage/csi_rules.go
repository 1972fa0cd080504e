// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// Rules of CSIDrivers, CSINodes and CSIStorageCapacities.

const (
	minTokenLife        = 600 // seconds
	maxTokenLife        = 1 << 32
	minCountingPeriod   = 10 // seconds between updates of a node's allocatable volumes
	maxNodeID           = 256
	maxHealthConditions = 16
	maxHealthReason     = 256
)

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	setDefault(&s.AttachRequired, true)
	setDefault(&s.PodInfoOnMount, false)
	setDefault(&s.StorageCapacity, false)
	setDefault(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = append(s.VolumeLifecycleModes, storagev1.VolumeLifecyclePersistent)
	}
	setDefault(&s.RequiresRepublish, false)
	setDefault(&s.SELinuxMount, false)
	setDefault(&s.PreventPodSchedulingIfMissing, false)
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	return append(rule.ObjectMeta(&d.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validateCSIDriverSpec(&d.Spec)...)
}

func validateCSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	path := field.NewPath("spec")
	errs := append(rule.ObjectMetaUpdate(&d.ObjectMeta), validateCSIDriverSpec(&d.Spec)...)
	errs = append(errs, rule.Unchanged(path.Child("attachedRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)...)
	return append(errs, rule.Unchanged(path.Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)...)
}

func validateCSIDriverSpec(s *storagev1.CSIDriverSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	for _, required := range []struct {
		name  string
		value *bool
	}{
		{"attachedRequired", s.AttachRequired},
		{"podInfoOnMount", s.PodInfoOnMount},
		{"storageCapacity", s.StorageCapacity},
		{"seLinuxMount", s.SELinuxMount},
		{"preventPodSchedulingIfMissing", s.PreventPodSchedulingIfMissing},
	} {
		errs = append(errs, rule.If(required.value == nil, field.Required(path.Child(required.name), ""))...)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("fsGroupPolicy"), s.FSGroupPolicy,
		storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	errs = append(errs, validateTokenRequests(path.Child("tokenRequests"), s.TokenRequests)...)
	for _, mode := range s.VolumeLifecycleModes {
		errs = append(errs, rule.Supported(path.Child("volumeLifecycleModes"), mode, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < minCountingPeriod {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds"))
	}
	return append(errs, rule.If(s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0,
		field.Invalid(path.Child("serviceAccountTokenInSecrets"), s.ServiceAccountTokenInSecrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))...)
}

func validateTokenRequests(path *field.Path, requests []storagev1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	audiences := sets.New[string]()
	for i, r := range requests {
		at, life := path.Index(i), path.Index(i).Child("expirationSeconds")
		switch {
		case audiences.Has(r.Audience):
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
		case r.ExpirationSeconds == nil:
		case *r.ExpirationSeconds < minTokenLife:
			errs = append(errs, field.Invalid(life, *r.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
		case *r.ExpirationSeconds > maxTokenLife:
			errs = append(errs, field.Invalid(life, *r.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
		}
		audiences.Insert(r.Audience)
	}
	return errs
}

func csiDriverWarnings(d, old *storagev1.CSIDriver) []string {
	same := old != nil && equality.Semantic.DeepEqual(d.Spec.TokenRequests, old.Spec.TokenRequests)
	if same || len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

// dropStorageHealth takes out what upstream has off by default (CSIVolumeHealth), unless the old object has it.
func dropStorageHealth(n, old *storagev1.CSINode) {
	if len(old.Status.StorageHealth) == 0 {
		n.Status.StorageHealth = nil
	}
}

// validateStorageHealth checks what only objects of a server that had CSIVolumeHealth on hold.
func validateStorageHealth(n, _ *storagev1.CSINode) field.ErrorList {
	errs, path := rule.ObjectMetaUpdate(&n.ObjectMeta), field.NewPath("status", "storageHealth")
	names := sets.New[string]()
	for i := range n.Status.StorageHealth {
		h, at := &n.Status.StorageHealth[i], path.Index(i)
		errs = append(errs, rule.If(names.Has(h.Name), field.Duplicate(at, h.Name))...)
		names.Insert(h.Name)
		errs = append(errs, podspec.ValidateCSIDriverName(at.Child("name"), h.Name)...)
		conditions := at.Child("healthConditions")
		if n := len(h.HealthConditions); n > maxHealthConditions {
			errs = append(errs, field.TooMany(conditions, n, maxHealthConditions))
			continue
		}
		for j := range h.HealthConditions {
			errs = append(errs, validateHealthCondition(conditions.Index(j), &h.HealthConditions[j])...)
		}
	}
	return errs
}

func validateHealthCondition(path *field.Path, c *storagev1.StorageHealthCondition) field.ErrorList {
	errs, reason := rule.Supported(path.Child("status"), c.Status, storagev1.StorageDegraded, storagev1.StorageUnreachable), path.Child("reason")
	if c.Reason == "" {
		errs = append(errs, field.Required(reason, ""))
	} else {
		errs = append(errs, rule.Invalid(reason, c.Reason, metavalidation.IsValidConditionReason(c.Reason))...)
	}
	errs = append(errs, rule.If(len(c.Reason) > maxHealthReason, field.TooLong(reason, c.Reason, maxHealthReason))...)
	errs = append(errs, rule.If(len(c.Message) > maxErrorMessage, field.TooLong(path.Child("message"), c.Message, maxErrorMessage))...)
	errs = append(errs, rule.SupportedIfSet(path.Child("accessMode"), c.AccessMode,
		corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	return append(errs, rule.SupportedIfSet(path.Child("volumeMode"), c.VolumeMode, corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeBlock)...)
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	errs, path := rule.ObjectMeta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), field.NewPath("spec", "drivers")
	names := sets.New[string]()
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], path.Index(i)
		errs = append(errs, validateNodeDriver(at, d)...)
		errs = append(errs, rule.If(names.Has(d.Name), field.Duplicate(at.Child("name"), d.Name))...)
		names.Insert(d.Name)
	}
	return errs
}

func validateNodeDriver(path *field.Path, d *storagev1.CSINodeDriver) field.ErrorList {
	errs := podspec.ValidateCSIDriverName(path.Child("name"), d.Name)
	errs = append(errs, rule.Required(path.Child("nodeID"), d.NodeID)...)
	errs = append(errs, rule.If(len(d.NodeID) > maxNodeID, field.Invalid(path.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))...)
	if d.Allocatable != nil {
		errs = append(errs, rule.NonNegativeIfSet(path.Child("allocatable", "count"), d.Allocatable.Count)...)
	}
	keys := sets.New[string]()
	for _, key := range d.TopologyKeys {
		errs = append(errs, rule.Required(path, key)...)
		errs = append(errs, rule.If(keys.Has(key), field.Duplicate(path, key))...)
		errs = append(errs, rule.QualifiedName(path, key)...)
		keys.Insert(key)
	}
	return errs
}

// validateCSINodeUpdate keeps each driver as it is, but for how many volumes it takes.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	errs := validateCSINode(n)
	for _, was := range old.Spec.Drivers {
		for _, is := range n.Spec.Drivers {
			if is.Name == was.Name {
				is.Allocatable, was.Allocatable = nil, nil
				errs = append(errs, rule.Unchanged(field.NewPath("spec", "drivers"), is, was)...)
			}
		}
	}
	return errs
}

func validateCSIStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	return validateCapacity(c, false)
}

func validateCapacity(c *storagev1.CSIStorageCapacity, tolerant bool) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, rule.LabelSelector(field.NewPath("nodeTopology"), c.NodeTopology, tolerant)...)
	errs = append(errs, rule.DNSSubdomain(field.NewPath("storageClassName"), c.StorageClassName)...)
	if c.Capacity != nil {
		errs = append(errs, podspec.ValidateNonNegativeQuantity(field.NewPath("capacity"), *c.Capacity)...)
	}
	return errs
}

func validateCSIStorageCapacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := validateCapacity(c, len(rule.LabelSelector(nil, old.NodeTopology, false)) > 0)
	errs = append(errs, rule.Unchanged(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)...)
	return append(errs, rule.Unchanged(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)...)
}

func csiStorageCapacityWarnings(c, _ *storagev1.CSIStorageCapacity) []string {
	return podspec.LabelSelectorWarnings(field.NewPath("nodeTopology"), c.NodeTopology)
}
