// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// ClaimOptions says what an old claim may keep.
type ClaimOptions struct {
	InvalidSelector       bool // label values that are none
	InvalidSourceAPIGroup bool // API groups of data sources that are no domain
}

// ValidateClaimSpec checks a claim for storage, on its own or as the template of one.
func ValidateClaimSpec(path *field.Path, spec *corev1.PersistentVolumeClaimSpec, o ClaimOptions) field.ErrorList {
	errs := rule.If(len(spec.AccessModes) == 0, field.Required(path.Child("accessModes"), "at least 1 access mode is required"))
	if spec.Selector != nil {
		errs = append(errs, rule.LabelSelector(path.Child("selector"), spec.Selector, o.InvalidSelector)...)
	}
	errs = append(errs, validateAccessModes(path.Child("accessModes"), spec.AccessModes)...)

	at := path.Child("resources").Key(string(corev1.ResourceStorage))
	if storage, ok := spec.Resources.Requests[corev1.ResourceStorage]; ok {
		errs = append(errs, ValidatePositiveQuantity(at, storage)...)
	} else {
		errs = append(errs, field.Required(at, ""))
	}
	if name := ptr.Deref(spec.StorageClassName, ""); name != "" {
		errs = append(errs, rule.Name(path.Child("storageClassName"), name, apivalidation.NameIsDNSSubdomain)...)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	errs = append(errs, validateDataSources(path, spec, o)...)
	if name := ptr.Deref(spec.VolumeAttributesClassName, ""); name != "" {
		errs = append(errs, rule.Name(path.Child("volumeAttributesClassName"), name, apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

// validateAccessModes checks each mode, and that ReadWriteOncePod stands alone.
func validateAccessModes(path *field.Path, modes []corev1.PersistentVolumeAccessMode) field.ErrorList {
	var errs field.ErrorList
	var pod, others bool
	for _, mode := range modes {
		wrong := rule.Supported(path, mode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		errs = append(errs, wrong...)
		pod = pod || mode == corev1.ReadWriteOncePod
		others = others || mode != corev1.ReadWriteOncePod && len(wrong) == 0
	}
	return append(errs, rule.If(pod && others, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))...)
}

func validateDataSources(path *field.Path, spec *corev1.PersistentVolumeClaimSpec, o ClaimOptions) field.ErrorList {
	var errs field.ErrorList
	source, ref := spec.DataSource, spec.DataSourceRef
	if source != nil {
		errs = append(errs, validateDataSource(path.Child("dataSource"), source.APIGroup, source.Kind, source.Name, o)...)
	}
	if ref == nil {
		return errs
	}
	errs = append(errs, validateDataSource(path.Child("dataSourceRef"), ref.APIGroup, ref.Kind, ref.Name, o)...)
	namespace := ptr.Deref(ref.Namespace, "")
	if namespace != "" {
		errs = append(errs, rule.Name(path.Child("dataSourceRef", "namespace"), namespace, apivalidation.ValidateNamespaceName)...)
	}
	switch {
	case source == nil:
	case namespace != "":
		errs = append(errs, field.Invalid(path, path.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
	case !reflect.DeepEqual(source.APIGroup, ref.APIGroup) || source.Kind != ref.Kind || source.Name != ref.Name:
		errs = append(errs, field.Invalid(path, path.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(path *field.Path, group *string, kind, name string, o ClaimOptions) field.ErrorList {
	errs := rule.Required(path.Child("name"), name)
	errs = append(errs, rule.Required(path.Child("kind"), kind)...)
	g := ptr.Deref(group, "")
	switch {
	case g == "" && kind != "PersistentVolumeClaim":
		errs = append(errs, field.Invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	case g != "" && !o.InvalidSourceAPIGroup:
		errs = append(errs, rule.Invalid(path.Child("apiGroup"), g, validation.IsDNS1123Subdomain(g))...)
	}
	return errs
}

// validateClaimTemplate checks the claim that an ephemeral volume is made from.
func validateClaimTemplate(path *field.Path, t *corev1.PersistentVolumeClaimTemplate) field.ErrorList {
	errs := ValidateTemplateMeta(path.Child("metadata"), &t.ObjectMeta)
	return append(errs, ValidateClaimSpec(path.Child("spec"), &t.Spec, ClaimOptions{})...)
}

// ValidateTemplateMeta checks the metadata of a template of claims, of which only labels and annotations are used.
func ValidateTemplateMeta(path *field.Path, meta *metav1.ObjectMeta) field.ErrorList {
	errs := rule.Annotations(path.Child("annotations"), meta.Annotations)
	errs = append(errs, rule.Labels(path.Child("labels"), meta.Labels)...)
	return append(errs, forbidOtherFields(path, *meta, "cannot be set", "Annotations", "Labels")...)
}

// forbidOtherFields forbids every field of a struct but the named ones, also fields that are added later.
func forbidOtherFields(path *field.Path, object any, why string, allowed ...string) field.ErrorList {
	var errs field.ErrorList
	v := reflect.ValueOf(object)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if !slices.Contains(allowed, name) && !v.Field(i).IsZero() {
			errs = append(errs, field.Forbidden(path.Child(strings.ToLower(name[:1])+name[1:]), why))
		}
	}
	return errs
}
