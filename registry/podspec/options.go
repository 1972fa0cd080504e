// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Options says what is wrong with the old object and may therefore stay wrong in the new one: what was
// stored before a rule came up must stay updatable. The zero value, for new objects, tolerates nothing.
type Options struct {
	Pod bool // it is a Pod, not a template of one

	InvalidDeletionCost       bool // the annotation is no number
	InvalidAffinitySelector   bool // label values in selectors of pod affinity
	InvalidNodeAffinity       bool // label values in required node affinity
	InvalidSpreadSelector     bool // selectors of spread constraints
	LegacySpreadLabelKeys     bool // label keys of spread constraints repeat the selector
	IndivisibleHugePages      bool // amounts that are no whole pages
	NonLocalTokenPath         bool // projected tokens outside their volume
	HostSysctls               bool // settings of namespaces shared with the host
	InitResizeRestart         bool // init containers restarted by a resize
	UserNamespaceDevices      bool // block devices in a user namespace
	UserNamespaceHostNetwork  bool // a user namespace in the host's network
	EmptyImageReference       bool // image volumes without an image
	SysAdminWithoutEscalation bool // CAP_SYS_ADMIN without privilege escalation
	NumericTolerations        bool // the operators Lt and Gt
}

// OptionsForPod are those for an update of a Pod, or for a new one if old is nil.
func OptionsForPod(old *corev1.Pod) Options {
	if old == nil {
		return Options{Pod: true}
	}
	o := optionsFor(&old.Spec, &old.ObjectMeta)
	o.Pod = true
	return o
}

// OptionsForTemplate are those for an update of a template, or for a new one if old is nil.
func OptionsForTemplate(old *corev1.PodTemplateSpec) Options {
	if old == nil {
		return Options{}
	}
	return optionsFor(&old.Spec, &old.ObjectMeta)
}

func optionsFor(spec *corev1.PodSpec, meta *metav1.ObjectMeta) Options {
	o := Options{
		InvalidDeletionCost:      len(validateDeletionCost(nil, meta.Annotations)) > 0,
		UserNamespaceHostNetwork: spec.HostNetwork && inUserNamespace(spec),
		NumericTolerations: slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool {
			return t.Operator == corev1.TolerationOpLt || t.Operator == corev1.TolerationOpGt
		}),
		InvalidAffinitySelector: hasInvalidAffinitySelector(spec.Affinity),
		IndivisibleHugePages:    partialPages(spec.Overhead),
	}
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		o.InvalidNodeAffinity = len(ValidateNodeSelector(nil, a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution, false)) > 0
	}
	for _, c := range spec.TopologySpreadConstraints {
		o.InvalidSpreadSelector = o.InvalidSpreadSelector || hasInvalidSelector(c.LabelSelector)
		o.LegacySpreadLabelKeys = o.LegacySpreadLabelKeys || len(validateLabelKeys(nil, c.MatchLabelKeys, nil, c.LabelSelector)) > 0
	}
	if sc := spec.SecurityContext; sc != nil {
		o.HostSysctls = slices.ContainsFunc(sc.Sysctls, func(s corev1.Sysctl) bool { return len(validateHostSysctl(nil, s.Name, spec)) > 0 })
	}
	for _, v := range spec.Volumes {
		o.EmptyImageReference = o.EmptyImageReference || v.Image != nil && v.Image.Reference == ""
		if v.Projected != nil {
			o.NonLocalTokenPath = o.NonLocalTokenPath || slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
				return s.ServiceAccountToken != nil && len(validateFilePath(nil, s.ServiceAccountToken.Path)) > 0
			})
		}
	}
	for c := range Containers(spec, field.NewPath("spec")) {
		o.IndivisibleHugePages = o.IndivisibleHugePages || partialPages(c.Resources.Limits) || partialPages(c.Resources.Requests)
		o.UserNamespaceDevices = o.UserNamespaceDevices || inUserNamespace(spec) && len(c.VolumeDevices) > 0
		sc := c.SecurityContext
		o.SysAdminWithoutEscalation = o.SysAdminWithoutEscalation || sc != nil && !isTrue(sc.AllowPrivilegeEscalation) && addsSysAdmin(sc)
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		o.InitResizeRestart = o.InitResizeRestart || !Sidecar(c) && slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
			return p.RestartPolicy == corev1.RestartContainer
		})
	}
	return o
}

func inUserNamespace(spec *corev1.PodSpec) bool { return spec.HostUsers != nil && !*spec.HostUsers }

func partialPages(list corev1.ResourceList) bool {
	return slices.ContainsFunc(sets.KeySet(list).UnsortedList(), func(name corev1.ResourceName) bool {
		return IsHugePages(name) && !wholePages(name, list[name])
	})
}

func hasInvalidAffinitySelector(a *corev1.Affinity) bool {
	invalid := func(hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) bool {
		return slices.ContainsFunc(hard, func(t corev1.PodAffinityTerm) bool {
			return len(validateAffinitySelectors(nil, t, false)) > 0
		}) || slices.ContainsFunc(soft, func(t corev1.WeightedPodAffinityTerm) bool {
			return len(validateAffinitySelectors(nil, t.PodAffinityTerm, false)) > 0
		})
	}
	if a == nil {
		return false
	}
	pod, anti := a.PodAffinity, a.PodAntiAffinity
	return pod != nil && invalid(pod.RequiredDuringSchedulingIgnoredDuringExecution, pod.PreferredDuringSchedulingIgnoredDuringExecution) ||
		anti != nil && invalid(anti.RequiredDuringSchedulingIgnoredDuringExecution, anti.PreferredDuringSchedulingIgnoredDuringExecution)
}
