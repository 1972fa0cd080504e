// SPDX-License-Identifier: Apache-2.0

package core

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"

	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// preparePodStatusUpdate keeps the spec, and parts of the status that older kubelets do not know.
func preparePodStatusUpdate(pod, old *corev1.Pod) {
	pod.Spec = old.Spec
	pod.DeletionTimestamp = nil
	pod.OwnerReferences = old.OwnerReferences // a kubelet must not take a pod from its controller
	is, was := &pod.Status, &old.Status
	if is.QOSClass == "" {
		is.QOSClass = was.QOSClass
	}
	if is.ResourceClaimStatuses == nil {
		is.ResourceClaimStatuses = was.ResourceClaimStatuses
	}
	if is.ExtendedResourceClaimStatus == nil {
		is.ExtendedResourceClaimStatus = was.ExtendedResourceClaimStatus
	}
	if is.NodeAllocatableResourceClaimStatuses == nil {
		is.NodeAllocatableResourceClaimStatuses = was.NodeAllocatableResourceClaimStatuses
	}
	if is.ObservedGeneration == 0 {
		is.ObservedGeneration = was.ObservedGeneration
	}
	keepObservedGenerations(is.Conditions, was.Conditions)
	podspec.DropDisabledPod(pod, old)
}

// keepObservedGenerations fills in what old clients do not know. The first condition of a type is the first that
// there was, and so on: nothing keeps a pod from having several of one type.
func keepObservedGenerations(conditions, old []corev1.PodCondition) {
	before := map[corev1.PodConditionType][]int64{}
	for _, c := range old {
		before[c.Type] = append(before[c.Type], c.ObservedGeneration)
	}
	for i := range conditions {
		c := &conditions[i]
		if left := before[c.Type]; len(left) > 0 {
			c.ObservedGeneration = cmp.Or(c.ObservedGeneration, left[0])
			before[c.Type] = left[1:]
		}
	}
}

