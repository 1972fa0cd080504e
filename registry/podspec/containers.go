// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const rulesNeedPolicy = "must specify restartPolicy when restart rules are used"

// surroundings is what a container is checked against: the rest of its pod.
type surroundings struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.VolumeSource // the valid ones
	claims  sets.Set[string]                // names of resource claims
	options Options
}

func (s surroundings) hostUsers() bool { return s.spec.HostUsers == nil || *s.spec.HostUsers }

func (s surroundings) validateContainers(path *field.Path) field.ErrorList {
	containers := s.spec.Containers
	if len(containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names, ports := sets.New[string](), sets.New[string]()
	for i := range containers {
		c, at := &containers[i], path.Index(i)
		errs = append(errs, s.validateContainer(at, c)...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, validateLifecycle(at.Child("lifecycle"), c.Lifecycle, s.spec.TerminationGracePeriodSeconds, s.spec.OS)...)
		errs = append(errs, validateProbes(at, c, s.spec.TerminationGracePeriodSeconds)...)
		errs = append(errs, validateRestart(at, c)...)
	}
	for i := range containers {
		errs = append(errs, validateHostPorts(path.Index(i).Child("ports"), containers[i].Ports, ports)...)
	}
	return errs
}

func (s surroundings) validateInitContainers(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for _, c := range s.spec.Containers {
		names.Insert(c.Name)
	}
	for i := range s.spec.InitContainers {
		c, at := &s.spec.InitContainers[i], path.Index(i)
		errs = append(errs, s.validateContainer(at, c)...)
		if c.RestartPolicy != nil || len(c.RestartPolicyRules) == 0 {
			errs = append(errs, validateRestart(at, c)...)
		} else {
			errs = append(errs, field.Required(at.Child("restartPolicy"), rulesNeedPolicy))
		}
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		if c.Name != "" {
			names.Insert(c.Name)
		}
		// They run one after the other, so ports collide only within one. The index is upstream's.
		errs = append(errs, validateHostPorts(path.Index(0).Child("ports"), c.Ports, sets.New[string]())...)
		if Sidecar(c) {
			errs = append(errs, validateLifecycle(at.Child("lifecycle"), c.Lifecycle, s.spec.TerminationGracePeriodSeconds, s.spec.OS)...)
			errs = append(errs, validateProbes(at, c, s.spec.TerminationGracePeriodSeconds)...)
			continue
		}
		errs = append(errs, validateEndingContainer(at, c, s.options)...)
	}
	return errs
}

// validateEndingContainer checks an init container that has to end before the next one starts.
func validateEndingContainer(path *field.Path, c *corev1.Container, o Options) field.ErrorList {
	const forbidden = "may not be set for init containers without restartPolicy=Always"
	errs := rule.If(c.Lifecycle != nil, field.Forbidden(path.Child("lifecycle"), forbidden))
	errs = append(errs, rule.If(c.LivenessProbe != nil, field.Forbidden(path.Child("livenessProbe"), forbidden))...)
	errs = append(errs, rule.If(c.ReadinessProbe != nil, field.Forbidden(path.Child("readinessProbe"), forbidden))...)
	errs = append(errs, rule.If(c.StartupProbe != nil, field.Forbidden(path.Child("startupProbe"), forbidden))...)
	for i, p := range c.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer && !o.InitResizeRestart {
			errs = append(errs, field.Invalid(path.Child("resizePolicy").Index(i).Child("restartPolicy"), p.RestartPolicy,
				"must not be set to 'RestartContainer' for non-sidecar initContainers"))
		}
	}
	return errs
}

func (s surroundings) validateEphemeralContainers(path *field.Path) field.ErrorList {
	const forbidden = "cannot be set for an Ephemeral Container"
	var errs field.ErrorList
	others := sets.New[string]()
	for _, c := range s.spec.Containers {
		others.Insert(c.Name)
	}
	for _, c := range s.spec.InitContainers {
		others.Insert(c.Name)
	}
	names := others.Clone()
	for i := range s.spec.EphemeralContainers {
		e, at := &s.spec.EphemeralContainers[i], path.Index(i)
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		errs = append(errs, s.validateContainer(at, c)...)
		errs = append(errs, validateImageTrimmed(at, c)...)
		if names.Has(e.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		}
		names.Insert(e.Name)
		if e.TargetContainerName != "" && !others.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		// It is there to look into a pod, so it must not become part of what the pod does.
		errs = append(errs, forbidOtherFields(at, e.EphemeralContainerCommon, forbidden,
			"Name", "Image", "Command", "Args", "WorkingDir", "EnvFrom", "Env", "VolumeMounts", "VolumeDevices",
			"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY")...)
		for j, m := range e.VolumeMounts {
			at := at.Child("volumeMounts").Index(j)
			errs = append(errs, rule.If(m.SubPath != "", field.Forbidden(at.Child("subPath"), forbidden))...)
			errs = append(errs, rule.If(m.SubPathExpr != "", field.Forbidden(at.Child("subPathExpr"), forbidden))...)
		}
	}
	return errs
}

