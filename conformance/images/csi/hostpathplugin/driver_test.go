// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func startDriver(t *testing.T, dir string) *driver {
	t.Helper()
	d, err := newDriver(config{name: "test", node: "here", dir: dir, checkLifecycle: true, topology: true, controllerExpand: true, modify: true, mutableParameters: []string{"speed"}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func capability(block bool) *csi.VolumeCapability {
	if block {
		return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
	}
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
}

func create(t *testing.T, d *driver, name string, size int64, block bool, source *csi.VolumeContentSource) string {
	t.Helper()
	made, err := d.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csi.VolumeCapability{capability(block)}, VolumeContentSource: source})
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return made.GetVolume().GetVolumeId()
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// The calls have to come in CSI's order.
func TestLifecycle(t *testing.T) {
	ctx, d := t.Context(), startDriver(t, t.TempDir())
	id := create(t, d, "one", 1<<20, false, nil)
	if again := create(t, d, "one", 1<<20, false, nil); again != id {
		t.Errorf("the same volume once more is %s, want %s", again, id)
	}
	publish := &csi.NodePublishVolumeRequest{VolumeId: id, TargetPath: "/target", StagingTargetPath: "/staged", VolumeCapability: capability(false)}
	_, err := d.NodePublishVolume(ctx, publish)
	wantCode(t, "publish what is not staged", err, codes.FailedPrecondition)
	_, err = d.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: "/staged", VolumeCapability: capability(false)})
	wantCode(t, "stage", err, codes.OK)
	_, err = d.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: "/elsewhere", VolumeCapability: capability(false)})
	wantCode(t, "stage twice", err, codes.FailedPrecondition)
	_, err = d.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	wantCode(t, "delete what is staged", err, codes.FailedPrecondition)
	d.state.Volumes[id].Published["/target"] = true
	_, err = d.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: "/staged"})
	wantCode(t, "unstage what is published", err, codes.FailedPrecondition)
	delete(d.state.Volumes[id].Published, "/target")
	_, err = d.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: "/staged"})
	wantCode(t, "unstage", err, codes.OK)
	_, err = d.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	wantCode(t, "delete", err, codes.OK)
	if left, err := os.ReadDir(filepath.Join(d.dir, "volumes")); err != nil || len(left) > 0 {
		t.Errorf("the volume's content is left: %v, %v", left, err)
	}
}

// A volume begins with what its snapshot has, and what is known outlives the process.
func TestSnapshots(t *testing.T) {
	for name, block := range map[string]bool{"directory": false, "block": true} {
		t.Run(name, func(t *testing.T) {
			ctx, d := t.Context(), startDriver(t, t.TempDir())
			from := create(t, d, "from", 3<<20, block, nil)
			file := d.path(from)
			if !block {
				file = filepath.Join(file, "file")
			}
			write(t, file, "before")
			made, err := d.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "snapshot", SourceVolumeId: from})
			if err != nil {
				t.Fatal(err)
			}
			write(t, file, "after!")
			if err := d.save(); err != nil {
				t.Fatal(err)
			}
			d = startDriver(t, d.dir)
			source := &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
				Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: made.GetSnapshot().GetSnapshotId()}}}
			to := create(t, d, "to", 4<<20, block, source)
			path := d.path(to)
			if !block {
				path = filepath.Join(path, "file")
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got[:6]) != "before" {
				t.Errorf("the volume has %.6q, %v, want what the snapshot has", got, err)
			}
			if block && len(got) != 4<<20 {
				t.Errorf("the volume has %d bytes, want 4 MiB", len(got))
			}
			_, err = d.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: "small", CapacityRange: &csi.CapacityRange{RequiredBytes: 1}, VolumeContentSource: source,
				VolumeCapabilities: []*csi.VolumeCapability{capability(block)}})
			wantCode(t, "a volume that is smaller than its source", err, codes.OutOfRange)
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(content)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPages(t *testing.T) {
	all := map[string]int{"a": 1, "b": 2, "c": 3}
	part, next, err := page(all, "", 2)
	if err != nil || len(part) != 2 || part[0] != 1 || next != "2" {
		t.Errorf("the first page is %v, %q, %v", part, next, err)
	}
	part, next, err = page(all, next, 2)
	if err != nil || len(part) != 1 || part[0] != 3 || next != "" {
		t.Errorf("the second page is %v, %q, %v", part, next, err)
	}
	_, _, err = page(all, "x", 2)
	wantCode(t, "a page that is none", err, codes.Aborted)
}

func TestExpandAndModify(t *testing.T) {
	ctx, d := t.Context(), startDriver(t, t.TempDir())
	id := create(t, d, "one", 1<<20, true, nil)
	for _, size := range []int64{2 << 20, 1 << 20} { // never smaller
		grown, err := d.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: size}})
		if err != nil || grown.GetCapacityBytes() != 2<<20 {
			t.Errorf("expanded to %d it has %v, %v", size, grown, err)
		}
	}
	if info, err := os.Stat(d.path(id)); err != nil || info.Size() != 2<<20 {
		t.Errorf("its file is %v, %v", info, err)
	}
	_, err := d.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{"speed": "high"}})
	wantCode(t, "modify", err, codes.OK)
	_, err = d.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{"colour": "red"}})
	wantCode(t, "modify what cannot be", err, codes.InvalidArgument)
}
