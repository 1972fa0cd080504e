// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// deviceID is a device, or a share of it.
type deviceID struct{ driver, pool, device, share string }

func allocated(s *resourcev1.ResourceClaimStatus) sets.Set[deviceID] {
	out := sets.New[deviceID]()
	if s.Allocation != nil {
		for _, r := range s.Allocation.Devices.Results {
			out.Insert(deviceID{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))})
		}
	}
	return out
}

func idOf(d resourcev1.AllocatedDeviceStatus) deviceID {
	return deviceID{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
}

// prepareClaimStatus forgets the status of devices that the claim has no longer, and takes out what upstream has off
// by default (DRAOptionalNodeOperations).
func prepareClaimStatus(c, old *resourcev1.ResourceClaim) {
	if c.Status.Allocation != nil {
		for i := range c.Status.Allocation.Devices.Results {
			c.Status.Allocation.Devices.Results[i].SkipNodeOperations = nil
		}
	}
	gone := allocated(&old.Status).Difference(allocated(&c.Status))
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool { return gone.Has(idOf(d)) })
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	errs, path, s := rule.ObjectMetaUpdate(&c.ObjectMeta), field.NewPath("status"), &c.Status
	uid := func(r resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID }
	reserved := path.Child("reservedFor")
	errs = append(errs, set(reserved, s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, uid, validateConsumer)...)
	has := allocated(s)
	errs = append(errs, set(path.Child("devices"), s.Devices, -1, idOf, func(path *field.Path, d resourcev1.AllocatedDeviceStatus) field.ErrorList {
		return validateDeviceStatus(path, d, has)
	})...)
	if len(s.ReservedFor) > 0 && s.Allocation == nil {
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	} else if c.DeletionTimestamp != nil {
		added := sets.New(s.ReservedFor...).Difference(sets.New(old.Status.ReservedFor...))
		errs = append(errs, rule.If(len(added) > 0,
			field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))...)
	}
	allocation := path.Child("allocation")
	switch {
	case s.Allocation != nil && old.Status.Allocation != nil:
		errs = append(errs, rule.If(!equality.Semantic.DeepEqual(s.Allocation, old.Status.Allocation), field.Invalid(allocation, nil, "field cannot be modified once set"))...)
	case s.Allocation != nil:
		errs = append(errs, validateAllocation(allocation, s.Allocation, namesOf(&c.Spec.Devices))...)
	}
	return errs
}

func validateConsumer(path *field.Path, r resourcev1.ResourceClaimConsumerReference) field.ErrorList {
	errs := rule.Required(path.Child("resource"), r.Resource)
	errs = append(errs, rule.Required(path.Child("name"), r.Name)...)
	return append(errs, rule.Required(path.Child("uid"), string(r.UID))...)
}

