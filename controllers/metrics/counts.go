// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-base/metrics"
	storagehelper "k8s.io/component-helpers/storage/volume"
	claimmetrics "k8s.io/dynamic-resource-allocation/resourceclaim/metrics"
	"k8s.io/utils/ptr"
)

// Counts are objects that are counted when somebody asks for the metrics. What is nil is not counted.
type Counts struct {
	metrics.BaseStableCollector

	Volumes        func() []*corev1.PersistentVolume
	Claims         func() []*corev1.PersistentVolumeClaim
	ResourceClaims func() []*resourcev1.ResourceClaim
	Attachments    *Attachments
}

// Attachment is a volume of a CSI driver on a node.
type Attachment struct{ Node, Driver string }

var (
	allVolumes     = desc("pv_collector", "total_pv_count", "PersistentVolumes that there are.", "plugin_name", "volume_mode")
	boundVolumes   = desc("pv_collector", "bound_pv_count", "PersistentVolumes that a claim has.", "storage_class")
	unboundVolumes = desc("pv_collector", "unbound_pv_count", "PersistentVolumes that no claim has.", "storage_class")
	boundClaims    = desc("pv_collector", "bound_pvc_count", "PersistentVolumeClaims that have a volume.", "namespace", "storage_class", "volume_attributes_class")
	unboundClaims  = desc("pv_collector", "unbound_pvc_count", "PersistentVolumeClaims that have no volume.", "namespace", "storage_class", "volume_attributes_class")
	volumesInUse   = desc("storage_count", "attachable_volumes_in_use", "Volumes that pods need attached to a node.", "node", "volume_plugin")
	totalVolumes   = desc("attachdetach_controller", "total_volumes", "Volumes that should be, and that are attached to nodes.", "plugin_name", "state")
	resourceClaims = desc("dynamic_resource_allocation", "resource_claims", "ResourceClaims that there are, by whether they are allocated and where they come from.", "allocated", "admin_access", "source")
)

func desc(subsystem, name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc(metrics.BuildFQName("", subsystem, name), help, labels, nil, metrics.ALPHA, "")
}

func (c *Counts) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{
		allVolumes, boundVolumes, unboundVolumes, boundClaims, unboundClaims, volumesInUse, totalVolumes, resourceClaims,
	} {
		ch <- d
	}
}

func (c *Counts) CollectWithStability(ch chan<- metrics.Metric) {
	t := tally{}
	if c.Volumes != nil {
		for _, pv := range c.Volumes() {
			t.volume(pv)
		}
	}
	if c.Claims != nil {
		for _, claim := range c.Claims() {
			t.claim(claim)
		}
	}
	if c.ResourceClaims != nil {
		for _, claim := range c.ResourceClaims() {
			t.resourceClaim(claim)
		}
	}
	if c.Attachments.List != nil {
		needed, attached := c.Attachments.List()
		for _, a := range needed {
			t.add(volumesInUse, a.Node, csiPlugin(a.Driver))
			t.add(totalVolumes, csiPlugin(a.Driver), "desired_state_of_world")
		}
		for _, a := range attached {
			t.add(totalVolumes, csiPlugin(a.Driver), "actual_state_of_world")
		}
	}
	for what, n := range t {
		ch <- metrics.NewLazyConstMetric(what.desc, metrics.GaugeValue, float64(n), what.labels[:what.n]...)
	}
}

// tally counts what has the same labels.
type tally map[counted]int

type counted struct {
	desc   *metrics.Desc
	labels [3]string
	n      int // how many labels there are
}

func (t tally) add(d *metrics.Desc, labels ...string) {
	what := counted{desc: d, n: len(labels)}
	copy(what.labels[:], labels)
	t[what]++
}

func (t tally) volume(pv *corev1.PersistentVolume) {
	t.add(allVolumes, pluginOf(pv), string(ptr.Deref(pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)))
	if pv.Status.Phase == corev1.VolumeBound {
		t.add(boundVolumes, pv.Spec.StorageClassName)
	} else {
		t.add(unboundVolumes, pv.Spec.StorageClassName)
	}
}

func (t tally) claim(claim *corev1.PersistentVolumeClaim) {
	d := unboundClaims
	if claim.Status.Phase == corev1.ClaimBound {
		d = boundClaims
	}
	t.add(d, claim.Namespace, storagehelper.GetPersistentVolumeClaimClass(claim), ptr.Deref(claim.Spec.VolumeAttributesClassName, ""))
}

func (t tally) resourceClaim(claim *resourcev1.ResourceClaim) {
	source := ""
	switch {
	case claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true":
		source = "extended_resource"
	case claim.Annotations[resourcev1.PodResourceClaimAnnotation] != "":
		source = "resource_claim_template"
	}
	t.add(resourceClaims, strconv.FormatBool(claim.Status.Allocation != nil), strconv.FormatBool(adminAccess(claim)), source)
}

func adminAccess(claim *resourcev1.ResourceClaim) bool {
	for _, request := range claim.Spec.Devices.Requests {
		if request.Exactly != nil && ptr.Deref(request.Exactly.AdminAccess, false) {
			return true
		}
	}
	return false
}

// ClaimCreated notes that a ResourceClaim was made for the object that is to have it, or could not be made.
func ClaimCreated(claim *resourcev1.ResourceClaim, err error) {
	status, group, kind := "success", "", ""
	if err != nil {
		status = "failure"
	}
	if owner := metav1.GetControllerOfNoCopy(claim); owner != nil {
		group, kind = schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).Group, owner.Kind
	}
	claimmetrics.ResourceClaimCreate.WithLabelValues(status, strconv.FormatBool(adminAccess(claim)), group, kind).Inc()
}

func csiPlugin(driver string) string { return "kubernetes.io/csi:" + driver }

// pluginOf is what upstream calls the kind of a volume.
func pluginOf(pv *corev1.PersistentVolume) string {
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.CSI != nil:
		return csiPlugin(s.CSI.Driver)
	case s.HostPath != nil:
		return "kubernetes.io/host-path"
	case s.Local != nil:
		return "kubernetes.io/local-volume"
	case s.NFS != nil:
		return "kubernetes.io/nfs"
	case s.ISCSI != nil:
		return "kubernetes.io/iscsi"
	case s.FC != nil:
		return "kubernetes.io/fc"
	}
	return "N/A"
}
