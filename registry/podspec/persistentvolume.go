// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// ValidatePersistentVolumeSpec checks a volume on its own. name is that of the PersistentVolume. tolerant
// lets label values in the node affinity stand that are none.
func ValidatePersistentVolumeSpec(at *field.Path, spec *corev1.PersistentVolumeSpec, name string, tolerant bool) field.ErrorList {
	errs := validateVolumeModes(at, spec)
	errs = append(errs, validateCapacity(at.Child("capacity"), spec.Capacity)...)
	if spec.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, rule.Supported(at.Child("persistentVolumeReclaimPolicy"), spec.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if n := spec.NodeAffinity; n != nil {
		required := at.Child("nodeAffinity", "required")
		if n.Required == nil {
			errs = append(errs, field.Required(required, "must specify required node constraints"))
		} else {
			errs = append(errs, ValidateNodeSelector(required, n.Required, tolerant)...)
		}
	}
	errs = append(errs, validatePersistentSource(at, spec, name)...)
	root := spec.HostPath != nil && path.Clean(spec.HostPath.Path) == "/"
	errs = append(errs, rule.If(root && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle,
		field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))...)
	if class := spec.StorageClassName; class != "" {
		errs = append(errs, rule.Name(at.Child("storageClassName"), class, apivalidation.NameIsDNSSubdomain)...)
	}
	errs = append(errs, rule.SupportedIfSet(at.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateAttributesClass(at, spec)...)
}

// ValidateInlineVolumeSpec checks a volume that is part of a VolumeAttachment, which only migration of in-tree volumes
// makes: a CSI volume that nobody claims.
func ValidateInlineVolumeSpec(at *field.Path, spec *corev1.PersistentVolumeSpec) field.ErrorList {
	const inline = "in the context of inline volumes"
	errs := validateVolumeModes(at, spec)
	forbid := func(wrong bool, name, detail string) {
		errs = append(errs, rule.If(wrong, field.Forbidden(at.Child(name), detail+" "+inline))...)
	}
	forbid(spec.ClaimRef != nil, "claimRef", "may not be specified")
	forbid(len(spec.Capacity) > 0, "capacity", "may not be specified")
	forbid(spec.NodeAffinity != nil, "nodeAffinity", "may not be specified")
	forbid(spec.StorageClassName != "", "storageClassName", "may not be specified")
	reclaim, mode := spec.PersistentVolumeReclaimPolicy, spec.VolumeMode
	forbid(reclaim != "" && reclaim != corev1.PersistentVolumeReclaimRetain, "persistentVolumeReclaimPolicy", "may only be Retain")
	forbid(mode != nil && *mode != corev1.PersistentVolumeFilesystem, "volumeMode", "may not specify volumeMode other than Filesystem")
	errs = append(errs, rule.If(spec.CSI == nil, field.Required(at.Child("csi"), "has to be specified "+inline))...)
	return append(errs, validatePersistentSource(at, spec, "")...)
}

func validateVolumeModes(at *field.Path, spec *corev1.PersistentVolumeSpec) field.ErrorList {
	errs := rule.If(len(spec.AccessModes) == 0, field.Required(at.Child("accessModes"), ""))
	return append(errs, validateAccessModes(at.Child("accessModes"), spec.AccessModes)...)
}

func validateAttributesClass(at *field.Path, spec *corev1.PersistentVolumeSpec) field.ErrorList {
	class, path := spec.VolumeAttributesClassName, at.Child("volumeAttributesClassName")
	if class == nil {
		return nil
	}
	var errs field.ErrorList
	if *class == "" {
		errs = append(errs, field.Required(path, "an empty string is disallowed"))
	} else {
		errs = append(errs, rule.Name(path, *class, apivalidation.NameIsDNSSubdomain)...)
	}
	return append(errs, rule.If(spec.CSI == nil, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))...)
}

