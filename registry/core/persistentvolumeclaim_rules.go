// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const storageClassAnnotation = `deprecated since v1.8; use "storageClassName" attribute instead`

func defaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	if c.Status.Phase == "" {
		c.Status.Phase = corev1.ClaimPending
	}
	podspec.DefaultClaimSpec(&c.Spec)
	podspec.DefaultResourceList(c.Status.Capacity)
	podspec.DefaultResourceList(c.Status.AllocatedResources)
}

func preparePersistentVolumeClaimCreate(c *corev1.PersistentVolumeClaim) {
	if ref := c.Spec.DataSourceRef; ref != nil && ptr.Deref(ref.Namespace, "") != "" {
		c.Spec.DataSourceRef = nil // from other namespaces is alpha
	}
	dropUnknownSource(&c.Spec)
	syncDataSources(&c.Spec)
}

// preparePersistentVolumeClaimUpdate also fills in what an older server did not store, so that it is not
// taken for a change.
func preparePersistentVolumeClaimUpdate(c, old *corev1.PersistentVolumeClaim) {
	if ref := c.Spec.DataSourceRef; ref != nil && ptr.Deref(ref.Namespace, "") != "" && old.Spec.DataSourceRef == nil {
		c.Spec.DataSourceRef = nil
	}
	if old.Spec.DataSource == nil && old.Spec.DataSourceRef == nil {
		dropUnknownSource(&c.Spec)
	}
	syncDataSources(&c.Spec)
	syncDataSources(&old.Spec)
}

func preparePersistentVolumeClaimStatusUpdate(c, old *corev1.PersistentVolumeClaim) {
	if old.Status.HealthStatus == nil {
		c.Status.HealthStatus = nil
	}
}

// dropUnknownSource: dataSource alone is only for claims and snapshots, for others there is dataSourceRef.
func dropUnknownSource(spec *corev1.PersistentVolumeClaimSpec) {
	s := spec.DataSource
	if spec.DataSourceRef != nil || s == nil {
		return
	}
	group := ptr.Deref(s.APIGroup, "")
	isClaim := s.Kind == "PersistentVolumeClaim" && group == ""
	isSnapshot := s.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
	if !isClaim && !isSnapshot {
		spec.DataSource = nil
	}
}

// syncDataSources sets the one of the two fields that is not set from the other.
func syncDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	s, ref := spec.DataSource, spec.DataSourceRef
	switch {
	case s != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	case s == nil && ref != nil && ptr.Deref(ref.Namespace, "") == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func validatePersistentVolumeClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, podspec.ValidateClaimSpec(field.NewPath("spec"), &c.Spec, podspec.ClaimOptions{})...)
}

// validatePersistentVolumeClaimUpdate: a claim is bound once. A bound one may ask for more storage, for
// less as long as it is more than it got, and for another class of attributes.
func validatePersistentVolumeClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidateClaimSpec(path, &c.Spec, claimOptions(&old.Spec))...)

	rest := c.Spec.DeepCopy() // with what may change set back to what it was
	if old.Spec.VolumeName == "" {
		rest.VolumeName = ""
	}
	errs = append(errs, validateClassUpdate(c, old, rest)...)
	if c.Status.Phase == corev1.ClaimBound {
		if rest.Resources.Requests != nil {
			rest.Resources.Requests[corev1.ResourceStorage] = old.Spec.Resources.Requests[corev1.ResourceStorage]
		}
		rest.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(old.Spec, *rest))))
	}
	size, was, got := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(was) < 0 && size.Cmp(got) <= 0 {
		errs = append(errs, field.Forbidden(path.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, rule.Unchanged(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)...)
	return append(errs, validateAttributesUpdate(path.Child("volumeAttributesClassName"), c, old)...)
}

func claimOptions(old *corev1.PersistentVolumeClaimSpec) podspec.ClaimOptions {
	return podspec.ClaimOptions{
		InvalidSelector: len(rule.LabelSelector(nil, old.Selector, false)) > 0,
		InvalidSourceAPIGroup: old.DataSource != nil && old.DataSource.APIGroup != nil ||
			old.DataSourceRef != nil && old.DataSourceRef.APIGroup != nil,
	}
}

// validateClassUpdate: a storage class can be set where there was none, also if it moves there from the
// annotation it once was.
func validateClassUpdate(c, old *corev1.PersistentVolumeClaim, rest *corev1.PersistentVolumeClaimSpec) field.ErrorList {
	annotation, had := old.Annotations[corev1.BetaStorageClassAnnotation]
	now, has := c.Annotations[corev1.BetaStorageClassAnnotation]
	class := c.Spec.StorageClassName
	matches := class != nil && old.Spec.StorageClassName == nil && (!had || *class == annotation)
	if matches {
		rest.StorageClassName = nil
	}
	moved := matches && had && (!has || now == annotation)
	return rule.If(!moved && now != annotation, field.Invalid(
		field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation), now, rule.Immutable))
}

