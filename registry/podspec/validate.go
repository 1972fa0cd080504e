// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// What the resolver of Linux takes.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchBytes = 2048
)

// ValidatePod checks annotations and spec of a Pod, as they must be on create and after any update.
func ValidatePod(pod *corev1.Pod, o Options) field.ErrorList {
	path := field.NewPath("spec")
	spec := &pod.Spec
	errs := ValidateAnnotations(field.NewPath("metadata", "annotations"), pod.Annotations, spec, o)
	errs = append(errs, ValidateSpec(path, spec, &pod.ObjectMeta, o)...)
	// The rest is for pods only: templates were not held to it once, and some would fail.
	if spec.ServiceAccountName == "" {
		errs = append(errs, forbidTokens(path.Child("volumes"), spec.Volumes)...)
	}
	errs = append(errs, rule.NonNegativeIfSet(path.Child("terminationGracePeriodSeconds"), spec.TerminationGracePeriodSeconds)...)
	for i := range spec.Containers {
		errs = append(errs, validateImageTrimmed(path.Child("containers").Index(i), &spec.Containers[i])...)
	}
	for i := range spec.InitContainers {
		errs = append(errs, validateImageTrimmed(path.Child("initContainers").Index(i), &spec.InitContainers[i])...)
	}
	return errs
}

