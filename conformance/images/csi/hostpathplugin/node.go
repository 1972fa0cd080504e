// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	can := []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	if d.nodeExpand {
		can = append(can, csi.NodeServiceCapability_RPC_EXPAND_VOLUME)
	}
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range can {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	r := &csi.NodeGetInfoResponse{NodeId: d.node, MaxVolumesPerNode: d.maxVolumes}
	for _, place := range d.place() {
		r.AccessibleTopology = place
	}
	return r, nil
}

func (d *driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	switch path := r.GetStagingTargetPath(); {
	case path == "" || r.GetVolumeCapability() == nil:
		return nil, status.Error(codes.InvalidArgument, "a path or the capability is missing")
	case d.attach && !v.Attached:
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not attached", v.ID)
	case v.Staged != "" && v.Staged != path:
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is staged at %s", v.ID, v.Staged)
	default:
		v.Staged = path
		return &csi.NodeStageVolumeResponse{}, nil
	}
}

func (d *driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if len(v.Published) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is published", v.ID)
	}
	if v.Staged == r.GetStagingTargetPath() {
		v.Staged = ""
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	path := r.GetTargetPath()
	if path == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "a path or the capability is missing")
	}
	v, err := d.published(r)
	if err != nil {
		return nil, err
	}
	if v.Published[path] {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if len(v.Published) > 0 && r.GetVolumeCapability().GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is for one writer, and is published", v.ID)
	}
	if err := d.mount(v, path, r.GetReadonly()); err != nil {
		return nil, status.Errorf(codes.Internal, "publish volume %s: %v", v.ID, err)
	}
	v.Published[path] = true
	return &csi.NodePublishVolumeResponse{}, nil
}

// published is the volume that is to be published. One that is a pod's own comes to be here.
func (d *driver) published(r *csi.NodePublishVolumeRequest) (*volume, error) {
	v, err := d.volume(r.GetVolumeId())
	if status.Code(err) == codes.NotFound && r.GetVolumeContext()["csi.storage.k8s.io/ephemeral"] == "true" {
		v = &volume{ID: r.GetVolumeId(), Name: "ephemeral-" + r.GetVolumeId(), Size: maxSize, Ephemeral: true, Published: map[string]bool{}}
		if r.GetVolumeCapability().GetMount() == nil {
			return nil, status.Error(codes.InvalidArgument, "a volume of a pod is a file system")
		}
		if err := d.create(v, ""); err != nil {
			return nil, status.Errorf(codes.Internal, "create volume %s: %v", v.ID, err)
		}
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	if !v.Ephemeral && (v.Staged == "" || v.Staged != r.GetStagingTargetPath()) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is staged at %q", v.ID, v.Staged)
	}
	if v.Block != (r.GetVolumeCapability().GetBlock() != nil) {
		return nil, status.Errorf(codes.InvalidArgument, "volume %s has the other mode", v.ID)
	}
	return v, nil
}

// mount makes a volume visible at path.
func (d *driver) mount(v *volume, path string, readOnly bool) error {
	source := d.path(v.ID)
	if v.Block {
		if v.Device == "" {
			device, err := attachLoop(source)
			if err != nil {
				return err
			}
			v.Device = device
		}
		source = v.Device
	}
	if err := makeTarget(path, v.Block); err != nil {
		return err
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("mount %s at %s: %w", source, path, err), d.release(v))
	}
	if readOnly {
		if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return errors.Join(fmt.Errorf("make %s read-only: %w", path, err), unix.Unmount(path, 0), d.release(v))
		}
	}
	return nil
}

func makeTarget(path string, file bool) error {
	if !file {
		return os.MkdirAll(path, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// release gives the loop device back that nobody needs any more.
func (d *driver) release(v *volume) error {
	if v.Device == "" || len(v.Published) > 0 {
		return nil
	}
	if err := detachLoop(v.Device, d.path(v.ID)); err != nil {
		return err
	}
	v.Device = ""
	return nil
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	path := r.GetTargetPath()
	if path == "" {
		return nil, status.Error(codes.InvalidArgument, "a path is missing")
	}
	if err := unmount(path); err != nil {
		return nil, status.Errorf(codes.Internal, "unpublish volume %s: %v", v.ID, err)
	}
	delete(v.Published, path)
	if err := d.release(v); err != nil {
		return nil, status.Errorf(codes.Internal, "unpublish volume %s: %v", v.ID, err)
	}
	if v.Ephemeral && len(v.Published) == 0 {
		if err := d.remove(v); err != nil {
			return nil, status.Errorf(codes.Internal, "delete volume %s: %v", v.ID, err)
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// unmount takes away a mount and its target, or what there is of them.
func unmount(path string) error {
	if err := unix.Unmount(path, 0); err != nil && !slices.Contains([]error{unix.EINVAL, unix.ENOENT}, err) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.RemoveAll(path)
}

func (d *driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.GetVolumePath()); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %s is not at %q: %v", v.ID, r.GetVolumePath(), err)
	}
	if err := d.expand(v, r.GetCapacityRange().GetRequiredBytes()); err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.Size}, nil
}

func (d *driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if v.Block {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: v.Size}}}, nil
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(r.GetVolumePath(), &stat); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %s is not at %q: %v", v.ID, r.GetVolumePath(), err)
	}
	size := uint64(stat.Bsize)
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(stat.Blocks * size), Available: int64(stat.Bavail * size), Used: int64((stat.Blocks - stat.Bfree) * size)},
		{Unit: csi.VolumeUsage_INODES, Total: int64(stat.Files), Available: int64(stat.Ffree), Used: int64(stat.Files - stat.Ffree)},
	}}, nil
}