func validateAttributesUpdate(path *field.Path, c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	is := c.Spec.VolumeAttributesClassName
	if equality.Semantic.DeepEqual(is, old.Spec.VolumeAttributesClassName) || old.Status.CurrentVolumeAttributesClassName == nil {
		return nil
	}
	switch {
	case is == nil:
		return field.ErrorList{field.Forbidden(path, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")}
	case *is == "":
		return field.ErrorList{field.Forbidden(path, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")}
	}
	return nil
}

func validatePersistentVolumeClaimStatusUpdate(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	status := field.NewPath("status")
	errs := rule.ObjectMetaUpdate(&c.ObjectMeta)
	errs = append(errs, rule.Required(field.NewPath("resourceVersion"), c.ResourceVersion)...)
	errs = append(errs, rule.If(len(c.Spec.AccessModes) == 0, field.Required(field.NewPath("Spec", "accessModes"), ""))...)
	for _, name := range sets.List(sets.KeySet(c.Status.Capacity)) {
		q := c.Status.Capacity[name]
		errs = append(errs, rule.If(q.Value() < 0, field.Invalid(status.Child("capacity").Key(string(name)), q.Value(), "must be a valid resource quantity"))...)
	}
	if h := c.Status.HealthStatus; h != nil {
		errs = append(errs, validateHealthConditions(status.Child("healthStatus", "healthConditions"), h.HealthConditions)...)
	}
	at := status.Child("allocatedResourceStatuses")
	resizing := sets.New(corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible)
	for _, name := range sets.List(sets.KeySet(c.Status.AllocatedResourceStatuses)) {
		errs = append(errs, validateClaimResource(at, name)...)
		if !resizing.Has(c.Status.AllocatedResourceStatuses[name]) {
			errs = append(errs, field.NotSupported(at, name, sets.List(resizing)))
		}
	}
	at = status.Child("allocatedResources")
	for _, name := range sets.List(sets.KeySet(c.Status.AllocatedResources)) {
		if wrong := validateClaimResource(at, name); len(wrong) > 0 {
			errs = append(errs, wrong...)
			continue
		}
		q := c.Status.AllocatedResources[name]
		if at := at.Key(string(name)); q.Value() < 0 {
			errs = append(errs, field.Invalid(at, q.Value(), "must be a valid resource quantity"))
		} else {
			errs = append(errs, podspec.ValidateNonNegativeQuantity(at, q)...)
		}
	}
	return errs
}

// validateClaimResource: of Kubernetes' own resources a claim has only storage.
func validateClaimResource(path *field.Path, name corev1.ResourceName) field.ErrorList {
	if errs := rule.Invalid(path, string(name), validation.IsQualifiedName(string(name))); len(errs) > 0 {
		return errs
	}
	return rule.If(podspec.IsNativeResource(name) && name != corev1.ResourceStorage, field.NotSupported(path, string(name), []corev1.ResourceName{corev1.ResourceStorage}))
}

func persistentVolumeClaimWarnings(c *corev1.PersistentVolumeClaim) []string {
	var list []string
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		list = append(list, field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation).String()+": "+storageClassAnnotation)
	}
	return append(list, podspec.ClaimWarnings(field.NewPath("spec"), &c.Spec)...)
}
