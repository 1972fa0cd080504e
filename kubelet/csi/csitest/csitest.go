// SPDX-License-Identifier: Apache-2.0

// Package csitest is a CSI driver for tests: its volumes are directories, which it bind-mounts.
//
// It speaks the real protocol over a real socket, and registers as drivers do. What it is asked is kept, and each of
// its calls can be made to fail.
package csitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Driver is a running driver.
type Driver struct {
	Name   string
	NodeID string
	// Topology and MaxVolumes are what it says of the node.
	Topology   map[string]string
	MaxVolumes int64
	// Can is what it says it is capable of.
	Can []csi.NodeServiceCapability_RPC_Type
	// Dir holds its volumes, by handle.
	Dir string

	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer

	mu       sync.Mutex
	requests []proto.Message
	statuses []*registration.RegistrationStatus
	fail     map[string]error // by name of the call
}

// Serve serves the driver at a socket in its directory, and offers it in a folder for plugins until stop is called.
func (d *Driver) Serve(registry string) (stop func(), err error) {
	endpoint, offer := filepath.Join(d.Dir, "csi.sock"), filepath.Join(registry, d.Name+"-reg.sock")
	stopNode, err := serve(endpoint, func(s *grpc.Server) { csi.RegisterNodeServer(s, d) })
	if err != nil {
		return nil, err
	}
	stopOffer, err := serve(offer, func(s *grpc.Server) { registration.RegisterRegistrationServer(s, d) })
	if err != nil {
		stopNode()
		return nil, err
	}
	return func() { stopOffer(); stopNode() }, nil
}

func serve(path string, register func(*grpc.Server)) (stop func(), err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() { _ = server.Serve(listener); close(done) }()
	return func() { server.Stop(); <-done }, nil
}

// Fail makes the call of that name, such as NodeStageVolume, fail; nil makes it work again.
func (d *Driver) Fail(call string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.fail = map[string]error{}
	}
	d.fail[call] = err
}

// Calls names the calls that changed something, in order.
func (d *Driver) Calls() []string {
	var calls []string
	for _, r := range d.Requests() {
		name := string(proto.MessageName(r).Name())
		calls = append(calls, name[:len(name)-len("Request")])
	}
	return calls
}

// Requests are those that asked for a change, in order.
func (d *Driver) Requests() []proto.Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.requests)
}

// Statuses are what the kubelet said about the registration.
func (d *Driver) Statuses() []*registration.RegistrationStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.statuses)
}

// note keeps a request, and returns the error that the call is to fail with.
func (d *Driver) note(r proto.Message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests = append(d.requests, r)
	name := string(proto.MessageName(r).Name())
	return d.fail[name[:len(name)-len("Request")]]
}

// GetInfo is asked by the kubelet that found the socket.
func (d *Driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: d.Name, Endpoint: filepath.Join(d.Dir, "csi.sock"), SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus hears how the registration went.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.statuses = append(d.statuses, s)
	return &registration.RegistrationStatusResponse{}, nil
}

// Limit changes MaxVolumes of a driver that runs.
func (d *Driver) Limit(volumes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.MaxVolumes = volumes
}

func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail["NodeGetInfo"]; err != nil {
		return nil, err
	}
	info := &csi.NodeGetInfoResponse{NodeId: d.NodeID, MaxVolumesPerNode: d.MaxVolumes}
	if d.Topology != nil {
		info.AccessibleTopology = &csi.Topology{Segments: d.Topology}
	}
	return info, nil
}

func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range d.Can {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return r, nil
}

// NodeStageVolume mounts a volume's directory.
func (d *Driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := d.note(r); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, mount(filepath.Join(d.Dir, r.VolumeId), r.StagingTargetPath)
}

func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := d.note(r); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, unmount(r.StagingTargetPath)
}

// NodePublishVolume mounts what was staged, or the volume's directory; as a device, it makes a file of that.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := d.note(r); err != nil {
		return nil, err
	}
	source := r.StagingTargetPath
	if source == "" {
		source = filepath.Join(d.Dir, r.VolumeId)
	}
	if r.VolumeCapability.GetBlock() != nil {
		return &csi.NodePublishVolumeResponse{}, os.WriteFile(r.TargetPath, nil, 0o600)
	}
	return &csi.NodePublishVolumeResponse{}, mount(source, r.TargetPath)
}

func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := d.note(r); err != nil {
		return nil, err
	}
	if err := unmount(r.TargetPath); err != nil {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *Driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if err := d.note(r); err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.GetCapacityRange().GetRequiredBytes()}, nil
}

// NodeGetVolumeStats says that a volume has a thousand bytes, a hundred of which are used.
func (d *Driver) NodeGetVolumeStats(context.Context, *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: 1000, Used: 100, Available: 900},
		{Unit: csi.VolumeUsage_INODES, Total: 10, Used: 1, Available: 9},
	}}, nil
}

// mount binds source to target, once.
func mount(source, target string) error {
	for _, dir := range []string{source, target} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	var there, want unix.Stat_t
	if unix.Stat(target, &there) == nil && unix.Stat(source, &want) == nil && there.Ino == want.Ino && there.Dev == want.Dev {
		return nil
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

func unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}
