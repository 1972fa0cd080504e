// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	badFileMode     = "must be a number between 0 and 0777 (octal), both inclusive"
	badEmptyDirMode = "must be a number between 0 and 01777 (octal), both inclusive"
	hostPortPairs   = "must be a host:port pair or multiple pairs separated by commas"
	iscsiTooLong    = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."
)

// validateVolumes returns the volumes that are right, by name, besides what is wrong with the others.
// meta is that of the pod, or nil in a template.
func validateVolumes(path *field.Path, volumes []corev1.Volume, meta *metav1.ObjectMeta, o Options) (map[string]*corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	created := sets.New[string]() // claims made for ephemeral volumes
	if meta != nil && meta.Name != "" {
		for _, v := range volumes {
			if v.Ephemeral != nil {
				created.Insert(meta.Name + "-" + v.Name)
			}
		}
	}
	valid := make(map[string]*corev1.VolumeSource, len(volumes))
	for i := range volumes {
		v, at := &volumes[i], path.Index(i)
		wrong := validateVolumeSource(at, v, meta, o)
		if v.Name == "" {
			wrong = append(wrong, field.Required(at.Child("name"), ""))
		} else {
			wrong = append(wrong, rule.DNSLabel(at.Child("name"), v.Name)...)
		}
		if _, ok := valid[v.Name]; ok {
			wrong = append(wrong, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(wrong) == 0 {
			valid[v.Name] = &v.VolumeSource
		}
		errs = append(errs, wrong...)
		if pvc := v.PersistentVolumeClaim; pvc != nil && created.Has(pvc.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), pvc.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return valid, errs
}

func validateVolumeSource(path *field.Path, v *corev1.Volume, meta *metav1.ObjectMeta, o Options) field.ErrorList {
	s := sources{path: path, what: "volume"}
	addSource(&s, "emptyDir", v.EmptyDir, validateEmptyDir)
	addSource(&s, "hostPath", v.HostPath, validateHostPath)
	addSource(&s, "gitRepo", v.GitRepo, func(path *field.Path, git *corev1.GitRepoVolumeSource) field.ErrorList {
		return append(rule.Required(path.Child("repository"), git.Repository), validateDescendingPath(path.Child("directory"), git.Directory)...)
	})
	addSource(&s, "gcePersistentDisk", v.GCEPersistentDisk, func(_ *field.Path, disk *corev1.GCEPersistentDiskVolumeSource) field.ErrorList {
		return validateGCEDisk(path.Child("persistentDisk"), disk)
	})
	addSource(&s, "awsElasticBlockStore", v.AWSElasticBlockStore, validateAWSDisk)
	addSource(&s, "secret", v.Secret, func(path *field.Path, secret *corev1.SecretVolumeSource) field.ErrorList {
		errs := rule.Required(path.Child("secretName"), secret.SecretName)
		return append(errs, validateFiles(path, secret.DefaultMode, secret.DefaultUser, secret.Items)...)
	})
	addSource(&s, "nfs", v.NFS, validateNFS)
	addSource(&s, "iscsi", v.ISCSI, func(path *field.Path, iscsi *corev1.ISCSIVolumeSource) field.ErrorList {
		return validateISCSI(path, v.Name, iscsi)
	})
	addSource(&s, "glusterfs", v.Glusterfs, func(path *field.Path, g *corev1.GlusterfsVolumeSource) field.ErrorList {
		return append(rule.Required(path.Child("endpoints"), g.EndpointsName), rule.Required(path.Child("path"), g.Path)...)
	})
	addSource(&s, "flocker", v.Flocker, validateFlocker)
	addSource(&s, "persistentVolumeClaim", v.PersistentVolumeClaim, func(path *field.Path, pvc *corev1.PersistentVolumeClaimVolumeSource) field.ErrorList {
		return rule.Required(path.Child("claimName"), pvc.ClaimName)
	})
	addSource(&s, "rbd", v.RBD, func(path *field.Path, rbd *corev1.RBDVolumeSource) field.ErrorList {
		return validateRBD(path, rbd.CephMonitors, rbd.RBDImage)
	})
	addSource(&s, "cinder", v.Cinder, func(path *field.Path, cinder *corev1.CinderVolumeSource) field.ErrorList {
		return append(rule.Required(path.Child("volumeID"), cinder.VolumeID), validateLocalRef(path, cinder.SecretRef)...)
	})
	addSource(&s, "cephfs", v.CephFS, func(path *field.Path, ceph *corev1.CephFSVolumeSource) field.ErrorList {
		return rule.If(len(ceph.Monitors) == 0, field.Required(path.Child("monitors"), ""))
	})
	addSource(&s, "quobyte", v.Quobyte, validateQuobyte)
	addSource(&s, "downwardAPI", v.DownwardAPI, func(path *field.Path, down *corev1.DownwardAPIVolumeSource) field.ErrorList {
		errs := validateFiles(path, down.DefaultMode, down.DefaultUser, nil)
		for _, file := range down.Items {
			errs = append(errs, validateDownwardFile(path, file)...)
		}
		return errs
	})
	addSource(&s, "fc", v.FC, validateFC)
	addSource(&s, "flexVolume", v.FlexVolume, func(path *field.Path, flex *corev1.FlexVolumeSource) field.ErrorList {
		return validateFlex(path, flex.Driver, flex.Options)
	})
	addSource(&s, "configMap", v.ConfigMap, func(path *field.Path, cm *corev1.ConfigMapVolumeSource) field.ErrorList {
		errs := rule.Required(path.Child("name"), cm.Name)
		return append(errs, validateFiles(path, cm.DefaultMode, cm.DefaultUser, cm.Items)...)
	})
	addSource(&s, "azureFile", v.AzureFile, func(path *field.Path, file *corev1.AzureFileVolumeSource) field.ErrorList {
		return append(rule.Required(path.Child("secretName"), file.SecretName), rule.Required(path.Child("shareName"), file.ShareName)...)
	})
	addSource(&s, "vsphereVolume", v.VsphereVolume, validateVsphere)
	addSource(&s, "photonPersistentDisk", v.PhotonPersistentDisk, validatePhoton)
	addSource(&s, "portworxVolume", v.PortworxVolume, validatePortworx)
	addSource(&s, "azureDisk", v.AzureDisk, validateAzureDisk)
	addSource(&s, "storageos", v.StorageOS, func(path *field.Path, storage *corev1.StorageOSVolumeSource) field.ErrorList {
		errs := validateStorageOS(path, storage.VolumeName, storage.VolumeNamespace)
		return append(errs, validateLocalRef(path, storage.SecretRef)...)
	})
	addSource(&s, "projected", v.Projected, func(path *field.Path, p *corev1.ProjectedVolumeSource) field.ErrorList {
		return append(validateFiles(path, p.DefaultMode, p.DefaultUser, nil), validateProjections(path, p.Sources, o)...)
	})
	addSource(&s, "scaleIO", v.ScaleIO, func(path *field.Path, sio *corev1.ScaleIOVolumeSource) field.ErrorList {
		return validateScaleIO(path, sio.Gateway, sio.System, sio.VolumeName)
	})
	addSource(&s, "csi", v.CSI, func(path *field.Path, csi *corev1.CSIVolumeSource) field.ErrorList {
		errs := ValidateCSIDriverName(path.Child("driver"), csi.Driver)
		if ref := csi.NodePublishSecretRef; ref != nil {
			if ref.Name == "" {
				return append(errs, field.Required(path.Child("nodePublishSecretRef", "name"), ""))
			}
			errs = append(errs, rule.Name(path.Child("name"), ref.Name, apivalidation.NameIsDNSSubdomain)...)
		}
		return errs
	})
	addSource(&s, "ephemeral", v.Ephemeral, func(at *field.Path, e *corev1.EphemeralVolumeSource) field.ErrorList {
		return validateEphemeral(at, e, path.Child("name"), v.Name, meta)
	})
	addSource(&s, "image", v.Image, func(path *field.Path, image *corev1.ImageVolumeSource) field.ErrorList {
		errs := rule.If(image.Reference == "" && !o.EmptyImageReference, field.Required(path.Child("reference"), ""))
		return append(errs, validatePullPolicy(path.Child("pullPolicy"), image.PullPolicy)...)
	})
	return s.done()
}

func validateEmptyDir(path *field.Path, dir *corev1.EmptyDirVolumeSource) field.ErrorList {
	var errs field.ErrorList
	if dir.SizeLimit != nil && dir.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(path.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if dir.Mode != nil && (*dir.Mode > 0o1777 || *dir.Mode < 0) {
		errs = append(errs, field.Invalid(path.Child("mode"), *dir.Mode, badEmptyDirMode))
	}
	return errs
}

func validateHostPath(path *field.Path, host *corev1.HostPathVolumeSource) field.ErrorList {
	if host.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	return append(validateNoBacksteps(path.Child("path"), host.Path), rule.SupportedIfSet(path.Child("type"), host.Type,
		corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
		corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

// validateFiles checks how the keys of an object become files.
func validateFiles(path *field.Path, mode *int32, user *int64, items []corev1.KeyToPath) field.ErrorList {
	errs := validateFileMode(path.Child("defaultMode"), mode)
	errs = append(errs, validateUser(path.Child("defaultUser"), user)...)
	for i, item := range items {
		errs = append(errs, validateKeyToPath(path.Child("items").Index(i), item)...)
	}
	return errs
}

func validateKeyToPath(path *field.Path, item corev1.KeyToPath) field.ErrorList {
	errs := rule.Required(path.Child("key"), item.Key)
	errs = append(errs, rule.Required(path.Child("path"), item.Path)...)
	errs = append(errs, validateFilePath(path.Child("path"), item.Path)...)
	errs = append(errs, validateFileMode(path.Child("mode"), item.Mode)...)
	return append(errs, validateUser(path.Child("user"), item.User)...)
}

func validateFileMode(path *field.Path, mode *int32) field.ErrorList {
	if mode == nil || *mode >= 0 && *mode <= 0o777 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *mode, badFileMode)}
}

func validateUser(path *field.Path, user *int64) field.ErrorList {
	if user == nil {
		return nil
	}
	return rule.Invalid(path, *user, validation.IsValidUserID(*user))
}

// validateDownwardFile checks a file with something of the pod. Errors are at the volume, not at the file.
func validateDownwardFile(path *field.Path, file corev1.DownwardAPIVolumeFile) field.ErrorList {
	errs := rule.Required(path.Child("path"), file.Path)
	errs = append(errs, validateFilePath(path.Child("path"), file.Path)...)
	switch {
	case file.FieldRef != nil:
		errs = append(errs, validateFieldRef(path.Child("fieldRef"), file.FieldRef, fileFields)...)
		errs = append(errs, rule.If(file.ResourceFieldRef != nil,
			field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))...)
	case file.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(path.Child("resourceFieldRef"), file.ResourceFieldRef, true)...)
	default:
		errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
	}
	errs = append(errs, validateFileMode(path.Child("mode"), file.Mode)...)
	return append(errs, validateUser(path.Child("user"), file.User)...)
}

func validateEphemeral(path *field.Path, e *corev1.EphemeralVolumeSource, namePath *field.Path, name string, meta *metav1.ObjectMeta) field.ErrorList {
	var errs field.ErrorList
	if e.VolumeClaimTemplate == nil {
		errs = append(errs, field.Required(path.Child("volumeClaimTemplate"), ""))
	} else {
		errs = append(errs, validateClaimTemplate(path.Child("volumeClaimTemplate"), e.VolumeClaimTemplate)...)
	}
	if meta == nil || meta.Name == "" || name == "" {
		return errs
	}
	claim := meta.Name + "-" + name
	for _, msg := range apivalidation.NameIsDNSSubdomain(claim, false) {
		errs = append(errs, field.Invalid(namePath, name, fmt.Sprintf("PVC name %q: %v", claim, msg)))
	}
	return errs
}

// Paths inside a volume.

func validateNoBacksteps(at *field.Path, p string) field.ErrorList {
	return rule.If(slices.Contains(strings.Split(p, "/"), ".."), field.Invalid(at, p, "must not contain '..'"))
}

func validateDescendingPath(at *field.Path, p string) field.ErrorList {
	return append(rule.If(path.IsAbs(p), field.Invalid(at, p, "must be a relative path")), validateNoBacksteps(at, p)...)
}

// validateFilePath: names that begin with two dots belong to the kubelet, which swaps directories by them.
func validateFilePath(at *field.Path, p string) field.ErrorList {
	errs := validateDescendingPath(at, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

// Sources that pods and PersistentVolumes describe alike.

func validateGCEDisk(path *field.Path, disk *corev1.GCEPersistentDiskVolumeSource) field.ErrorList {
	return append(rule.Required(path.Child("pdName"), disk.PDName), validatePartition(path, disk.Partition)...)
}

func validateAWSDisk(path *field.Path, disk *corev1.AWSElasticBlockStoreVolumeSource) field.ErrorList {
	return append(rule.Required(path.Child("volumeID"), disk.VolumeID), validatePartition(path, disk.Partition)...)
}

func validatePartition(path *field.Path, n int32) field.ErrorList {
	return rule.If(n < 0 || n > 255, field.Invalid(path.Child("partition"), n, validation.InclusiveRangeError(1, 255)))
}

func validateNFS(at *field.Path, nfs *corev1.NFSVolumeSource) field.ErrorList {
	errs := rule.Required(at.Child("server"), nfs.Server)
	errs = append(errs, rule.Required(at.Child("path"), nfs.Path)...)
	return append(errs, rule.If(!path.IsAbs(nfs.Path), field.Invalid(at.Child("path"), nfs.Path, "must be an absolute path"))...)
}

func validateFlocker(path *field.Path, f *corev1.FlockerVolumeSource) field.ErrorList {
	var errs field.ErrorList
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		errs = append(errs, field.Required(path, "one of datasetName and datasetUUID is required"))
	case f.DatasetName != "" && f.DatasetUUID != "":
		errs = append(errs, field.Invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	return append(errs, rule.If(strings.Contains(f.DatasetName, "/"), field.Invalid(path.Child("datasetName"), f.DatasetName, "must not contain '/'"))...)
}

func validateRBD(path *field.Path, monitors []string, image string) field.ErrorList {
	return append(rule.If(len(monitors) == 0, field.Required(path.Child("monitors"), "")), rule.Required(path.Child("image"), image)...)
}

func validateQuobyte(path *field.Path, q *corev1.QuobyteVolumeSource) field.ErrorList {
	var errs field.ErrorList
	switch {
	case q.Registry == "":
		errs = append(errs, field.Required(path.Child("registry"), hostPortPairs))
	case len(q.Tenant) > 64:
		errs = append(errs, field.Required(path.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for _, pair := range strings.Split(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(path.Child("registry"), q.Registry, hostPortPairs))
			}
		}
	}
	return append(errs, rule.Required(path.Child("volume"), q.Volume)...)
}

func validateFC(path *field.Path, fc *corev1.FCVolumeSource) field.ErrorList {
	var errs field.ErrorList
	names, ids := len(fc.TargetWWNs) > 0, len(fc.WWIDs) > 0
	switch {
	case !names && !ids:
		errs = append(errs, field.Required(path.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case names && ids:
		errs = append(errs, field.Invalid(path.Child("targetWWNs"), fc.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	switch {
	case names && fc.Lun == nil:
		errs = append(errs, field.Required(path.Child("lun"), "lun is required if targetWWNs is specified"))
	case names:
		errs = append(errs, rule.Range(path.Child("lun"), *fc.Lun, 0, 255)...)
	}
	return errs
}

func validateFlex(path *field.Path, driver string, options map[string]string) field.ErrorList {
	errs := rule.Required(path.Child("driver"), driver)
	for _, key := range sets.List(sets.KeySet(options)) {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(path.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func validateVsphere(path *field.Path, v *corev1.VsphereVirtualDiskVolumeSource) field.ErrorList {
	return rule.Required(path.Child("volumePath"), v.VolumePath)
}

func validatePhoton(path *field.Path, p *corev1.PhotonPersistentDiskVolumeSource) field.ErrorList {
	return rule.Required(path.Child("pdID"), p.PdID)
}

func validatePortworx(path *field.Path, p *corev1.PortworxVolumeSource) field.ErrorList {
	return rule.Required(path.Child("volumeID"), p.VolumeID)
}

func validateAzureDisk(path *field.Path, disk *corev1.AzureDiskVolumeSource) field.ErrorList {
	errs := rule.Required(path.Child("diskName"), disk.DiskName)
	errs = append(errs, rule.Required(path.Child("diskURI"), disk.DataDiskURI)...)
	errs = append(errs, rule.SupportedIfSet(path.Child("cachingMode"), disk.CachingMode,
		corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	errs = append(errs, rule.SupportedIfSet(path.Child("kind"), disk.Kind,
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	if disk.Kind == nil {
		return errs
	}
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *disk.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	return append(errs, rule.If(!strings.HasPrefix(disk.DataDiskURI, prefix),
		field.NotSupported(path.Child("diskURI"), disk.DataDiskURI, []string{form}))...)
}

func validateStorageOS(path *field.Path, name, namespace string) field.ErrorList {
	errs := rule.Required(path.Child("volumeName"), name)
	if name != "" {
		errs = rule.DNSLabel(path.Child("volumeName"), name)
	}
	if namespace != "" {
		errs = append(errs, rule.DNSLabel(path.Child("volumeNamespace"), namespace)...)
	}
	return errs
}

func validateScaleIO(path *field.Path, gateway, system, volume string) field.ErrorList {
	errs := rule.Required(path.Child("gateway"), gateway)
	errs = append(errs, rule.Required(path.Child("system"), system)...)
	return append(errs, rule.Required(path.Child("volumeName"), volume)...)
}

func validateLocalRef(path *field.Path, ref *corev1.LocalObjectReference) field.ErrorList {
	if ref == nil {
		return nil
	}
	return rule.Required(path.Child("secretRef", "name"), ref.Name)
}

// ValidateCSIDriverName checks the name of a CSI driver.
func ValidateCSIDriverName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := rule.If(len(name) > 63, field.TooLong(path, "", 63))
	return append(errs, rule.Invalid(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func validateISCSI(path *field.Path, name string, i *corev1.ISCSIVolumeSource) field.ErrorList {
	errs := rule.Required(path.Child("targetPortal"), i.TargetPortal)
	errs = append(errs, validateISCSITarget(path, i.IQN, i.Lun, i.InitiatorName, "must be valid format starting with iqn, eui, or naa")...)
	if (i.DiscoveryCHAPAuth || i.SessionCHAPAuth) && i.SecretRef == nil {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if i.InitiatorName != nil && len(name+":"+i.TargetPortal) > 64 {
		errs = append(errs, field.Invalid(path.Child("name"), name, iscsiTooLong))
	}
	return errs
}

// Names that initiators and targets of iSCSI may have, by their first three letters.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func validateISCSITarget(path *field.Path, iqn string, lun int32, initiator *string, unknownKind string) field.ErrorList {
	errs := rule.Required(path.Child("iqn"), iqn)
	if iqn != "" {
		errs = append(errs, validateISCSIName(path.Child("iqn"), iqn, unknownKind)...)
	}
	errs = append(errs, rule.Range(path.Child("lun"), lun, 0, 255)...)
	if initiator != nil {
		errs = append(errs, validateISCSIName(path.Child("initiatorname"), *initiator, unknownKind)...)
	}
	return errs
}

func validateISCSIName(path *field.Path, name, unknownKind string) field.ErrorList {
	form, ok := iscsiNames[name[:min(3, len(name))]]
	switch {
	case !ok:
		return field.ErrorList{field.Invalid(path, name, unknownKind)}
	case !form.MatchString(name):
		return field.ErrorList{field.Invalid(path, name, "must be valid format")}
	}
	return nil
}