func validateDeviceStatus(path *field.Path, d resourcev1.AllocatedDeviceStatus, has sets.Set[deviceID]) field.ErrorList {
	errs := validateDriver(path.Child("driver"), d.Driver)
	errs = append(errs, validatePool(path.Child("pool"), d.Pool)...)
	errs = append(errs, rule.DNSLabel(path.Child("device"), d.Device)...)
	if d.ShareID != nil {
		errs = append(errs, rule.Declared(path.Child("shareID"), *d.ShareID, validate.UUID)...)
	}
	errs = append(errs, rule.If(!has.Has(idOf(d)), field.Invalid(path, d, "must be an allocated device in the claim"))...)
	conditions, n := path.Child("conditions"), len(d.Conditions)
	errs = append(errs, rule.If(n > resourcev1.AllocatedDeviceStatusMaxConditions, field.TooMany(conditions, n, resourcev1.AllocatedDeviceStatusMaxConditions))...)
	errs = append(errs, metavalidation.ValidateConditions(d.Conditions, conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, validateJSON(path.Child("data"), d.Data.Raw, resourcev1.AllocatedDeviceStatusDataMaxLength)...)
	}
	network := path.Child("networkData")
	if d.NetworkData == nil {
		return errs
	}
	errs = append(errs, rule.If(len(d.NetworkData.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength,
		field.TooLong(network.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))...)
	errs = append(errs, rule.If(len(d.NetworkData.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength,
		field.TooLong(network.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))...)
	return append(errs, set(network.Child("ips"), d.NetworkData.IPs, resourcev1.NetworkDeviceDataMaxIPs, itself[string], validation.IsValidInterfaceAddress)...)
}

func validateAllocation(path *field.Path, a *resourcev1.AllocationResult, names requestNames) field.ErrorList {
	devices := path.Child("devices")
	errs := list(devices.Child("results"), a.Devices.Results, resourcev1.AllocationResultsMaxSize, func(path *field.Path, r resourcev1.DeviceRequestAllocationResult) field.ErrorList {
		return validateResult(path, &r, names)
	})
	errs = append(errs, list(devices.Child("config"), a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, func(path *field.Path, c resourcev1.DeviceAllocationConfiguration) field.ErrorList {
		errs := rule.OneOf(path.Child("source"), c.Source, resourcev1.AllocationConfigSourceClass, resourcev1.AllocationConfigSourceClaim)
		errs = append(errs, names.validate(path.Child("requests"), c.Requests)...)
		return append(errs, validateConfiguration(path, &c.DeviceConfiguration, false)...)
	})...)
	if a.NodeSelector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(path.Child("nodeSelector"), a.NodeSelector, false)...)
	}
	return errs
}

func validateResult(path *field.Path, r *resourcev1.DeviceRequestAllocationResult, names requestNames) field.ErrorList {
	errs := names.validateOne(path.Child("request"), r.Request)
	errs = append(errs, driverTag(path.Child("driver"), r.Driver)...)
	errs = append(errs, rule.RequiredAnd(path.Child("pool"), r.Pool, validate.ResourcePoolName)...)
	errs = append(errs, rule.DNSLabel(path.Child("device"), r.Device)...)
	errs = append(errs, validateBinding(path, r.BindingConditions, r.BindingFailureConditions)...)
	errs = append(errs, list(path.Child("tolerations"), r.Tolerations, -1, validateToleration)...)
	if r.ShareID != nil {
		errs = append(errs, rule.Declared(path.Child("shareID"), *r.ShareID, validate.UUID)...)
	}
	return errs
}

// validateBinding checks conditions of devices by which they are ready for their pod, or will never be.
func validateBinding(path *field.Path, ready, failed []string) field.ErrorList {
	const readyName, failedName = "bindingConditions", "bindingFailureConditions"
	label := func(path *field.Path, name string) field.ErrorList {
		return metavalidation.ValidateLabelName(name, path)
	}
	unique := func(path *field.Path, names []string, most int) field.ErrorList {
		errs := list(path, names, most, label)
		for i, name := range names {
			errs = append(errs, rule.If(slices.Contains(names[:i], name), field.Duplicate(path.Index(i), name))...)
		}
		return errs
	}
	errs := unique(path.Child(readyName), ready, resourcev1.BindingConditionsMaxSize)
	errs = append(errs, unique(path.Child(failedName), failed, resourcev1.BindingFailureConditionsMaxSize)...)
	for i, name := range failed {
		errs = append(errs, rule.If(slices.Contains(ready, name),
			field.Invalid(path.Child(failedName).Index(i), name, "bindingFailureConditions must not overlap with bindingConditions"))...)
	}
	errs = append(errs, rule.If(len(ready) == 0 && len(failed) > 0,
		field.Invalid(path.Child(readyName), ready, "bindingConditions are required to use bindingFailureConditions"))...)
	return append(errs, rule.If(len(failed) == 0 && len(ready) > 0,
		field.Invalid(path.Child(failedName), failed, "bindingFailureConditions are required to use bindingConditions"))...)
}
