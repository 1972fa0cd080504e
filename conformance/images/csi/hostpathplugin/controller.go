// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxSize is that of the largest volume.
const maxSize = 1 << 40

const topologyKey = "topology.hostpath.csi/node"

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	can := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	for _, optional := range []struct {
		on  bool
		can csi.ControllerServiceCapability_RPC_Type
	}{
		{d.attach, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME},
		{d.controllerExpand, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME},
		{d.modify, csi.ControllerServiceCapability_RPC_MODIFY_VOLUME},
	} {
		if optional.on {
			can = append(can, optional.can)
		}
	}
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range can {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	block, err := blockAccess(r.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	if r.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "a name is missing")
	}
	size, limit := r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes()
	if size > maxSize || limit > 0 && size > limit {
		return nil, status.Errorf(codes.OutOfRange, "a volume cannot have %d bytes", size)
	}
	if err := d.checkParameters(r.GetMutableParameters()); err != nil {
		return nil, err
	}
	if v := d.named(r.GetName()); v != nil {
		if v.Size < size || limit > 0 && v.Size > limit || v.Block != block {
			return nil, status.Errorf(codes.AlreadyExists, "volume %s is another one", v.Name)
		}
		return d.created(v), nil
	}
	v := &volume{ID: newID(), Name: r.GetName(), Size: size, Block: block, Published: map[string]bool{}}
	v.Source = source{Snapshot: r.GetVolumeContentSource().GetSnapshot().GetSnapshotId(), Volume: r.GetVolumeContentSource().GetVolume().GetVolumeId()}
	content, err := d.content(v)
	if err != nil {
		return nil, err
	}
	if err := d.create(v, content); err != nil {
		return nil, status.Errorf(codes.Internal, "create volume %s: %v", v.Name, err)
	}
	return d.created(v), nil
}

func newID() string { return strings.ToLower(rand.Text()) }

func (d *driver) named(name string) *volume {
	for _, v := range d.state.Volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func (d *driver) created(v *volume) *csi.CreateVolumeResponse {
	return &csi.CreateVolumeResponse{Volume: d.describe(v)}
}

func (d *driver) describe(v *volume) *csi.Volume {
	return &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Size, ContentSource: v.Source.describe(), AccessibleTopology: d.place()}
}

func (s source) describe() *csi.VolumeContentSource {
	switch {
	case s.Snapshot != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: s.Snapshot}}}
	case s.Volume != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: s.Volume}}}
	default:
		return nil
	}
}

// place is where this driver's volumes are.
func (d *driver) place() []*csi.Topology {
	if !d.topology {
		return nil
	}
	return []*csi.Topology{{Segments: map[string]string{topologyKey: d.node}}}
}

// blockAccess says whether a volume is asked for as a block device.
func blockAccess(capabilities []*csi.VolumeCapability) (bool, error) {
	block, mount := false, false
	for _, c := range capabilities {
		block = block || c.GetBlock() != nil
		mount = mount || c.GetMount() != nil
	}
	if block == mount {
		return false, status.Error(codes.InvalidArgument, "a volume has to be either a block device or a file system")
	}
	return block, nil
}

// content is the path of what a volume begins with, empty if it begins empty.
func (d *driver) content(v *volume) (string, error) {
	var block bool
	var size int64
	var path string
	switch {
	case v.Source.Snapshot != "":
		s := d.state.Snapshots[v.Source.Snapshot]
		if s == nil {
			return "", status.Errorf(codes.NotFound, "there is no snapshot %s", v.Source.Snapshot)
		}
		block, size, path = s.Block, s.Size, d.copyPath(s.ID)
	case v.Source.Volume != "":
		from, err := d.volume(v.Source.Volume)
		if err != nil {
			return "", err
		}
		block, size, path = from.Block, from.Size, d.path(from.ID)
	default:
		return "", nil
	}
	if block != v.Block {
		return "", status.Error(codes.InvalidArgument, "a volume and its source have to be of one mode")
	}
	if size > v.Size {
		return "", status.Errorf(codes.OutOfRange, "the source of the volume has %d bytes, more than %d", size, v.Size)
	}
	return path, nil
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if d.checkLifecycle && v.inUse() {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use: attached %t, staged at %q, published at %v",
			v.ID, v.Attached, v.Staged, slices.Sorted(maps.Keys(v.Published)))
	}
	if err := d.remove(v); err != nil {
		return nil, status.Errorf(codes.Internal, "delete volume %s: %v", v.ID, err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	block, err := blockAccess(r.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	if block != v.Block {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: "the volume has the other mode"}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters()}}, nil
}

func (d *driver) ListVolumes(_ context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	part, next, err := page(d.state.Volumes, r.GetStartingToken(), r.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	list := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range part {
		list.Entries = append(list.Entries, &csi.ListVolumesResponse_Entry{Volume: d.describe(v)})
	}
	return list, nil
}

func (d *driver) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return &csi.GetCapacityResponse{AvailableCapacity: maxSize}, nil
}