// forbidTokens: without a service account there is nobody to make a token for.
func forbidTokens(path *field.Path, volumes []corev1.Volume) field.ErrorList {
	var errs field.ErrorList
	for i, v := range volumes {
		if v.Projected == nil {
			continue
		}
		for j, s := range v.Projected.Sources {
			errs = append(errs, rule.If(s.ServiceAccountToken != nil, field.Forbidden(
				path.Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"), "must not be specified when serviceAccountName is not set"))...)
		}
	}
	return errs
}

// ValidateTemplate checks what pods are made from.
func ValidateTemplate(path *field.Path, template *corev1.PodTemplateSpec, o Options) field.ErrorList {
	errs := rule.Labels(path.Child("labels"), template.Labels)
	errs = append(errs, rule.Annotations(path.Child("annotations"), template.Annotations)...)
	errs = append(errs, ValidateAnnotations(path.Child("annotations"), template.Annotations, &template.Spec, o)...)
	errs = append(errs, ValidateSpec(path.Child("spec"), &template.Spec, nil, o)...)
	errs = append(errs, ValidateProfiles(path.Child("spec"), &template.ObjectMeta, &template.Spec)...)
	return append(errs, rule.If(len(template.Spec.EphemeralContainers) > 0,
		field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))...)
}

// ValidateSpec checks a pod spec. meta is that of the Pod, or nil for a template.
func ValidateSpec(path *field.Path, spec *corev1.PodSpec, meta *metav1.ObjectMeta, o Options) field.ErrorList {
	var errs field.ErrorList
	add := func(more field.ErrorList) { errs = append(errs, more...) }

	add(rule.If(spec.TerminationGracePeriodSeconds == nil, field.Required(path.Child("terminationGracePeriodSeconds"), "")))
	volumes, wrong := validateVolumes(path.Child("volumes"), spec.Volumes, meta, o)
	add(wrong)
	claims := sets.New[string]()
	for _, c := range spec.ResourceClaims {
		claims.Insert(c.Name)
	}
	claims.Delete("")
	add(validateResourceClaims(path.Child("resourceClaims"), spec.ResourceClaims, meta))

	s := surroundings{spec: spec, volumes: volumes, claims: claims, options: o}
	add(s.validateContainers(path.Child("containers")))
	add(s.validateInitContainers(path.Child("initContainers")))
	add(s.validateEphemeralContainers(path.Child("ephemeralContainers")))
	add(validatePodResources(path, spec, claims, o))

	add(validateHostNetwork(path.Child("containers"), spec, o))
	add(rule.OneOf(path.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	add(rule.OneOf(path.Child("dnsPolicy"), spec.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone))
	add(rule.Labels(path.Child("nodeSelector"), spec.NodeSelector))
	add(validatePodSecurityContext(path.Child("securityContext"), spec, o))
	add(rule.If(isTrue(spec.ShareProcessNamespace) && spec.HostPID, field.Invalid(path.Child("shareProcessNamespace"), true,
		"ShareProcessNamespace and HostPID cannot both be enabled")))
	add(validateAffinity(path.Child("affinity"), spec.Affinity, o))
	add(validateDNS(path.Child("dnsConfig"), spec))
	for i, gate := range spec.ReadinessGates {
		add(rule.QualifiedName(path.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType)))
	}
	add(validateSchedulingGates(path.Child("schedulingGates"), spec.SchedulingGates))
	add(validateSpread(path.Child("topologySpreadConstraints"), spec.TopologySpreadConstraints, o))
	add(validateHostProcess(path, spec))
	add(validateUserNamespace(path, spec, o))
	add(validateHostname(path, spec))
	add(validateReferences(path, spec))
	if n := spec.ActiveDeadlineSeconds; n != nil {
		add(rule.Range(path.Child("activeDeadlineSeconds"), *n, 1, math.MaxInt32))
	}
	add(ValidateTolerations(path.Child("tolerations"), spec.Tolerations, o))
	add(validateHostAliases(path.Child("hostAliases"), spec.HostAliases))
	if spec.PreemptionPolicy != nil {
		add(rule.OneOf(path.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever))
	}
	if spec.Overhead != nil {
		add(ValidateOverhead(path.Child("overhead"), spec.Overhead, o))
	}
	add(validateOS(path, spec))
	add(validateSchedulingGroup(path.Child("schedulingGroup"), spec.SchedulingGroup))
	add(rule.If(spec.SchedulingGroup != nil && len(spec.EvictionResponders) > 0,
		field.Forbidden(path.Child("schedulingGroup"), "may not be set when evictionResponders is set")))
	add(validateFileKeyVolumes(path, spec))
	return errs
}

// ValidateOverhead checks what a pod costs beyond its containers. Errors are those of limits.
func ValidateOverhead(path *field.Path, overhead corev1.ResourceList, o Options) field.ErrorList {
	return ValidateContainerResources(path, &corev1.ResourceRequirements{Limits: overhead}, nil, o)
}

// validateReferences checks names of other objects.
func validateReferences(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	check := func(name, value string) {
		if value != "" {
			errs = append(errs, rule.Name(path.Child(name), value, apivalidation.NameIsDNSSubdomain)...)
		}
	}
	check("serviceAccountName", spec.ServiceAccountName)
	if spec.DeprecatedServiceAccount != spec.ServiceAccountName {
		errs = append(errs, field.Invalid(path.Child("deprecatedServiceAccount"), spec.DeprecatedServiceAccount,
			fmt.Sprintf("must be the same as serviceAccountName: %q", spec.ServiceAccountName)))
	}
	check("nodeName", spec.NodeName)
	check("priorityClassName", spec.PriorityClassName)
	if spec.RuntimeClassName != nil {
		errs = append(errs, rule.Name(path.Child("runtimeClassName"), *spec.RuntimeClassName, apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

func validateResourceClaims(path *field.Path, claims []corev1.PodResourceClaim, meta *metav1.ObjectMeta) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, c := range claims {
		if meta != nil {
			if _, mirror := meta.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
				errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
				continue
			}
		}
		at := path.Index(i)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case names.Has(c.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		default:
			errs = append(errs, rule.DNSLabel(at.Child("name"), c.Name)...)
			names.Insert(c.Name)
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if name := c.ResourceClaimName; name != nil {
			errs = append(errs, rule.Name(at.Child("resourceClaimName"), *name, apivalidation.NameIsDNSSubdomain)...)
		}
		if name := c.ResourceClaimTemplateName; name != nil {
			errs = append(errs, rule.Name(at.Child("resourceClaimTemplateName"), *name, apivalidation.NameIsDNSSubdomain)...)
		}
	}
	return errs
}

func validateSchedulingGroup(path *field.Path, group *corev1.PodSchedulingGroup) field.ErrorList {
	switch {
	case group == nil:
		return nil
	case group.PodGroupName == nil:
		return field.ErrorList{field.Invalid(path.Child("podGroupName"), group.PodGroupName, "must specify one of: `podGroupName`")}
	}
	return rule.Name(path.Child("podGroupName"), *group.PodGroupName, apivalidation.NameIsDNSSubdomain)
}

// validateHostNetwork: on the host's network a container's port is the host's. Templates may leave the
// host's out, since pods made from them get it by default.
func validateHostNetwork(path *field.Path, spec *corev1.PodSpec, o Options) field.ErrorList {
	if !spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i, c := range spec.Containers {
		for j, p := range c.Ports {
			if p.HostPort != p.ContainerPort && (o.Pod || p.HostPort != 0) {
				errs = append(errs, field.Invalid(path.Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
					"must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// validateUserNamespace: a pod with users of its own cannot be in namespaces where the host's users are.
func validateUserNamespace(path *field.Path, spec *corev1.PodSpec, o Options) field.ErrorList {
	const forbidden = "when `hostUsers` is false"
	if !inUserNamespace(spec) {
		return nil
	}
	errs := rule.If(spec.HostNetwork && !o.UserNamespaceHostNetwork, field.Forbidden(path.Child("hostNetwork"), forbidden))
	errs = append(errs, rule.If(spec.HostPID, field.Forbidden(path.Child("HostPID"), forbidden))...)
	errs = append(errs, rule.If(spec.HostIPC, field.Forbidden(path.Child("HostIPC"), forbidden))...)
	for c, at := range Containers(spec, path) {
		errs = append(errs, rule.If(len(c.VolumeDevices) > 0 && !o.UserNamespaceDevices, field.Forbidden(at.Child("volumeDevices"), forbidden))...)
	}
	return errs
}

func validateHostname(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	if name, at := spec.HostnameOverride, path.Child("hostnameOverride"); name != nil {
		errs = append(errs, rule.If(isTrue(spec.SetHostnameAsFQDN), field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))...)
		errs = append(errs, rule.If(spec.HostNetwork, field.Forbidden(at, "may not be specified when hostNetwork is true"))...)
		errs = append(errs, rule.If(len(*name) > 64, field.TooLong(at, "", 64))...)
		errs = append(errs, rule.DNSSubdomain(at, *name)...)
	}
	if spec.Hostname != "" {
		errs = append(errs, rule.DNSLabel(path.Child("hostname"), spec.Hostname)...)
	}
	if spec.Subdomain != "" {
		errs = append(errs, rule.DNSLabel(path.Child("subdomain"), spec.Subdomain)...)
	}
	return errs
}

func validateDNS(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	dns, servers, searches := spec.DNSConfig, path.Child("nameservers"), path.Child("searches")
	if spec.DNSPolicy == corev1.DNSNone {
		switch {
		case dns == nil:
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		case len(dns.Nameservers) == 0:
			return field.ErrorList{field.Required(servers, fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
		}
	}
	if dns == nil {
		return nil
	}
	errs := rule.If(len(dns.Nameservers) > maxNameservers, field.Invalid(servers, dns.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	for i, ip := range dns.Nameservers {
		errs = append(errs, rule.IP(servers.Index(i), ip)...)
	}
	errs = append(errs, rule.If(len(dns.Searches) > maxSearches,
		field.Invalid(searches, dns.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))...)
	errs = append(errs, rule.If(len(strings.Join(dns.Searches, " ")) > maxSearchBytes,
		field.Invalid(searches, dns.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchBytes)))...)
	for i, search := range dns.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			errs = append(errs, rule.Invalid(searches.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))...)
		}
	}
	for i, option := range dns.Options {
		errs = append(errs, rule.If(option.Name == "", field.Required(path.Child("options").Index(i), "must not be empty"))...)
	}
	return errs
}

func validateHostAliases(path *field.Path, aliases []corev1.HostAlias) field.ErrorList {
	var errs field.ErrorList
	for i, a := range aliases {
		errs = append(errs, rule.IP(path.Index(i).Child("ip"), a.IP)...)
		for j, name := range a.Hostnames {
			errs = append(errs, rule.DNSSubdomain(path.Index(i).Child("hostnames").Index(j), name)...)
		}
	}
	return errs
}

func hasInvalidSelector(s *metav1.LabelSelector) bool {
	return len(rule.LabelSelector(nil, s, false)) > 0
}
