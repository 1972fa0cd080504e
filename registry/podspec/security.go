// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Names of sysctls: segments with dots or slashes between them.
const (
	sysctlSegment   = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	sysctlMaxLength = 253
)

var sysctlName = regexp.MustCompile(`^(` + sysctlSegment + `[\./])*` + sysctlSegment + `$`)

// validateSecurityContext checks that of a container. Privileged containers are allowed in every cluster.
func validateSecurityContext(path *field.Path, sc *corev1.SecurityContext, hostUsers bool, o Options) field.ErrorList {
	if sc == nil {
		return nil
	}
	errs := validateUserAndGroup(path, sc.RunAsUser, sc.RunAsGroup)
	if sc.ProcMount != nil {
		errs = append(errs, rule.Supported(path.Child("procMount"), *sc.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if hostUsers && *sc.ProcMount == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(path.Child("procMount"), sc.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(path.Child("seccompProfile"), sc.SeccompProfile)...)
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if isTrue(sc.Privileged) {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if !o.SysAdminWithoutEscalation && addsSysAdmin(sc) {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	errs = append(errs, validateWindowsOptions(path.Child("windowsOptions"), sc.WindowsOptions)...)
	return append(errs, validateAppArmor(path.Child("appArmorProfile"), sc.AppArmorProfile)...)
}

func addsSysAdmin(sc *corev1.SecurityContext) bool {
	return sc.Capabilities != nil && slices.Contains(sc.Capabilities.Add, "CAP_SYS_ADMIN")
}

func validateUserAndGroup(path *field.Path, user, group *int64) field.ErrorList {
	errs := validateUser(path.Child("runAsUser"), user)
	if group != nil {
		errs = append(errs, rule.Invalid(path.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))...)
	}
	return errs
}

// validatePodSecurityContext checks that of the pod as a whole.
func validatePodSecurityContext(path *field.Path, spec *corev1.PodSpec, o Options) field.ErrorList {
	sc := spec.SecurityContext
	if sc == nil {
		return nil
	}
	var errs field.ErrorList
	if sc.FSGroup != nil {
		errs = append(errs, rule.Invalid(path.Child("fsGroup"), *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup))...)
	}
	errs = append(errs, validateUserAndGroup(path, sc.RunAsUser, sc.RunAsGroup)...)
	for i, gid := range sc.SupplementalGroups {
		errs = append(errs, rule.Invalid(path.Child("supplementalGroups").Index(i), gid, validation.IsValidGroupID(gid))...)
	}
	errs = append(errs, validateSysctls(path.Child("sysctls"), spec, o)...)
	errs = append(errs, rule.SupportedIfSet(path.Child("fsGroupChangePolicy"), sc.FSGroupChangePolicy,
		corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	errs = append(errs, validateSeccomp(path.Child("seccompProfile"), sc.SeccompProfile)...)
	errs = append(errs, validateWindowsOptions(path.Child("windowsOptions"), sc.WindowsOptions)...)
	errs = append(errs, validateAppArmor(path.Child("appArmorProfile"), sc.AppArmorProfile)...)
	errs = append(errs, rule.SupportedIfSet(path.Child("supplementalGroupsPolicy"), sc.SupplementalGroupsPolicy,
		corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	return append(errs, rule.SupportedIfSet(path.Child("seLinuxChangePolicy"), sc.SELinuxChangePolicy,
		corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
}

func validateSysctls(path *field.Path, spec *corev1.PodSpec, o Options) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range spec.SecurityContext.Sysctls {
		at := path.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(s.Name) > sysctlMaxLength || !sysctlName.MatchString(s.Name):
			errs = append(errs, field.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlMaxLength, sysctlName)))
		case seen.Has(s.Name):
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		seen.Insert(s.Name)
		if !o.HostSysctls {
			errs = append(errs, validateHostSysctl(at, s.Name, spec)...)
		}
	}
	return errs
}

// validateHostSysctl: a setting of a namespace that the pod shares with the host would change the host.
func validateHostSysctl(path *field.Path, name string, spec *corev1.PodSpec) field.ErrorList {
	switch namespace, _, _ := sysctl.GetNamespace(name); {
	case spec.HostNetwork && namespace == sysctl.NetNamespace:
		return field.ErrorList{field.Invalid(path, name, "may not be specified when 'hostNetwork' is true")}
	case spec.HostIPC && namespace == sysctl.IPCNamespace:
		return field.ErrorList{field.Invalid(path, name, "may not be specified when 'hostIPC' is true")}
	}
	return nil
}

func validateSeccomp(path *field.Path, p *corev1.SeccompProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	if p.Type == "" {
		return append(field.ErrorList{field.Required(path.Child("type"), "type is required when seccompProfile is set")},
			rule.If(p.LocalhostProfile != nil, field.Invalid(path.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))...)
	}
	errs := rule.Supported(path.Child("type"), p.Type,
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	at := path.Child("localhostProfile")
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost:
		return append(errs, rule.If(p.LocalhostProfile != nil, field.Invalid(at, p, "can only be set when seccomp type is Localhost"))...)
	case p.LocalhostProfile == nil:
		return append(errs, field.Required(at, "must be set when seccomp type is Localhost"))
	}
	return append(errs, validateDescendingPath(at, *p.LocalhostProfile)...)
}

func validateAppArmor(path *field.Path, p *corev1.AppArmorProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	at := path.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		return validateAppArmorLocalhost(at, p.LocalhostProfile)
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		return rule.If(p.LocalhostProfile != nil, field.Invalid(at, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
	case "":
		return field.ErrorList{field.Required(path.Child("type"), "type is required when appArmorProfile is set")}
	}
	return rule.Supported(path.Child("type"), p.Type,
		corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
}

func validateAppArmorLocalhost(path *field.Path, profile *string) field.ErrorList {
	const maxLength = 4095 // a path
	var errs field.ErrorList
	switch {
	case profile == nil || *profile == "":
		return field.ErrorList{field.Required(path, "must be set when AppArmor type is Localhost")}
	case strings.TrimSpace(*profile) != *profile:
		errs = append(errs, field.Invalid(path, *profile, "must not be padded with whitespace"))
	}
	return append(errs, rule.If(len(*profile) > maxLength, field.TooLong(path, "", maxLength))...)
}