// validateContainer checks what all kinds of containers have in common.
func (s surroundings) validateContainer(path *field.Path, c *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, rule.DNSLabel(path.Child("name"), c.Name)...)
	}
	errs = append(errs, rule.Required(path.Child("image"), c.Image)...)
	errs = append(errs, rule.OneOf(path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validatePorts(path.Child("ports"), c.Ports)...)
	errs = append(errs, validateEnv(path.Child("env"), c.Env)...)
	errs = append(errs, validateEnvFrom(path.Child("envFrom"), c.EnvFrom)...)
	errs = append(errs, s.validateMounts(path.Child("volumeMounts"), c)...)
	errs = append(errs, s.validateDevices(path.Child("volumeDevices"), c)...)
	errs = append(errs, validatePullPolicy(path.Child("imagePullPolicy"), c.ImagePullPolicy)...)
	errs = append(errs, ValidateContainerResources(path.Child("resources"), &c.Resources, s.claims, s.options)...)
	errs = append(errs, validateResizePolicy(path.Child("resizePolicy"), c.ResizePolicy, s.spec.RestartPolicy)...)
	return append(errs, validateSecurityContext(path.Child("securityContext"), c.SecurityContext, s.hostUsers(), s.options)...)
}

// validateImageTrimmed is for pods only: templates were allowed blanks around an image once, and some have them.
func validateImageTrimmed(path *field.Path, c *corev1.Container) field.ErrorList {
	return rule.If(strings.TrimSpace(c.Image) != c.Image, field.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace"))
}

func validatePullPolicy(path *field.Path, policy corev1.PullPolicy) field.ErrorList {
	return rule.OneOf(path, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func validatePorts(path *field.Path, ports []corev1.ContainerPort) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				errs = append(errs, rule.Invalid(at.Child("name"), p.Name, msgs)...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			} else {
				names.Insert(p.Name)
			}
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, rule.Port(at.Child("containerPort"), p.ContainerPort)...)
		}
		if p.HostPort != 0 {
			errs = append(errs, rule.Port(at.Child("hostPort"), p.HostPort)...)
		}
		errs = append(errs, rule.OneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return errs
}

// validateHostPorts reports ports of the host that are in use already, and adds the others to them.
func validateHostPorts(path *field.Path, ports []corev1.ContainerPort, used sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
		if used.Has(key) {
			errs = append(errs, field.Duplicate(path.Index(i).Child("hostPort"), key))
		}
		used.Insert(key)
	}
	return errs
}

func (s surroundings) validateMounts(path *field.Path, c *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	mounted := sets.New[string]()
	for i, m := range c.VolumeMounts {
		at := path.Index(i)
		errs = append(errs, rule.Required(at.Child("name"), m.Name)...)
		source, ok := s.volumes[m.Name]
		errs = append(errs, rule.If(!ok, field.NotFound(at.Child("name"), m.Name))...)
		errs = append(errs, rule.Required(at.Child("mountPath"), m.MountPath)...)
		errs = append(errs, rule.If(mounted.Has(m.MountPath), field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))...)
		mounted.Insert(m.MountPath)
		sameName := slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == m.Name })
		samePath := slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.DevicePath == m.MountPath })
		errs = append(errs, rule.If(sameName, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))...)
		errs = append(errs, rule.If(samePath, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))...)
		// The errors of these four are at the list, not at the mount, as upstream has it.
		errs = append(errs, validateDescendingPath(path.Child("subPath"), m.SubPath)...)
		if m.SubPathExpr != "" && m.SubPath != "" {
			errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		errs = append(errs, validateDescendingPath(path.Child("subPathExpr"), m.SubPathExpr)...)
		errs = append(errs, validatePropagation(path.Child("mountPropagation"), m.MountPropagation, c)...)
		errs = append(errs, validateRecursiveReadOnly(path.Child("recursiveReadOnly"), m)...)
		errs = append(errs, validateBindOptions(at.Child("bindMountOptions"), m.BindMountOptions, source)...)
	}
	return errs
}

