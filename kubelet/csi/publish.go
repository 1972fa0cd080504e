// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// nodeIDs is the annotation of a Node that says what drivers call it.
const nodeIDs = "csi.volume.kubernetes.io/nodeid"

// publish says in the API what a driver calls this node and how many volumes it can have.
func (d *Drivers) publish(ctx context.Context, driver string, info *csi.NodeGetInfoResponse) error {
	if info.GetNodeId() == "" {
		return fmt.Errorf("error adding CSI driver node info: driverNodeID must not be empty")
	}
	d.publishing.Lock()
	defer d.publishing.Unlock()
	topology := info.GetAccessibleTopology().GetSegments()
	node, err := d.changeNode(ctx, func(node *corev1.Node) error {
		for k, v := range topology {
			if has, ok := node.Labels[k]; ok && has != v {
				return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", k, v, k, has)
			}
			metav1.SetMetaDataLabel(&node.ObjectMeta, k, v)
		}
		return setNodeID(node, driver, info.GetNodeId())
	})
	if err != nil {
		return err
	}
	entry := storagev1.CSINodeDriver{Name: driver, NodeID: info.GetNodeId(), TopologyKeys: slices.Sorted(maps.Keys(topology))}
	if limit := info.GetMaxVolumesPerNode(); limit > 0 {
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To(int32(min(limit, math.MaxInt32)))}
	}
	if err := d.changeCSINode(ctx, node, func(have []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		return withoutOther(have, entry)
	}); err != nil {
		return err
	}
	return d.changeCSINode(ctx, node, func(have []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		return with(have, entry)
	})
}

// withoutOther drops what a driver said before, if it was something else: but for the number of volumes, an entry
// cannot be changed.
func withoutOther(drivers []storagev1.CSINodeDriver, entry storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
	return slices.DeleteFunc(slices.Clone(drivers), func(d storagev1.CSINodeDriver) bool {
		return d.Name == entry.Name && (d.NodeID != entry.NodeID || !slices.Equal(d.TopologyKeys, entry.TopologyKeys))
	})
}

func with(drivers []storagev1.CSINodeDriver, entry storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
	drivers = slices.Clone(drivers)
	if i := slices.IndexFunc(drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == entry.Name }); i >= 0 {
		drivers[i] = entry
		return drivers
	}
	return append(drivers, entry)
}

// unpublish takes back what publish said, but for the labels: other volumes may need them.
func (d *Drivers) unpublish(ctx context.Context, driver string) error {
	d.publishing.Lock()
	defer d.publishing.Unlock()
	node, err := d.changeNode(ctx, func(node *corev1.Node) error { return setNodeID(node, driver, "") })
	if err != nil {
		return err
	}
	return d.changeCSINode(ctx, node, func(have []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		return without(have, driver)
	})
}

func without(drivers []storagev1.CSINodeDriver, name string) []storagev1.CSINodeDriver {
	return slices.DeleteFunc(slices.Clone(drivers), func(d storagev1.CSINodeDriver) bool { return d.Name == name })
}

// setNodeID notes what a driver calls the node; nothing removes the note.
func setNodeID(node *corev1.Node, driver, id string) error {
	ids := map[string]string{}
	if text := node.Annotations[nodeIDs]; text != "" {
		if err := json.Unmarshal([]byte(text), &ids); err != nil {
			return fmt.Errorf("failed to parse node's %q annotation value (%q): %w", nodeIDs, text, err)
		}
	}
	if ids[driver] = id; id == "" {
		delete(ids, driver)
	}
	if len(ids) == 0 {
		delete(node.Annotations, nodeIDs)
		return nil
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	metav1.SetMetaDataAnnotation(&node.ObjectMeta, nodeIDs, string(text))
	return nil
}

// changeNode changes labels and annotations of the Node.
func (d *Drivers) changeNode(ctx context.Context, change func(*corev1.Node) error) (*corev1.Node, error) {
	old, err := d.client.CoreV1().Nodes().Get(ctx, d.nodeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("error updating Node object with CSI driver node info: %w", err)
	}
	node := old.DeepCopy()
	if err := change(node); err != nil {
		return nil, fmt.Errorf("error updating Node object with CSI driver node info: %w", err)
	}
	metadata := map[string]any{}
	if diff := difference(old.Annotations, node.Annotations); len(diff) > 0 {
		metadata["annotations"] = diff
	}
	if diff := difference(old.Labels, node.Labels); len(diff) > 0 {
		metadata["labels"] = diff
	}
	if len(metadata) == 0 {
		return old, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err == nil {
		node, err = d.client.CoreV1().Nodes().Patch(ctx, d.nodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		return nil, fmt.Errorf("error updating Node object with CSI driver node info: %w", err)
	}
	return node, nil
}

// difference is a merge patch from old to new.
func difference(old, new map[string]string) map[string]any {
	diff := map[string]any{}
	for k, v := range new {
		if has, ok := old[k]; !ok || has != v {
			diff[k] = v
		}
	}
	for k := range old {
		if _, ok := new[k]; !ok {
			diff[k] = nil
		}
	}
	return diff
}

// changeCSINode changes the drivers of the CSINode object, which it makes if there is none.
func (d *Drivers) changeCSINode(ctx context.Context, node *corev1.Node, change func([]storagev1.CSINodeDriver) []storagev1.CSINodeDriver) error {
	client := d.client.StorageV1().CSINodes()
	again := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(retry.DefaultBackoff, again, func() error {
		have, err := client.Get(ctx, d.nodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			fresh := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{
				Name:            d.nodeName,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
			}}
			fresh.Spec.Drivers = change(nil)
			_, err = client.Create(ctx, fresh, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		drivers := change(have.Spec.Drivers)
		if apiequality.Semantic.DeepEqual(drivers, have.Spec.Drivers) {
			return nil
		}
		have.Spec.Drivers = drivers
		_, err = client.Update(ctx, have, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("error updating CSINode object with CSI driver node info: %w", err)
	}
	return nil
}