func (d *driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if !d.attach {
		return nil, status.Error(codes.Unimplemented, "volumes are not attached")
	}
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if r.GetNodeId() != d.node {
		return nil, status.Errorf(codes.NotFound, "there is no node %s", r.GetNodeId())
	}
	attached := int64(0)
	for _, other := range d.state.Volumes {
		if other.Attached && other != v {
			attached++
		}
	}
	if d.maxVolumes > 0 && attached >= d.maxVolumes {
		return nil, status.Errorf(codes.ResourceExhausted, "the node has %d volumes", attached)
	}
	v.Attached = true
	return &csi.ControllerPublishVolumeResponse{}, nil
}

func (d *driver) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if !d.attach {
		return nil, status.Error(codes.Unimplemented, "volumes are not attached")
	}
	v, err := d.volume(r.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if d.checkLifecycle && (v.Staged != "" || len(v.Published) > 0) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is staged or published", v.ID)
	}
	v.Attached = false
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (d *driver) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if !d.controllerExpand {
		return nil, status.Error(codes.Unimplemented, "volumes are expanded on the node")
	}
	v, err := d.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := d.expand(v, r.GetCapacityRange().GetRequiredBytes()); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.Size, NodeExpansionRequired: d.nodeExpand}, nil
}

// expand gives a volume more room, never less.
func (d *driver) expand(v *volume, size int64) error {
	if size > maxSize {
		return status.Errorf(codes.OutOfRange, "a volume cannot have %d bytes", size)
	}
	if size <= v.Size {
		return nil
	}
	if v.Block {
		if err := os.Truncate(d.path(v.ID), size); err != nil {
			return status.Errorf(codes.Internal, "expand volume %s: %v", v.ID, err)
		}
		if v.Device != "" {
			if err := growLoop(v.Device); err != nil {
				return status.Errorf(codes.Internal, "expand volume %s: %v", v.ID, err)
			}
		}
	}
	v.Size = size
	return nil
}

func (d *driver) ControllerModifyVolume(_ context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if _, err := d.volume(r.GetVolumeId()); err != nil {
		return nil, err
	}
	return &csi.ControllerModifyVolumeResponse{}, d.checkParameters(r.GetMutableParameters())
}

func (d *driver) checkParameters(mutable map[string]string) error {
	if len(mutable) > 0 && !d.modify {
		return status.Error(codes.Unimplemented, "volumes cannot be modified")
	}
	for name := range mutable {
		if len(d.mutableParameters) > 0 && !slices.Contains(d.mutableParameters, name) {
			return status.Errorf(codes.InvalidArgument, "parameter %s cannot be modified", name)
		}
	}
	return nil
}

func (d *driver) CreateSnapshot(_ context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if r.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "a name is missing")
	}
	for _, s := range d.state.Snapshots {
		if s.Name == r.GetName() && s.Volume == r.GetSourceVolumeId() {
			return &csi.CreateSnapshotResponse{Snapshot: s.describe()}, nil
		}
		if s.Name == r.GetName() {
			return nil, status.Errorf(codes.AlreadyExists, "snapshot %s is of another volume", s.Name)
		}
	}
	v, err := d.volume(r.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	s := &snapshot{ID: newID(), Name: r.GetName(), Volume: v.ID, Size: v.Size, Block: v.Block, Created: time.Now()}
	if err := fill(d.copyPath(s.ID), d.path(v.ID), v); err != nil {
		os.RemoveAll(d.copyPath(s.ID))
		return nil, status.Errorf(codes.Internal, "take a snapshot of volume %s: %v", v.ID, err)
	}
	d.state.Snapshots[s.ID] = s
	return &csi.CreateSnapshotResponse{Snapshot: s.describe()}, nil
}

func (s *snapshot) describe() *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: s.ID, SourceVolumeId: s.Volume, SizeBytes: s.Size, CreationTime: timestamppb.New(s.Created), ReadyToUse: true}
}

func (d *driver) DeleteSnapshot(_ context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if r.GetSnapshotId() == "" {
		return nil, status.Error(codes.InvalidArgument, "a snapshot ID is missing")
	}
	if d.state.Snapshots[r.GetSnapshotId()] != nil {
		if err := os.RemoveAll(d.copyPath(r.GetSnapshotId())); err != nil {
			return nil, status.Errorf(codes.Internal, "delete snapshot %s: %v", r.GetSnapshotId(), err)
		}
		delete(d.state.Snapshots, r.GetSnapshotId())
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

func (d *driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	chosen := maps.Clone(d.state.Snapshots)
	maps.DeleteFunc(chosen, func(_ string, s *snapshot) bool {
		return r.GetSnapshotId() != "" && s.ID != r.GetSnapshotId() || r.GetSourceVolumeId() != "" && s.Volume != r.GetSourceVolumeId()
	})
	part, next, err := page(chosen, r.GetStartingToken(), r.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	list := &csi.ListSnapshotsResponse{NextToken: next}
	for _, s := range part {
		list.Entries = append(list.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: s.describe()})
	}
	return list, nil
}