// validatePodStatusUpdate checks what a kubelet or controller reports about a Pod.
func validatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	is, was := &pod.Status, &old.Status
	errs := rule.ObjectMetaUpdate(&pod.ObjectMeta)
	errs = append(errs, validatePodAnnotationsUpdate(pod, old, podspec.OptionsForPod(old))...)
	for i, c := range is.Conditions {
		at := path.Child("conditions").Index(i)
		errs = append(errs, notNegative(at.Child("observedGeneration"), c.ObservedGeneration)...)
		if !systemPodConditions.Has(c.Type) {
			errs = append(errs, rule.QualifiedName(at.Child("Type"), string(c.Type))...)
		}
	}
	if pod.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "may not be changed directly"))
	}
	if is.NominatedNodeName != was.NominatedNodeName && is.NominatedNodeName != "" {
		errs = append(errs, rule.Name(path.Child("nominatedNodeName"), is.NominatedNodeName, apivalidation.NameIsDNSSubdomain)...)
		errs = append(errs, rule.If(old.Spec.NodeName != "",
			field.Forbidden(path.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))...)
	}
	errs = append(errs, notNegative(path.Child("observedGeneration"), is.ObservedGeneration)...)
	errs = append(errs, rule.Unchanged(path.Child("qosClass"), is.QOSClass, was.QOSClass)...)

	spec := &old.Spec
	errs = append(errs, validateStates(path.Child("containerStatuses"), is.ContainerStatuses, was.ContainerStatuses, spec, spec.Containers)...)
	errs = append(errs, validateStates(path.Child("initContainerStatuses"), is.InitContainerStatuses, was.InitContainerStatuses, spec, spec.InitContainers)...)
	errs = append(errs, validateStates(path.Child("ephemeralContainerStatuses"), is.EphemeralContainerStatuses, was.EphemeralContainerStatuses, nil, nil)...)
	errs = append(errs, validateClaimStatuses(path, pod)...)
	errs = append(errs, validateVolumeHealth(path.Child("volumeHealth"), pod)...)
	errs = append(errs, validatePodIPs(path, is, was)...)
	errs = append(errs, validateHostIPs(path, is, was)...)
	for _, list := range []struct {
		name     string
		statuses []corev1.ContainerStatus
	}{
		{"containerStatuses", is.ContainerStatuses},
		{"initContainerStatuses", is.InitContainerStatuses},
		{"ephemeralContainerStatuses", is.EphemeralContainerStatuses},
	} {
		errs = append(errs, validateStatusUsers(path.Child(list.name), list.statuses, pod.Spec.OS)...)
	}
	errs = append(errs, validateDevices(path.Child("containerStatuses"), is.ContainerStatuses, pod.Spec.Containers, is)...)
	errs = append(errs, validateDevices(path.Child("initContainerStatuses"), is.InitContainerStatuses, pod.Spec.InitContainers, is)...)
	for i, s := range is.EphemeralContainerStatuses {
		errs = append(errs, rule.If(len(s.AllocatedResourcesStatus) > 0, field.Forbidden(
			path.Child("ephemeralContainerStatuses").Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status"))...)
	}
	return errs
}

func notNegative(path *field.Path, n int64) field.ErrorList {
	return rule.If(n < 0, field.Invalid(path, n, "must be a non-negative integer"))
}

// podStatusWarnings warns of addresses that are not written as usual.
func podStatusWarnings(pod, _ *corev1.Pod) []string {
	var list []string
	for i, ip := range pod.Status.PodIPs {
		list = append(list, validation.GetWarningsForIP(field.NewPath("status", "podIPs").Index(i).Child("ip"), ip.IP)...)
	}
	for i, ip := range pod.Status.HostIPs {
		list = append(list, validation.GetWarningsForIP(field.NewPath("status", "hostIPs").Index(i).Child("ip"), ip.IP)...)
	}
	return list
}

// validateStates: a container that ended for good does not run again. Ephemeral containers, for which
// there is no spec, always end for good.
func validateStates(path *field.Path, is, was []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if spec != nil && podspec.AllCouldRestart(spec) {
		return nil
	}
	for i, old := range was {
		ended := old.State.Terminated
		if ended == nil {
			continue
		}
		j := slices.IndexFunc(is, func(s corev1.ContainerStatus) bool { return s.Name == old.Name && s.State.Terminated == nil })
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == old.Name })
		if j >= 0 && (c < 0 || !podspec.ShouldRestart(&containers[c], spec, ended.ExitCode)) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

func validateClaimStatuses(path *field.Path, pod *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	names, claims := sets.New[string](), sets.New[string]()
	for i, s := range pod.Status.ResourceClaimStatuses {
		at := path.Child("resourceClaimStatuses").Index(i)
		known := slices.ContainsFunc(pod.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name })
		errs = append(errs, rule.If(!known, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))...)
		errs = append(errs, rule.If(names.Has(s.Name), field.Duplicate(at.Child("name"), s.Name))...)
		names.Insert(s.Name)
		if s.ResourceClaimName != nil {
			errs = append(errs, rule.Name(at.Child("resourceClaimName"), *s.ResourceClaimName, apivalidation.NameIsDNSSubdomain)...)
			claims.Insert(*s.ResourceClaimName)
		}
	}
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			claims.Insert(*c.ResourceClaimName)
		}
	}
	for i, s := range pod.Status.NodeAllocatableResourceClaimStatuses {
		at := path.Child("nodeAllocatableResourceClaimStatuses").Index(i)
		errs = append(errs, validateNodeAllocatableClaim(at, &s, claims)...)
	}
	return append(errs, validateExtendedResourceClaim(path.Child("extendedResourceClaimStatus"), pod)...)
}

