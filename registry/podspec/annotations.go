// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Annotations that were fields before they were fields.
const (
	dockerDefault = "docker/default" // of seccomp, for runtime/default

	appArmorAnnotation  = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	seccompAnnotation   = corev1.SeccompContainerAnnotationKeyPrefix
	appArmorLocalhost   = corev1.DeprecatedAppArmorBetaProfileNamePrefix
	seccompLocalhost    = corev1.SeccompLocalhostProfileNamePrefix
	deletionCostDetail  = "must be a 32bit integer"
	seccompTypeMismatch = "seccomp type in annotation and field must match"
	appArmorMismatch    = "apparmor type in annotation and field must match"
)

// ValidateAnnotations checks the annotations that mean something for a pod.
func ValidateAnnotations(path *field.Path, annotations map[string]string, spec *corev1.PodSpec, o Options) field.ErrorList {
	var errs field.ErrorList
	if value, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && spec.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if value := annotations[corev1.TolerationsAnnotationKey]; value != "" {
		var tolerations []corev1.Toleration
		if err := json.Unmarshal([]byte(value), &tolerations); err != nil {
			errs = append(errs, field.Invalid(path, corev1.TolerationsAnnotationKey, err.Error()))
		} else {
			errs = append(errs, ValidateTolerations(path.Child(corev1.TolerationsAnnotationKey), tolerations, o)...)
		}
	}
	if !o.InvalidDeletionCost {
		errs = append(errs, validateDeletionCost(path, annotations)...)
	}
	for _, key := range sets.List(sets.KeySet(annotations)) {
		value := annotations[key]
		switch container, isAppArmor := strings.CutPrefix(key, appArmorAnnotation); {
		case key == corev1.SeccompPodAnnotationKey, strings.HasPrefix(key, seccompAnnotation):
			errs = append(errs, validateSeccompAnnotation(path.Child(key), value)...)
		case isAppArmor:
			errs = append(errs, rule.If(!hasContainer(spec, container), field.Invalid(path.Key(key), container, "container not found"))...)
			known := value == "" || value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault ||
				value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined || strings.HasPrefix(value, appArmorLocalhost)
			errs = append(errs, rule.If(!known, field.Invalid(path.Key(key), value, fmt.Sprintf("invalid AppArmor profile name: %q", value)))...)
		}
	}
	return errs
}

// validateDeletionCost: a 32-bit number without a plus sign or leading zeroes.
func validateDeletionCost(path *field.Path, annotations map[string]string) field.ErrorList {
	value, ok := annotations[corev1.PodDeletionCost]
	if !ok {
		return nil
	}
	_, err := strconv.ParseInt(value, 10, 32)
	wrong := err != nil || value[0] == '+' || len(value) > 1 && value[0] == '0'
	return rule.If(wrong, field.Invalid(path.Key(corev1.PodDeletionCost), value, deletionCostDetail))
}

func hasContainer(spec *corev1.PodSpec, name string) bool {
	for c := range Containers(spec, nil) {
		if c.Name == name {
			return true
		}
	}
	return false
}

func validateSeccompAnnotation(path *field.Path, profile string) field.ErrorList {
	switch profile {
	case corev1.SeccompProfileRuntimeDefault, dockerDefault, corev1.SeccompProfileNameUnconfined:
		return nil
	}
	if local, ok := strings.CutPrefix(profile, seccompLocalhost); ok {
		return validateDescendingPath(path, local)
	}
	return field.ErrorList{field.Invalid(path, profile, "must be a valid seccomp profile")}
}

// ValidateAnnotationsUpdate: how a running pod is confined, and whether it mirrors a static one, cannot change.
func ValidateAnnotationsUpdate(path *field.Path, annotations, old map[string]string, spec *corev1.PodSpec, o Options) field.ErrorList {
	var errs field.ErrorList
	for _, key := range sets.List(sets.KeySet(annotations).Union(sets.KeySet(old))) {
		value, is := annotations[key]
		oldValue, was := old[key]
		verb := "remove or update"
		switch {
		case is == was && value == oldValue:
			continue
		case !was:
			verb = "add"
		}
		if strings.HasPrefix(key, appArmorAnnotation) {
			errs = append(errs, field.Forbidden(path.Key(key), "may not "+verb+" AppArmor annotations"))
		}
		if key == corev1.MirrorPodAnnotationKey {
			errs = append(errs, field.Forbidden(path.Key(key), "may not "+verb+" mirror pod annotation"))
		}
	}
	return append(errs, ValidateAnnotations(path, annotations, spec, o)...)
}

// ValidateProfiles says that annotations and fields must not name different seccomp or AppArmor profiles.
// It is for new pods and for templates.
func ValidateProfiles(path *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	var appArmor *corev1.AppArmorProfile
	if sc := spec.SecurityContext; sc != nil {
		appArmor = sc.AppArmorProfile
		if annotation, ok := meta.Annotations[corev1.SeccompPodAnnotationKey]; ok {
			errs = append(errs, validateSeccompMatch(path.Child("securityContext", "seccompProfile"), annotation, sc.SeccompProfile)...)
		}
	}
	for c, at := range Containers(spec, path) {
		if annotation, ok := meta.Annotations[seccompAnnotation+c.Name]; ok && c.SecurityContext != nil {
			errs = append(errs, validateSeccompMatch(at.Child("securityContext", "seccompProfile"), annotation, c.SecurityContext.SeccompProfile)...)
		}
	}
	if isWindows(spec) {
		return errs
	}
	for c, at := range Containers(spec, path) {
		profile := appArmor
		if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
			profile = sc.AppArmorProfile
		}
		if annotation, ok := meta.Annotations[appArmorAnnotation+c.Name]; ok {
			errs = append(errs, validateAppArmorMatch(at.Child("securityContext", "appArmorProfile"), annotation, profile)...)
		}
	}
	return errs
}

func validateSeccompMatch(path *field.Path, annotation string, p *corev1.SeccompProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	match := true
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		match = annotation == corev1.SeccompProfileNameUnconfined
	case corev1.SeccompProfileTypeRuntimeDefault:
		match = annotation == corev1.SeccompProfileRuntimeDefault || annotation == dockerDefault
	case corev1.SeccompProfileTypeLocalhost:
		var name string
		if name, match = strings.CutPrefix(annotation, seccompLocalhost); match && (p.LocalhostProfile == nil || *p.LocalhostProfile != name) {
			return field.ErrorList{field.Forbidden(path.Child("localhostProfile"), "seccomp profile in annotation and field must match")}
		}
	}
	return rule.If(!match, field.Forbidden(path.Child("type"), seccompTypeMismatch))
}

func validateAppArmorMatch(path *field.Path, annotation string, p *corev1.AppArmorProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	match := true
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		match = annotation == corev1.DeprecatedAppArmorBetaProfileNameUnconfined
	case corev1.AppArmorProfileTypeRuntimeDefault:
		match = annotation == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
	case corev1.AppArmorProfileTypeLocalhost:
		var name string
		if name, match = strings.CutPrefix(annotation, appArmorLocalhost); match && (p.LocalhostProfile == nil || *p.LocalhostProfile != name) {
			return field.ErrorList{field.Forbidden(path.Child("localhostProfile"), "apparmor profile in annotation and field must match")}
		}
	}
	return rule.If(!match, field.Forbidden(path.Child("type"), appArmorMismatch))
}

// appArmorFromAnnotation is the profile that an annotation asks for, nil if it is none.
func appArmorFromAnnotation(annotation string) *corev1.AppArmorProfile {
	switch annotation {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	if name, ok := strings.CutPrefix(annotation, appArmorLocalhost); ok && name != "" {
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}
