// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// effectiveSecurity is the container's security context with what it leaves out taken from the pod's.
func effectiveSecurity(pod *v1.Pod, c *v1.Container) *v1.SecurityContext {
	sc := &v1.SecurityContext{}
	if c.SecurityContext != nil {
		sc = c.SecurityContext.DeepCopy()
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return sc
	}
	inherit(&sc.RunAsUser, p.RunAsUser)
	inherit(&sc.RunAsGroup, p.RunAsGroup)
	inherit(&sc.RunAsNonRoot, p.RunAsNonRoot)
	inherit(&sc.SELinuxOptions, p.SELinuxOptions)
	inherit(&sc.SeccompProfile, p.SeccompProfile)
	inherit(&sc.AppArmorProfile, p.AppArmorProfile)
	return sc
}

func inherit[T any](own **T, from *T) {
	if *own == nil {
		*own = from
	}
}

func (r *Runtime) containerSecurity(pod *v1.Pod, c *v1.Container, image *runtimeapi.Image) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effectiveSecurity(pod, c)
	if err := verifyNonRoot(pod, c, sc, image); err != nil {
		return nil, err
	}
	namespaces, err := r.namespaceOptions(pod)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		Privileged:       deref(sc.Privileged),
		ReadonlyRootfs:   deref(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		RunAsUser:        int64Value(sc.RunAsUser),
		RunAsGroup:       int64Value(sc.RunAsGroup),
		Capabilities:     capabilities(sc.Capabilities),
		SelinuxOptions:   selinux(sc.SELinuxOptions),
		NamespaceOptions: namespaces,
	}
	if out.RunAsUser == nil { // the image says
		if out.RunAsUser = image.GetUid(); out.RunAsUser == nil && image.GetUsername() == "" {
			out.RunAsUser = &runtimeapi.Int64Value{}
		}
		out.RunAsUsername = image.GetUsername()
	}
	if sc.ProcMount == nil || *sc.ProcMount != v1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	if out.Seccomp, err = r.seccomp(sc.SeccompProfile); err != nil {
		return nil, err
	}
	if out.Apparmor, err = appArmor(sc.AppArmorProfile); err != nil {
		return nil, err
	}
	if p := pod.Spec.SecurityContext; p != nil {
		out.SupplementalGroups = supplementalGroups(p)
		out.SupplementalGroupsPolicy, err = groupsPolicy(p)
	}
	return out, err
}

func verifyNonRoot(pod *v1.Pod, c *v1.Container, sc *v1.SecurityContext, image *runtimeapi.Image) error {
	if !deref(sc.RunAsNonRoot) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podText(pod), c.Name)
	if sc.RunAsUser != nil {
		if *sc.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	if image.GetUid() == nil && image.GetUsername() != "" {
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.GetUsername(), where)
	}
	uid := image.GetUid().GetValue()
	if uid == 0 {
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	if errs := validation.IsValidUserID(uid); len(errs) > 0 {
		return fmt.Errorf("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): %s %s", uid, math.MaxInt32, strings.Join(errs, "; "), where)
	}
	return nil
}

func (r *Runtime) seccomp(p *v1.SeccompProfile) (*runtimeapi.SecurityProfile, error) {
	switch {
	case p == nil && !r.cfg.SeccompDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case p == nil || p.Type == v1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case p.Type != v1.SeccompProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case deref(p.LocalhostProfile) == "":
		return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost.") //nolint:staticcheck // clients read this sentence
	}
	return &runtimeapi.SecurityProfile{
		ProfileType:  runtimeapi.SecurityProfile_Localhost,
		LocalhostRef: filepath.Join(r.cfg.SeccompRoot, *p.LocalhostProfile),
	}, nil
}

func appArmor(p *v1.AppArmorProfile) (*runtimeapi.SecurityProfile, error) {
	switch {
	case p == nil:
		return nil, nil // the runtime's default
	case p.Type == v1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case p.Type == v1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case p.Type == v1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}, nil
	case p.Type == v1.AppArmorProfileTypeLocalhost:
		return nil, errors.New("missing localhost apparmor profile name")
	}
	return nil, fmt.Errorf("unknown apparmor profile type: %q", p.Type)
}

func capabilities(c *v1.Capabilities) *runtimeapi.Capability {
	if c == nil {
		return nil
	}
	out := &runtimeapi.Capability{}
	for _, name := range c.Add {
		out.AddCapabilities = append(out.AddCapabilities, string(name))
	}
	for _, name := range c.Drop {
		out.DropCapabilities = append(out.DropCapabilities, string(name))
	}
	return out
}

func selinux(o *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func supplementalGroups(sc *v1.PodSecurityContext) []int64 {
	var groups []int64
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return append(groups, sc.SupplementalGroups...)
}

func groupsPolicy(sc *v1.PodSecurityContext) (runtimeapi.SupplementalGroupsPolicy, error) {
	if sc.SupplementalGroupsPolicy == nil {
		return runtimeapi.SupplementalGroupsPolicy_Merge, nil
	}
	policy, ok := runtimeapi.SupplementalGroupsPolicy_value[string(*sc.SupplementalGroupsPolicy)]
	if !ok {
		return 0, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *sc.SupplementalGroupsPolicy)
	}
	return runtimeapi.SupplementalGroupsPolicy(policy), nil
}

// maskedPaths hides what of /proc and /sys tells about, or reaches, other containers and the host.
func maskedPaths() []string {
	paths := []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	throttle, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	if err != nil {
		return paths
	}
	return append(paths, throttle...)
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func int64Value(n *int64) *runtimeapi.Int64Value {
	if n == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *n}
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