// validateCapacity: a volume has a size, and nothing else.
func validateCapacity(at *field.Path, capacity corev1.ResourceList) field.ErrorList {
	errs := rule.If(len(capacity) == 0, field.Required(at, ""))
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		errs = append(errs, field.NotSupported(at, capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sets.List(sets.KeySet(capacity)) {
		q, at := capacity[name], at.Key(string(name))
		errs = append(errs, rule.If(q.Value() < 0, field.Invalid(at, q.Value(), "must be a valid resource quantity"))...)
		errs = append(errs, ValidatePositiveQuantity(at, q)...)
	}
	return errs
}

func validatePersistentSource(at *field.Path, spec *corev1.PersistentVolumeSpec, name string) field.ErrorList {
	s := sources{path: at, what: "volume"}
	addSource(&s, "hostPath", spec.HostPath, validateHostPath)
	addSource(&s, "gcePersistentDisk", spec.GCEPersistentDisk, func(_ *field.Path, disk *corev1.GCEPersistentDiskVolumeSource) field.ErrorList {
		return validateGCEDisk(at.Child("persistentDisk"), disk)
	})
	addSource(&s, "awsElasticBlockStore", spec.AWSElasticBlockStore, validateAWSDisk)
	addSource(&s, "glusterfs", spec.Glusterfs, func(at *field.Path, g *corev1.GlusterfsPersistentVolumeSource) field.ErrorList {
		errs := append(rule.Required(at.Child("endpoints"), g.EndpointsName), rule.Required(at.Child("path"), g.Path)...)
		switch namespace := at.Child("endpointsNamespace"); {
		case g.EndpointsNamespace == nil:
		case *g.EndpointsNamespace == "":
			errs = append(errs, field.Invalid(namespace, "", "if the endpointnamespace is set, it must be a valid namespace name"))
		default:
			errs = append(errs, rule.Name(namespace, *g.EndpointsNamespace, apivalidation.ValidateNamespaceName)...)
		}
		return errs
	})
	addSource(&s, "flocker", spec.Flocker, validateFlocker)
	addSource(&s, "nfs", spec.NFS, validateNFS)
	addSource(&s, "rbd", spec.RBD, func(at *field.Path, rbd *corev1.RBDPersistentVolumeSource) field.ErrorList {
		return validateRBD(at, rbd.CephMonitors, rbd.RBDImage)
	})
	addSource(&s, "quobyte", spec.Quobyte, validateQuobyte)
	addSource(&s, "cephfs", spec.CephFS, func(at *field.Path, ceph *corev1.CephFSPersistentVolumeSource) field.ErrorList {
		return rule.If(len(ceph.Monitors) == 0, field.Required(at.Child("monitors"), ""))
	})
	addSource(&s, "iscsi", spec.ISCSI, func(at *field.Path, iscsi *corev1.ISCSIPersistentVolumeSource) field.ErrorList {
		return validateISCSIPersistent(at, name, iscsi)
	})
	addSource(&s, "cinder", spec.Cinder, func(at *field.Path, cinder *corev1.CinderPersistentVolumeSource) field.ErrorList {
		errs := rule.Required(at.Child("volumeID"), cinder.VolumeID)
		if ref := cinder.SecretRef; ref != nil {
			errs = append(errs, rule.Required(at.Child("secretRef", "name"), ref.Name)...)
			errs = append(errs, rule.Required(at.Child("secretRef", "namespace"), ref.Namespace)...)
		}
		return errs
	})
	addSource(&s, "fc", spec.FC, validateFC)
	if flex := spec.FlexVolume; flex != nil { // may be another one, as upstream has it
		s.n++
		s.errs = append(s.errs, validateFlex(at.Child("flexVolume"), flex.Driver, flex.Options)...)
	}
	addSource(&s, "azureFile", spec.AzureFile, func(at *field.Path, file *corev1.AzureFilePersistentVolumeSource) field.ErrorList {
		errs := append(rule.Required(at.Child("secretName"), file.SecretName), rule.Required(at.Child("shareName"), file.ShareName)...)
		if file.SecretNamespace != nil {
			errs = append(errs, rule.Required(at.Child("secretNamespace"), *file.SecretNamespace)...)
		}
		return errs
	})
	addSource(&s, "vsphereVolume", spec.VsphereVolume, validateVsphere)
	addSource(&s, "photonPersistentDisk", spec.PhotonPersistentDisk, validatePhoton)
	addSource(&s, "portworxVolume", spec.PortworxVolume, validatePortworx)
	addSource(&s, "azureDisk", spec.AzureDisk, validateAzureDisk)
	addSource(&s, "scaleIO", spec.ScaleIO, func(at *field.Path, sio *corev1.ScaleIOPersistentVolumeSource) field.ErrorList {
		return validateScaleIO(at, sio.Gateway, sio.System, sio.VolumeName)
	})
	addSource(&s, "local", spec.Local, func(path *field.Path, local *corev1.LocalVolumeSource) field.ErrorList {
		errs := rule.Required(path.Child("path"), local.Path)
		errs = append(errs, validateNoBacksteps(path.Child("path"), local.Path)...)
		return append(errs, rule.If(spec.NodeAffinity == nil, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))...)
	})
	addSource(&s, "storageos", spec.StorageOS, func(at *field.Path, storage *corev1.StorageOSPersistentVolumeSource) field.ErrorList {
		errs := validateStorageOS(at, storage.VolumeName, storage.VolumeNamespace)
		if ref := storage.SecretRef; ref != nil {
			errs = append(errs, rule.Required(at.Child("secretRef", "name"), ref.Name)...)
			errs = append(errs, rule.Required(at.Child("secretRef", "namespace"), ref.Namespace)...)
		}
		return errs
	})
	addSource(&s, "csi", spec.CSI, validateCSIPersistent)
	return s.done()
}

func validateISCSIPersistent(at *field.Path, name string, i *corev1.ISCSIPersistentVolumeSource) field.ErrorList {
	errs := rule.Required(at.Child("targetPortal"), i.TargetPortal)
	errs = append(errs, rule.If(i.InitiatorName != nil && len(name+":"+i.TargetPortal) > 64, field.Invalid(at.Child("targetportal"), i.TargetPortal, iscsiTooLong))...)
	errs = append(errs, validateISCSITarget(at, i.IQN, i.Lun, i.InitiatorName, "must be valid format")...)
	if i.SecretRef == nil {
		return append(errs, rule.If(i.DiscoveryCHAPAuth || i.SessionCHAPAuth, field.Required(at.Child("secretRef"), ""))...)
	}
	return append(errs, rule.Required(at.Child("secretRef", "name"), i.SecretRef.Name)...)
}

func validateCSIPersistent(at *field.Path, csi *corev1.CSIPersistentVolumeSource) field.ErrorList {
	errs := ValidateCSIDriverName(at.Child("driver"), csi.Driver)
	errs = append(errs, rule.Required(at.Child("volumeHandle"), csi.VolumeHandle)...)
	for _, ref := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", csi.ControllerPublishSecretRef},
		{"controllerExpandSecretRef", csi.ControllerExpandSecretRef},
		{"nodePublishSecretRef", csi.NodePublishSecretRef},
		{"nodeExpandSecretRef", csi.NodeExpandSecretRef},
	} {
		if ref.ref != nil {
			errs = append(errs, validateSecretRef(at.Child(ref.name), ref.ref)...)
		}
	}
	return errs
}

func validateSecretRef(at *field.Path, ref *corev1.SecretReference) field.ErrorList {
	errs := rule.Required(at.Child("name"), ref.Name)
	if ref.Name != "" {
		errs = append(errs, rule.DNSSubdomain(at.Child("name"), ref.Name)...)
	}
	if ref.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), ""))
	}
	return append(errs, rule.DNSLabel(at.Child("namespace"), ref.Namespace)...)
}
