// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Fields of a pod that its containers can read, in variables and in files; sorted.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	fileFields      = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	resourceFields  = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	downwardFields  = slices.Concat(envFields, fileFields, []string{"spec.restartPolicy", "spec.schedulerName", "status.phase"})
	memoryDivisors  = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	hugePagesFields = []string{"limits.hugepages-", "requests.hugepages-"}
)

func validateEnv(path *field.Path, vars []corev1.EnvVar) field.ErrorList {
	var errs field.ErrorList
	for i, v := range vars {
		at := path.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, rule.Invalid(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))...)
		}
		if v.ValueFrom != nil {
			errs = append(errs, validateEnvSource(at.Child("valueFrom"), v.ValueFrom, v.Value != "")...)
		}
	}
	return errs
}

func validateEnvSource(path *field.Path, from *corev1.EnvVarSource, hasValue bool) field.ErrorList {
	var errs field.ErrorList
	n := 0
	if ref := from.FieldRef; ref != nil {
		n++
		errs = append(errs, validateFieldRef(path.Child("fieldRef"), ref, envFields)...)
	}
	if ref := from.ResourceFieldRef; ref != nil {
		n++
		errs = append(errs, validateResourceFieldRef(path.Child("resourceFieldRef"), ref, false)...)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		n++
		errs = append(errs, validateKeyRef(path.Child("configMapKeyRef"), ref.Name, ref.Key)...)
	}
	if ref := from.SecretKeyRef; ref != nil {
		n++
		errs = append(errs, validateKeyRef(path.Child("secretKeyRef"), ref.Name, ref.Key)...)
	}
	if ref := from.FileKeyRef; ref != nil {
		n++
		errs = append(errs, validateFileKeyRef(path.Child("fileKeyRef"), ref)...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case hasValue:
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

// subscripted takes a path such as metadata.labels['app'] apart.
func subscripted(path string) (base, key string, ok bool) {
	s, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	base, key, ok = strings.Cut(s, "['")
	if !ok || base == "" {
		return path, "", false
	}
	return base, key, true
}

func validateFieldRef(path *field.Path, ref *corev1.ObjectFieldSelector, allowed []string) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	unknown := func(format string, args ...any) field.ErrorList {
		return field.ErrorList{field.Invalid(path.Child("fieldPath"), ref.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, args...))}
	}
	if ref.APIVersion != "v1" {
		return unknown("unsupported pod version: %s", ref.APIVersion)
	}
	base, key, ok := subscripted(ref.FieldPath)
	switch {
	case ok && base == "metadata.annotations":
		return rule.QualifiedName(path, strings.ToLower(key))
	case ok && base == "metadata.labels":
		return rule.QualifiedName(path, key)
	case ok:
		return unknown("field label does not support subscript: %s", ref.FieldPath)
	case base == "spec.host":
		base = "spec.nodeName"
	case !slices.Contains(downwardFields, base):
		return unknown("field label not supported: %s", base)
	}
	return rule.Supported(path.Child("fieldPath"), base, allowed...)
}

func validateResourceFieldRef(path *field.Path, ref *corev1.ResourceFieldSelector, needsContainer bool) field.ErrorList {
	var errs field.ErrorList
	hugePages := slices.ContainsFunc(hugePagesFields, func(prefix string) bool { return strings.HasPrefix(ref.Resource, prefix) })
	switch {
	case needsContainer && ref.ContainerName == "":
		errs = append(errs, field.Required(path.Child("containerName"), ""))
	case ref.Resource == "":
		errs = append(errs, field.Required(path.Child("resource"), ""))
	case !hugePages:
		errs = append(errs, rule.Supported(path.Child("resource"), ref.Resource, resourceFields...)...)
	}
	return append(errs, validateDivisor(path.Child("divisor"), ref.Resource, ref.Divisor)...)
}

func validateDivisor(path *field.Path, resource string, divisor resource.Quantity) field.ErrorList {
	if divisor.IsZero() {
		return nil
	}
	allowed, kind := memoryDivisors, ""
	switch _, name, _ := strings.Cut(resource, "."); {
	case name == "cpu":
		allowed, kind = []string{"1m", "1"}, "cpu"
	case name == "memory":
		kind = "memory"
	case name == "ephemeral-storage":
		kind = "local ephemeral storage"
	case strings.HasPrefix(name, hugePagesPrefix):
		kind = "hugepages"
	default:
		return nil
	}
	if slices.Contains(allowed, divisor.String()) {
		return nil
	}
	list := strings.Join(allowed, ", ")
	if kind == "cpu" {
		list = strings.Join(allowed, " and ")
	}
	return field.ErrorList{field.Invalid(path, resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, kind))}
}

// validateKeyRef checks a reference to a key of a ConfigMap or Secret.
func validateKeyRef(path *field.Path, name, key string) field.ErrorList {
	errs := rule.Name(path.Child("name"), name, apivalidation.NameIsDNSSubdomain)
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, rule.Invalid(path.Child("key"), key, validation.IsConfigMapKey(key))...)
}

func validateFileKeyRef(path *field.Path, ref *corev1.FileKeySelector) field.ErrorList {
	errs := rule.Required(path.Child("key"), ref.Key)
	if ref.Key != "" {
		errs = append(errs, rule.Invalid(path.Child("key"), ref.Key, validation.IsRelaxedEnvVarName(ref.Key))...)
	}
	if ref.VolumeName == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else {
		errs = append(errs, rule.DNSLabel(path.Child("volumeName"), ref.VolumeName)...)
	}
	errs = append(errs, rule.Required(path.Child("path"), ref.Path)...)
	return append(errs, validateNoBacksteps(path.Child("path"), ref.Path)...)
}

func validateEnvFrom(path *field.Path, sources []corev1.EnvFromSource) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, rule.Invalid(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		if s.ConfigMapRef != nil {
			errs = append(errs, validateEnvObject(at.Child("configMapRef"), s.ConfigMapRef.Name)...)
		}
		if s.SecretRef != nil {
			errs = append(errs, validateEnvObject(at.Child("secretRef"), s.SecretRef.Name)...)
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func validateEnvObject(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return rule.Invalid(path.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, true))
}

// validateFileKeyVolumes: files with variables lie in an emptyDir of the pod.
func validateFileKeyVolumes(path *field.Path, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for c, at := range Containers(spec, path) {
		for i, v := range c.Env {
			if v.ValueFrom == nil || v.ValueFrom.FileKeyRef == nil {
				continue
			}
			name := v.ValueFrom.FileKeyRef.VolumeName
			at := at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			n := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
			switch {
			case n < 0:
				errs = append(errs, field.NotFound(at, name))
			case spec.Volumes[n].EmptyDir == nil:
				errs = append(errs, field.Invalid(at, name, "referenced volume must be of type emptyDir"))
			}
		}
	}
	return errs
}