func validatePropagation(path *field.Path, mode *corev1.MountPropagationMode, c *corev1.Container) field.ErrorList {
	if mode == nil {
		return nil
	}
	errs := rule.Supported(path, *mode, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
	if *mode == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(path, "Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func validateRecursiveReadOnly(path *field.Path, m corev1.VolumeMount) field.ErrorList {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return nil
	}
	errs := rule.Supported(path, *m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	if len(errs) > 0 {
		return errs
	}
	errs = rule.If(!m.ReadOnly, field.Forbidden(path, "may only be specified when readOnly is true"))
	propagates := m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone
	return append(errs, rule.If(propagates, field.Forbidden(path, "may only be specified when mountPropagation is None or not specified"))...)
}

func validateBindOptions(path *field.Path, options []string, source *corev1.VolumeSource) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, o := range options {
		errs = append(errs, rule.Supported(path.Index(i), o,
			string(corev1.BindMountOptionNoDev), string(corev1.BindMountOptionNoExec), string(corev1.BindMountOptionNoSUID))...)
		errs = append(errs, rule.If(seen.Has(o), field.Duplicate(path.Index(i), o))...)
		seen.Insert(o)
	}
	if len(options) > 0 && source != nil && source.Image != nil {
		errs = append(errs, field.Invalid(path, options, "bindMountOptions may not be used with image volumes"))
	}
	return errs
}

func (s surroundings) validateDevices(path *field.Path, c *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	names, paths := sets.New[string](), sets.New[string]()
	for i, d := range c.VolumeDevices {
		at := path.Index(i)
		name, device := at.Child("name"), at.Child("devicePath")
		errs = append(errs, rule.Required(name, d.Name)...)
		errs = append(errs, rule.If(names.Has(d.Name), field.Invalid(name, d.Name, "must be unique"))...)
		source, ok := s.volumes[d.Name]
		switch {
		case !ok:
			errs = append(errs, field.NotFound(name, d.Name))
		case source.PersistentVolumeClaim == nil && source.Ephemeral == nil:
			errs = append(errs, field.Invalid(name, d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		errs = append(errs, rule.Required(device, d.DevicePath)...)
		errs = append(errs, rule.If(paths.Has(d.DevicePath), field.Invalid(device, d.DevicePath, "must be unique"))...)
		if len(validateNoBacksteps(device, d.DevicePath)) > 0 {
			errs = append(errs, field.Invalid(device, d.DevicePath, "can not contain backsteps ('..')"))
		} else {
			paths.Insert(d.DevicePath)
		}
		sameName := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name })
		samePath := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath })
		errs = append(errs, rule.If(sameName, field.Invalid(name, d.Name, "must not already exist in volumeMounts"))...)
		errs = append(errs, rule.If(samePath, field.Invalid(device, d.DevicePath, "must not already exist as a path in volumeMounts"))...)
		if d.Name != "" {
			names.Insert(d.Name)
		}
	}
	return errs
}

func validateResizePolicy(path *field.Path, policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		errs = append(errs, rule.If(seen.Has(p.ResourceName), field.Duplicate(path.Index(i), p.ResourceName))...)
		seen.Insert(p.ResourceName)
		errs = append(errs, rule.OneOf(path, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, rule.OneOf(path, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

// validateRestart checks the restart policy that a container may have of its own, and its rules.
func validateRestart(path *field.Path, c *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	rules := path.Child("restartPolicyRules")
	switch {
	case c.RestartPolicy != nil:
		errs = append(errs, rule.Supported(path.Child("restartPolicy"), *c.RestartPolicy,
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	case len(c.RestartPolicyRules) > 0:
		errs = append(errs, field.Required(path.Child("restartPolicy"), rulesNeedPolicy))
	}
	if n := len(c.RestartPolicyRules); n > 20 {
		errs = append(errs, field.TooMany(rules, n, 20))
	}
	for i, r := range c.RestartPolicyRules {
		at := rules.Index(i)
		errs = append(errs, rule.Supported(at.Child("action"), r.Action,
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if r.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, rule.Supported(at.Child("exitCodes", "operator"), r.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n > 255 {
			errs = append(errs, field.TooMany(at.Child("exitCodes", "values"), n, 255))
		}
	}
	return errs
}

func isTrue(b *bool) bool { return b != nil && *b }
