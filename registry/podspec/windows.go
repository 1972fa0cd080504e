// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxGMSASpecKiB       = 64
	maxWindowsDomain     = 256
	maxWindowsUserLength = 104
)

// Names of users and domains on Windows.
var (
	controlCharacters = regexp.MustCompile(`[[:cntrl:]]+`)
	netBiosDomain     = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomain         = regexp.MustCompile(`^` + dnsDomainLabel + `(?:\.` + dnsDomainLabel + `)*$`)
	notInUserName     = regexp.MustCompile(`["/\\:;|=,\+\*\?<>@\[\]]`)
	dotsAndSpaces     = regexp.MustCompile(`^[\. ]+$`)
)

const dnsDomainLabel = `[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?`

func isWindows(spec *corev1.PodSpec) bool { return spec.OS != nil && spec.OS.Name == corev1.Windows }

// validateOS checks the name of the operating system, and that the pod uses nothing of another one.
func validateOS(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	if spec.OS == nil {
		return nil
	}
	switch spec.OS.Name {
	case corev1.Linux:
		return validateLinux(path, spec)
	case corev1.Windows:
		return validateWindows(path, spec)
	case "":
		return field.ErrorList{field.Required(path.Child("os", "name"), "")}
	}
	return field.ErrorList{field.NotSupported(path.Child("os"), spec.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows})}
}

func validateLinux(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	const forbidden = "windows options cannot be set for a linux pod"
	var errs field.ErrorList
	if sc := spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), forbidden))
	}
	for c, at := range Containers(spec, path) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(at.Child("securityContext", "windowsOptions"), forbidden))
		}
	}
	return errs
}

func validateWindows(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	forbid := func(set bool, path *field.Path, name string) {
		errs = append(errs, rule.If(set, field.Forbidden(path.Child(name), "cannot be set for a windows pod"))...)
	}
	if sc, at := spec.SecurityContext, path.Child("securityContext"); sc != nil {
		forbid(sc.AppArmorProfile != nil, at, "appArmorProfile")
		forbid(sc.SELinuxOptions != nil, at, "seLinuxOptions")
		forbid(sc.SeccompProfile != nil, at, "seccompProfile")
		forbid(sc.FSGroup != nil, at, "fsGroup")
		forbid(sc.FSGroupChangePolicy != nil, at, "fsGroupChangePolicy")
		forbid(len(sc.Sysctls) > 0, at, "sysctls")
		forbid(sc.RunAsUser != nil, at, "runAsUser")
		forbid(sc.RunAsGroup != nil, at, "runAsGroup")
		forbid(sc.SupplementalGroups != nil, at, "supplementalGroups")
		forbid(sc.SupplementalGroupsPolicy != nil, at, "supplementalGroupsPolicy")
		forbid(sc.SELinuxChangePolicy != nil, at, "seLinuxChangePolicy")
	}
	forbid(spec.HostUsers != nil, path, "hostUsers")
	forbid(spec.HostPID, path, "hostPID")
	forbid(spec.HostIPC, path, "hostIPC")
	forbid(spec.ShareProcessNamespace != nil, path, "shareProcessNamespace")
	for c, at := range Containers(spec, path) {
		sc, at := c.SecurityContext, at.Child("securityContext")
		if sc == nil {
			continue
		}
		forbid(sc.AppArmorProfile != nil, at, "appArmorProfile")
		forbid(sc.SELinuxOptions != nil, at, "seLinuxOptions")
		forbid(sc.SeccompProfile != nil, at, "seccompProfile")
		forbid(sc.Capabilities != nil, at, "capabilities")
		forbid(sc.ReadOnlyRootFilesystem != nil, at, "readOnlyRootFilesystem")
		forbid(sc.Privileged != nil, at, "privileged")
		forbid(sc.AllowPrivilegeEscalation != nil, at, "allowPrivilegeEscalation")
		forbid(sc.ProcMount != nil, at, "procMount")
		forbid(sc.RunAsUser != nil, at, "runAsUser")
		forbid(sc.RunAsGroup != nil, at, "runAsGroup")
	}
	return errs
}

func validateWindowsOptions(path *field.Path, w *corev1.WindowsSecurityContextOptions) field.ErrorList {
	if w == nil {
		return nil
	}
	var errs field.ErrorList
	if name := w.GMSACredentialSpecName; name != nil {
		errs = append(errs, rule.Invalid(path.Child("gmsaCredentialSpecName"), name, validation.IsDNS1123Subdomain(*name))...)
	}
	if spec, at := w.GMSACredentialSpec, path.Child("gmsaCredentialSpec"); spec != nil {
		switch {
		case *spec == "":
			errs = append(errs, field.Invalid(at, spec, "gmsaCredentialSpec cannot be an empty string"))
		case len(*spec) > maxGMSASpecKiB*1024:
			errs = append(errs, field.Invalid(at, spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxGMSASpecKiB)))
		}
	}
	if w.RunAsUserName != nil {
		errs = append(errs, rule.Invalid(path.Child("runAsUserName"), w.RunAsUserName, windowsUserErrors(*w.RunAsUserName))...)
	}
	return errs
}

// windowsUserErrors says what is wrong with a user of the form DOMAIN\USER or USER.
func windowsUserErrors(name string) []string {
	domain, user, hasDomain := strings.Cut(name, `\`)
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case controlCharacters.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case strings.Contains(user, `\`):
		return []string{"runAsUserName cannot contain more than one backslash"}
	case !hasDomain:
		domain, user = "", name
	}
	var msgs []string
	if len(domain) >= maxWindowsDomain {
		msgs = append(msgs, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxWindowsDomain))
	}
	if hasDomain && !netBiosDomain.MatchString(domain) && !dnsDomain.MatchString(domain) {
		msgs = append(msgs, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	switch {
	case user == "":
		msgs = append(msgs, "runAsUserName's User cannot be empty")
	case len(user) > maxWindowsUserLength:
		msgs = append(msgs, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxWindowsUserLength))
	}
	if dotsAndSpaces.MatchString(user) {
		msgs = append(msgs, "runAsUserName's User cannot contain only periods or spaces")
	}
	if notInUserName.MatchString(user) {
		msgs = append(msgs, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return msgs
}

// validateHostProcess: either all containers are processes of the host, in its network, or none is.
func validateHostProcess(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	var ofPod *bool
	if sc := spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		ofPod = sc.WindowsOptions.HostProcess
	}
	all, host := 0, 0
	for c, at := range Containers(spec, path) {
		own := ofPod
		if sc := c.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			own = sc.WindowsOptions.HostProcess
			if ofPod != nil && *ofPod != *own {
				errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *ofPod)))
			}
		}
		all++
		if isTrue(own) {
			host++
		}
	}
	if host == 0 {
		return errs
	}
	errs = append(errs, rule.If(host != all, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))...)
	return append(errs, rule.If(!spec.HostNetwork, field.Invalid(path.Child("hostNetwork"), spec.HostNetwork,
		"hostNetwork must be true if pod contains any hostProcess containers"))...)
}
