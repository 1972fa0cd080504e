// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is one kind of volume.
type plugin interface {
	// name is the plugin's name in directories and events: kubernetes.io/empty-dir.
	name() string
	// supports says whether v is of this kind.
	supports(v *volume) bool
	// setUp makes v available. It finds what an earlier process made; if the volume follows the API,
	// it is called again and again. What it makes belongs below v.dir: it is
	// unmounted and removed with the pod.
	setUp(ctx context.Context, v *volume) (mounted, error)
}

// allPlugins is the list of kinds. The first that supports a volume has it.
func (m *Manager) allPlugins() []plugin {
	return []plugin{
		emptyDir{m},
		hostPath{},
		configMap{m},
		secret{m},
		downwardAPI{m},
		projected{m},
		image{m},
		local{m},
		nfs{},
		m.csi,
	}
}

// volume is a volume of a pod, with the claim behind it resolved.
type volume struct {
	pod      *corev1.Pod
	source   *corev1.Volume                // as the pod has it
	claim    *corev1.PersistentVolumeClaim // behind source, if it is a claim
	pv       *corev1.PersistentVolume      // the claim's volume
	readOnly bool                          // asked for by the claim's source
	dir      string                        // where a plugin may put it
	again    bool                          // this process has set it up before
	had      resource.Quantity             // then: how large it was
}

// specName is the name in paths and messages: the claim's volume, or the pod's own name for it.
func (v *volume) specName() string {
	if v.pv != nil {
		return v.pv.Name
	}
	return v.source.Name
}

// fsGroup is the group that shall own the volume, or nil.
func (v *volume) fsGroup() *int64 {
	if v.pod.Spec.SecurityContext == nil {
		return nil
	}
	return v.pod.Spec.SecurityContext.FSGroup
}

// mounted is a volume that containers can have.
type mounted struct {
	kind     string                // see kindOf
	pv       string                // the PersistentVolume's name, if it is one
	name     string                // specName, for its subPath mounts
	path     string                // on this node
	device   bool                  // path is a block device
	image    *runtimeapi.ImageSpec // or else an image that the runtime mounts
	readOnly bool                  // whatever the container says
	follows  bool                  // the API: each SetUp looks for changes
	csi      *csiSource            // what a driver has published
	size     resource.Quantity     // of the claim's volume when it was set up
}

// kindOf is what metrics call the volumes of a plugin. There is one kind for each CSI driver.
func kindOf(p plugin, v *volume) string {
	switch {
	case v.pv != nil && v.pv.Spec.CSI != nil:
		return p.name() + ":" + v.pv.Spec.CSI.Driver
	case v.source.CSI != nil:
		return p.name() + ":" + v.source.CSI.Driver
	}
	return p.name()
}

// escape makes a plugin's name a directory's.
func escape(plugin string) string { return strings.ReplaceAll(plugin, "/", "~") }
