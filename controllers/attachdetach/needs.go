// SPDX-License-Identifier: Apache-2.0

package attachdetach

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// need is a volume that should be attached to a node.
type need struct {
	volume *corev1.PersistentVolume
	pods   []*corev1.Pod // that use it there
}

// unique is what nodes' statuses call a volume.
func unique(s *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + s.Driver + "^" + s.VolumeHandle)
}

// attachmentName is what drivers' attachers and kubelets expect an attachment to be called.
func attachmentName(s *corev1.CSIPersistentVolumeSource, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(s.VolumeHandle+s.Driver+node)))
}

// needs finds the volumes that the pods of a node need attached, by the name of the attachment.
func (c *controller) needs(node string) (map[string]need, error) {
	pods, err := podcontrol.ByNode(c.pods, node)
	if err != nil {
		return nil, err
	}
	needs := map[string]need{}
	for _, pod := range pods {
		if ended(pod) {
			continue
		}
		for key := range podcontrol.Claims(pod) {
			if pv := c.attachable(key); pv != nil {
				name := attachmentName(pv.Spec.CSI, node)
				needs[name] = need{volume: pv, pods: append(needs[name].pods, pod)}
			}
		}
	}
	return needs, nil
}

// ended tells whether the pod's containers have ended for good.
func ended(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	return pod.DeletionTimestamp != nil && !slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Terminated == nil && s.State.Waiting == nil
	})
}

// attachable returns the volume of a claim if somebody has to attach it.
func (c *controller) attachable(claim types.NamespacedName) *corev1.PersistentVolume {
	pvc, err := c.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
	if err != nil || pvc.Status.Phase != corev1.ClaimBound {
		return nil
	}
	pv, err := c.volumes.Get(pvc.Spec.VolumeName)
	if err != nil || pv.Spec.CSI == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != pvc.UID {
		return nil
	}
	driver, err := c.drivers.Get(pv.Spec.CSI.Driver)
	if err == nil && !ptr.Deref(driver.Spec.AttachRequired, true) {
		return nil
	}
	return pv
}

// elsewhere names another node that has the volume, if the volume can be on one only.
func (c *controller) elsewhere(pv *corev1.PersistentVolume, node string) string {
	if slices.Contains(pv.Spec.AccessModes, corev1.ReadWriteMany) || slices.Contains(pv.Spec.AccessModes, corev1.ReadOnlyMany) {
		return ""
	}
	objs, _ := c.attachments.ByIndex(volumeIndex, pv.Name) // the index exists
	for _, obj := range objs {
		if a := obj.(*storagev1.VolumeAttachment); a.Spec.NodeName != node {
			return a.Spec.NodeName
		}
	}
	return ""
}

// whoHas says who has a volume on another node, without the names of pods in other namespaces.
func (c *controller) whoHas(pv *corev1.PersistentVolume, node, namespace string) string {
	needs, err := c.needs(node)
	if err != nil || len(needs[attachmentName(pv.Spec.CSI, node)].pods) == 0 {
		return "Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node"
	}
	var names []string
	others := 0
	for _, pod := range needs[attachmentName(pv.Spec.CSI, node)].pods {
		if pod.Namespace == namespace {
			names = append(names, pod.Name)
		} else {
			others++
		}
	}
	switch {
	case len(names) == 0:
		return fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", others)
	case others > 0:
		return fmt.Sprintf("Volume is already used by pod(s) %s and %d pod(s) in different namespaces", strings.Join(names, ", "), others)
	}
	return "Volume is already used by pod(s) " + strings.Join(names, ", ")
}

// list lists what should be attached, and what is, for the metrics.
func (c *controller) list() (needed, attached []metrics.Attachment) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, nil
	}
	for _, node := range nodes {
		needs, err := c.needs(node.Name)
		if err != nil {
			continue
		}
		for _, n := range needs {
			needed = append(needed, metrics.Attachment{Node: node.Name, Driver: n.volume.Spec.CSI.Driver})
		}
	}
	for _, obj := range c.attachments.List() {
		if a := obj.(*storagev1.VolumeAttachment); a.Status.Attached {
			attached = append(attached, metrics.Attachment{Node: a.Spec.NodeName, Driver: a.Spec.Attacher})
		}
	}
	return needed, attached
}