func validateNodeAllocatableClaim(path *field.Path, s *corev1.NodeAllocatableResourceClaimStatus, claims sets.Set[string]) field.ErrorList {
	if s.ResourceClaimName == "" {
		return nil
	}
	errs := rule.If(!claims.Has(s.ResourceClaimName), field.Invalid(path.Child("resourceClaimName"), s.ResourceClaimName, "no mapping found in pod reference"))
	checkName := func(path *field.Path, name corev1.ResourceName) {
		ok := name == corev1.ResourceCPU || name == corev1.ResourceMemory || podspec.IsHugePages(name)
		errs = append(errs, rule.If(!ok, field.Invalid(path.Child("name"), name, "must be a node allocatable resource name"))...)
	}
	for i, m := range s.Mapping {
		at := path.Child("mapping").Index(i)
		checkName(at, m.Name)
		if m.Quantity != nil && m.Quantity.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("quantity"), m.Quantity.String(), "must be non-negative"))
		}
	}
	for i, m := range s.Overhead {
		at := path.Child("overhead").Index(i)
		checkName(at, m.Name)
		errs = append(errs, rule.If(m.PerPod == nil && m.PerContainer == nil, field.Invalid(at, "", "at least one of perPod or perContainer must be set"))...)
		if m.PerPod != nil && m.PerPod.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("perPod"), m.PerPod.String(), "must be non-negative"))
		}
		if m.PerContainer != nil && m.PerContainer.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("perContainer"), m.PerContainer.String(), "must be non-negative"))
		}
	}
	return errs
}

// validateExtendedResourceClaim checks the claim that was made for devices which containers request by name.
func validateExtendedResourceClaim(path *field.Path, pod *corev1.Pod) field.ErrorList {
	status := pod.Status.ExtendedResourceClaimStatus
	if status == nil {
		return nil
	}
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	mappings := path.Child("requestMappings")
	errs := rule.If(len(status.RequestMappings) == 0, field.Required(mappings, "at least one request mapping is required"))
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range status.RequestMappings {
		at := mappings.Index(i)
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == m.ContainerName })
		if c < 0 {
			errs = append(errs, field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := containers[c].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(at.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, rule.DNSLabel(path.Child("requestName"), m.RequestName)...)
		if seen.Has(m) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), m.ContainerName),
				field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
	}
	if status.ResourceClaimName == "" {
		return append(errs, field.Required(path.Child("resourceClaimName"), ""))
	}
	return append(errs, rule.Name(path.Child("resourceClaimName"), status.ResourceClaimName, apivalidation.NameIsDNSSubdomain)...)
}

func validateVolumeHealth(path *field.Path, pod *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	for i, h := range pod.Status.VolumeHealth {
		at := path.Index(i)
		known := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == h.Name })
		errs = append(errs, rule.If(h.Name != "" && !known, field.NotFound(at.Child("name"), h.Name))...)
		errs = append(errs, validateHealthConditions(at.Child("healthConditions"), h.HealthConditions)...)
	}
	return errs
}

func validateHealthConditions(path *field.Path, conditions []corev1.VolumeHealthCondition) field.ErrorList {
	var errs field.ErrorList
	for i, c := range conditions {
		if c.Reason != "" {
			errs = append(errs, rule.Invalid(path.Index(i).Child("reason"), c.Reason, metavalidation.IsValidConditionReason(c.Reason))...)
		}
	}
	return errs
}

func validatePodIPs(path *field.Path, is, was *corev1.PodStatus) field.ErrorList {
	ips, old := make([]string, 0, len(is.PodIPs)), make([]string, 0, len(was.PodIPs))
	for _, ip := range is.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range was.PodIPs {
		old = append(old, ip.IP)
	}
	path = path.Child("podIPs")
	errs := validateIPPair(path, ips, old, is.PodIPs)
	switch {
	case (is.PodIP != "") != (len(ips) > 0):
		errs = append(errs, field.Invalid(path, is.PodIPs, "podIP and podIPs must either both be set or both be unset"))
	case len(ips) > 0 && is.PodIP != ips[0]:
		errs = append(errs, field.Invalid(path.Index(0).Child("ip"), ips[0], "must be equal to `podIP`"))
	}
	return errs
}

func validateHostIPs(path *field.Path, is, was *corev1.PodStatus) field.ErrorList {
	if len(is.HostIPs) == 0 {
		return nil
	}
	ips, old := make([]string, 0, len(is.HostIPs)), make([]string, 0, len(was.HostIPs))
	for _, ip := range is.HostIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range was.HostIPs {
		old = append(old, ip.IP)
	}
	path = path.Child("hostIPs")
	errs := rule.If(is.HostIP != ips[0], field.Invalid(path.Index(0).Child("ip"), ips[0], "must be equal to `hostIP`"))
	return append(errs, validateIPPair(path, ips, old, is.HostIPs)...)
}

