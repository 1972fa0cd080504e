// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

func storageClassColumns() []rest.Column[*storagev1.StorageClass] {
	type S = *storagev1.StorageClass
	doc := storagev1.StorageClass{}
	expansion := rest.Bool("AllowVolumeExpansion", rest.Doc(doc, "allowVolumeExpansion"), func(o S) bool { return ptr.Deref(o.AllowVolumeExpansion, false) })
	expansion.Type = "string"
	return []rest.Column[S]{
		rest.Name[S](),
		rest.Text("Provisioner", rest.Doc(doc, "provisioner"), func(o S) string { return o.Provisioner }),
		rest.Text("ReclaimPolicy", rest.Doc(doc, "reclaimPolicy"), func(o S) string { return string(ptr.Deref(o.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)) }),
		rest.Text("VolumeBindingMode", rest.Doc(doc, "volumeBindingMode"), func(o S) string { return string(ptr.Deref(o.VolumeBindingMode, storagev1.VolumeBindingImmediate)) }),
		expansion,
		rest.Age[S](),
	}
}

// defaultClass marks, among all StorageClasses, the one that claims without a class get: the newest of those that say so.
func defaultClass(all []*storagev1.StorageClass) func(*storagev1.StorageClass) string {
	var chosen *storagev1.StorageClass
	for _, c := range all {
		says := c.Annotations[annotationDefault] == "true" || c.Annotations[annotationOldDefault] == "true"
		newer := chosen != nil && (c.CreationTimestamp.After(chosen.CreationTimestamp.Time) ||
			c.CreationTimestamp.Equal(&chosen.CreationTimestamp) && c.Name < chosen.Name)
		if says && (chosen == nil || newer) {
			chosen = c
		}
	}
	return func(c *storagev1.StorageClass) string {
		if chosen != nil && c.Name == chosen.Name {
			return c.Name + " (default)"
		}
		return c.Name
	}
}

const (
	annotationDefault    = "storageclass.kubernetes.io/is-default-class"
	annotationOldDefault = "storageclass.beta.kubernetes.io/is-default-class"
)

func volumeAttributesClassColumns() []rest.Column[*storagev1.VolumeAttributesClass] {
	type V = *storagev1.VolumeAttributesClass
	return []rest.Column[V]{
		rest.Name[V](),
		rest.Text("DriverName", rest.Doc(storagev1.VolumeAttributesClass{}, "driverName"), func(o V) string { return o.DriverName }),
		rest.Age[V](),
	}
}

func volumeAttachmentColumns() []rest.Column[*storagev1.VolumeAttachment] {
	type V = *storagev1.VolumeAttachment
	spec := storagev1.VolumeAttachmentSpec{}
	attacher := rest.Text("Attacher", rest.Doc(spec, "attacher"), func(o V) string { return o.Spec.Attacher })
	attacher.Format = "name"
	return []rest.Column[V]{
		rest.Name[V](),
		attacher,
		rest.Text("PV", rest.Doc(storagev1.VolumeAttachmentSource{}, "persistentVolumeName"), func(o V) string { return ptr.Deref(o.Spec.Source.PersistentVolumeName, "") }),
		rest.Text("Node", rest.Doc(spec, "nodeName"), func(o V) string { return o.Spec.NodeName }),
		rest.Bool("Attached", rest.Doc(storagev1.VolumeAttachmentStatus{}, "attached"), func(o V) bool { return o.Status.Attached }),
		rest.Age[V](),
	}
}

func csiNodeColumns() []rest.Column[*storagev1.CSINode] {
	type C = *storagev1.CSINode
	return []rest.Column[C]{
		rest.Name[C](),
		rest.Number("Drivers", "Drivers indicates the number of CSI drivers registered on the node", func(o C) int { return len(o.Spec.Drivers) }),
		rest.Age[C](),
	}
}

func csiDriverColumns() []rest.Column[*storagev1.CSIDriver] {
	type C = *storagev1.CSIDriver
	spec := storagev1.CSIDriverSpec{}
	return []rest.Column[C]{
		rest.Name[C](),
		rest.Bool("AttachRequired", rest.Doc(spec, "attachRequired"), func(o C) bool { return ptr.Deref(o.Spec.AttachRequired, true) }),
		rest.Bool("PodInfoOnMount", rest.Doc(spec, "podInfoOnMount"), func(o C) bool { return ptr.Deref(o.Spec.PodInfoOnMount, false) }),
		rest.Bool("StorageCapacity", rest.Doc(spec, "storageCapacity"), func(o C) bool { return ptr.Deref(o.Spec.StorageCapacity, false) }),
		rest.Text("TokenRequests", rest.Doc(spec, "tokenRequests"), func(o C) string {
			if o.Spec.TokenRequests == nil {
				return "<unset>"
			}
			var out []string
			for _, t := range o.Spec.TokenRequests {
				out = append(out, t.Audience)
			}
			return strings.Join(out, ",")
		}),
		rest.Bool("RequiresRepublish", rest.Doc(spec, "requiresRepublish"), func(o C) bool { return ptr.Deref(o.Spec.RequiresRepublish, false) }),
		rest.Text("Modes", rest.Doc(spec, "volumeLifecycleModes"), func(o C) string {
			var out []string
			for _, m := range o.Spec.VolumeLifecycleModes {
				out = append(out, string(m))
			}
			return rest.Or(strings.Join(out, ","), "<none>")
		}),
		rest.Age[C](),
	}
}
