// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultPersistentVolume(pv *corev1.PersistentVolume) {
	if pv.Status.Phase == "" {
		pv.Status.Phase = corev1.VolumePending
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == "" {
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if pv.Spec.VolumeMode == nil {
		pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	podspec.DefaultResourceList(pv.Spec.Capacity)
	podspec.DefaultPersistentSource(&pv.Spec.PersistentVolumeSource)
}

func preparePersistentVolumeCreate(pv *corev1.PersistentVolume) {
	pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptr.To(metav1.Now())}
}

// preparePersistentVolumeStatusUpdate notes when the phase changed, if the client does not.
func preparePersistentVolumeStatusUpdate(pv, old *corev1.PersistentVolume) {
	is, was := &pv.Status, &old.Status
	switch {
	case is.Phase == was.Phase && is.LastPhaseTransitionTime == nil:
		is.LastPhaseTransitionTime = was.LastPhaseTransitionTime
	case is.Phase != was.Phase && (is.LastPhaseTransitionTime == nil || is.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime)):
		is.LastPhaseTransitionTime = ptr.To(metav1.Now())
	}
}

func validatePersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	return validatePersistentVolumeWith(pv, false)
}

func validatePersistentVolumeWith(pv *corev1.PersistentVolume, tolerant bool) field.ErrorList {
	errs := rule.ObjectMeta(&pv.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidatePersistentVolumeSpec(field.NewPath("spec"), &pv.Spec, pv.Name, tolerant)...)
	_, options := pv.Annotations[corev1.MountOptionAnnotation]
	return append(errs, rule.If(options && !takesMountOptions(&pv.Spec.PersistentVolumeSource), field.Forbidden(
		field.NewPath("metadata", "annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type"))...)
}

func takesMountOptions(s *corev1.PersistentVolumeSource) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.NFS != nil || s.RBD != nil ||
		s.Quobyte != nil || s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil || s.VsphereVolume != nil ||
		s.AzureDisk != nil || s.PhotonPersistentDisk != nil
}

// validatePersistentVolumeUpdate: what a volume is cannot change. A CSI volume may get the secret for
// expanding it later.
func validatePersistentVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	path := field.NewPath("spec")
	was := old.Spec.NodeAffinity
	tolerant := was != nil && was.Required != nil && len(podspec.ValidateNodeSelector(nil, was.Required, false)) > 0
	errs := validatePersistentVolumeWith(pv, tolerant)

	source := pv.Spec.PersistentVolumeSource.DeepCopy()
	if source.CSI != nil && old.Spec.CSI != nil && old.Spec.CSI.ControllerExpandSecretRef == nil {
		source.CSI.ControllerExpandSecretRef = nil
	}
	if !equality.Semantic.DeepEqual(*source, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(path.Child("persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(old.Spec.PersistentVolumeSource, *source))))
	}
	errs = append(errs, rule.Unchanged(field.NewPath("volumeMode"), pv.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if was != nil && !equality.Semantic.DeepEqual(withStableLabels(pv.Spec.NodeAffinity, was), was) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity, rule.Immutable+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(path.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// Labels of nodes that were beta once, and what they are now.
var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
}

// withStableLabels returns an affinity in which labels that only became stable are what they were.
func withStableLabels(affinity, old *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if affinity == nil || affinity.Required == nil || old.Required == nil || len(affinity.Required.NodeSelectorTerms) != len(old.Required.NodeSelectorTerms) {
		return affinity
	}
	affinity = affinity.DeepCopy()
	for i, term := range affinity.Required.NodeSelectorTerms {
		was := old.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range min(len(was), len(term.MatchExpressions)) {
			if e := &term.MatchExpressions[j]; stableLabels[was[j].Key] == e.Key {
				e.Key = was[j].Key
			}
		}
	}
	return affinity
}

func validatePersistentVolumeStatusUpdate(pv, _ *corev1.PersistentVolume) field.ErrorList {
	return append(rule.ObjectMetaUpdate(&pv.ObjectMeta), rule.Required(field.NewPath("resourceVersion"), pv.ResourceVersion)...)
}

func persistentVolumeWarnings(pv *corev1.PersistentVolume) []string {
	var list []string
	spec, annotations := field.NewPath("spec"), field.NewPath("metadata", "annotations")
	warn := func(when bool, path *field.Path, text string) {
		if when {
			list = append(list, path.String()+": "+text)
		}
	}
	_, class := pv.Annotations[corev1.BetaStorageClassAnnotation]
	_, options := pv.Annotations[corev1.MountOptionAnnotation]
	warn(class, annotations.Key(corev1.BetaStorageClassAnnotation), storageClassAnnotation)
	warn(options, annotations.Key(corev1.MountOptionAnnotation), `deprecated since v1.31; use "mountOptions" attribute instead`)
	warn(pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle, spec.Child("persistentVolumeReclaimPolicy"),
		"The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	if n := pv.Spec.NodeAffinity; n != nil && n.Required != nil {
		for i, term := range n.Required.NodeSelectorTerms {
			list = append(list, podspec.NodeSelectorTermWarnings(spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i), term, false)...)
		}
	}
	warn(pv.Spec.CephFS != nil, spec.Child("cephfs"), "deprecated in v1.28, non-functional in v1.31+")
	warn(pv.Spec.PhotonPersistentDisk != nil, spec.Child("photonPersistentDisk"), "deprecated in v1.11, non-functional in v1.16+")
	warn(pv.Spec.ScaleIO != nil, spec.Child("scaleIO"), "deprecated in v1.16, non-functional in v1.22+")
	warn(pv.Spec.StorageOS != nil, spec.Child("storageOS"), "deprecated in v1.22, non-functional in v1.25+")
	warn(pv.Spec.Glusterfs != nil, spec.Child("glusterfs"), "deprecated in v1.25, non-functional in v1.26+")
	warn(pv.Spec.RBD != nil, spec.Child("rbd"), "deprecated in v1.28, non-functional in v1.31+")
	return list
}