// validateIPPair: one address, or one of each family.
func validateIPPair(path *field.Path, ips, old []string, value any) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, rule.IP(path.Index(i), ip, old...)...)
	}
	if len(ips) < 2 {
		return errs
	}
	both, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%v", err)))
	}
	return append(errs, rule.If(!both || len(ips) > 2, field.Invalid(path, value, "may specify no more than one IP for each IP family"))...)
}

func validateStatusUsers(path *field.Path, statuses []corev1.ContainerStatus, os *corev1.PodOS) field.ErrorList {
	var errs field.ErrorList
	for i, s := range statuses {
		if s.User == nil || s.User.Linux == nil {
			continue
		}
		at, user := path.Index(i).Child("user", "linux"), s.User.Linux
		if os != nil && os.Name == corev1.Windows {
			errs = append(errs, field.Forbidden(at, "cannot be set for a windows pod"))
			continue
		}
		errs = append(errs, rule.If(user.UID < 0 || user.UID > math.MaxUint32,
			field.Invalid(at.Child("uid"), user.UID, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32))))...)
		errs = append(errs, rule.Invalid(at.Child("gid"), user.GID, validation.IsValidGroupID(user.GID))...)
		for j, gid := range user.SupplementalGroups {
			errs = append(errs, rule.Invalid(at.Child("supplementalGroups").Index(j), gid, validation.IsValidGroupID(gid))...)
		}
	}
	return errs
}

// validateDevices checks the health that is reported of devices: they are what the container asked for.
func validateDevices(path *field.Path, statuses []corev1.ContainerStatus, containers []corev1.Container, status *corev1.PodStatus) field.ErrorList {
	var errs field.ErrorList
	for i, s := range statuses {
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
		for j, r := range s.AllocatedResourcesStatus {
			at := path.Index(i).Child("allocatedResourcesStatus").Index(j)
			if c >= 0 {
				errs = append(errs, validateDeviceName(at.Child("name"), r.Name, &containers[c], status)...)
			}
			errs = append(errs, validateDeviceHealth(at.Child("resources"), r.Resources)...)
		}
	}
	return errs
}

func validateDeviceName(path *field.Path, name corev1.ResourceName, c *corev1.Container, status *corev1.PodStatus) field.ErrorList {
	claim, ok := strings.CutPrefix(string(name), "claim:")
	if !ok {
		_, requested := c.Resources.Requests[name]
		return rule.If(!requested, field.Invalid(path, name, "must match one of the container's resource requests"))
	}
	of, request, _ := strings.Cut(claim, "/")
	named := slices.ContainsFunc(c.Resources.Claims, func(r corev1.ResourceClaim) bool { return r.Name == of && r.Request == request })
	extended := status.ExtendedResourceClaimStatus
	mapped := extended != nil && request != "" && extended.ResourceClaimName == of &&
		slices.ContainsFunc(extended.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
			q, ok := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]
			return m.ContainerName == c.Name && m.RequestName == request && ok && !q.IsZero()
		})
	return rule.If(!named && !mapped, field.Invalid(path, name, "must match one of the container's resource claims as "+
		"'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"))
}

func validateDeviceHealth(path *field.Path, devices []corev1.ResourceHealth) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceID]()
	for i, d := range devices {
		at := path.Index(i)
		errs = append(errs, rule.Supported(at.Child("health"), d.Health,
			corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
		switch {
		case d.Message == nil:
		case *d.Message == "":
			errs = append(errs, field.Required(at.Child("message"), "must be non-empty if specified"))
		case len(*d.Message) > corev1.ResourceHealthMessageMaxLength:
			errs = append(errs, field.TooLong(at.Child("message"), *d.Message, corev1.ResourceHealthMessageMaxLength))
		}
		errs = append(errs, rule.If(seen.Has(d.ResourceID), field.Duplicate(at.Child("resourceID"), d.ResourceID))...)
		seen.Insert(d.ResourceID)
	}
	return errs
}
