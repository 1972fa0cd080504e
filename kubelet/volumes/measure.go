// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/csi"
	"github.com/skiff-k8s/skiff/kubelet/diskusage"
)

// Measure tells how full a pod's volume is: what its CSI driver says, or else its file system. Of a block device it is known how large it is.
func (m *Manager) Measure(ctx context.Context, pod types.UID, name string) (diskusage.FileSystem, error) {
	m.mu.Lock()
	v, there := m.pods[pod][name]
	m.mu.Unlock()
	if !there {
		return diskusage.FileSystem{}, fmt.Errorf("pod %s has no volume %q", pod, name)
	}
	switch {
	case v.csi == nil && v.device:
		return ofDevice(v.path)
	case v.csi == nil:
		return m.disks.OfFileSystem(ctx, v.path)
	}
	driver, err := m.csi.driver(v.csi.driver)
	if err != nil {
		return diskusage.FileSystem{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, csi.Timeout)
	defer cancel()
	can, err := driver.Has(ctx, csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS)
	if err == nil && !can {
		err = fmt.Errorf("CSI driver %s does not tell how full its volumes are", v.csi.driver)
	}
	if err != nil {
		return diskusage.FileSystem{}, err
	}
	response, err := driver.NodeGetVolumeStats(ctx, &csipb.NodeGetVolumeStatsRequest{VolumeId: v.csi.handle, VolumePath: v.path})
	if err != nil {
		return diskusage.FileSystem{}, err
	}
	var f diskusage.FileSystem
	for _, u := range response.GetUsage() {
		total, used, free := uint64(max(u.GetTotal(), 0)), uint64(max(u.GetUsed(), 0)), uint64(max(u.GetAvailable(), 0))
		switch u.GetUnit() {
		case csipb.VolumeUsage_BYTES:
			f.Capacity, f.Used, f.Available = total, used, free
		case csipb.VolumeUsage_INODES:
			f.Inodes, f.InodesUsed, f.InodesFree = total, used, free
		}
	}
	return f, nil
}

func ofDevice(path string) (diskusage.FileSystem, error) {
	f, err := os.Open(path)
	if err != nil {
		return diskusage.FileSystem{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	return diskusage.FileSystem{Capacity: uint64(size)}, err
}

// measure tells of a volume that was made, or could not be; bringing one up to date is none of that.
func (m *Manager) measure(kind string, v *volume, began time.Time, err error) {
	if v.again || m.cfg.Measured == nil {
		return
	}
	operation := "volume_mount"
	if v.pv != nil && isBlock(v.pv) {
		operation = "map_volume"
	}
	m.cfg.Measured(kind, operation, began, err)
}

// Totals counts by kind the volumes that pods are to have, and those of them that they have.
func (m *Manager) Totals() (wanted, present map[string]int) {
	wanted, present = map[string]int{}, map[string]int{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, volumes := range m.pods {
		for _, v := range volumes {
			wanted[v.kind]++
			present[v.kind]++
		}
	}
	for _, kinds := range m.lacking {
		for _, kind := range kinds {
			wanted[kind]++
		}
	}
	return wanted, present
}
