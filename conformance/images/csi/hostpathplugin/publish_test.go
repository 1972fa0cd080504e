// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

const inside = "HOSTPATHPLUGIN_TEST_IN_MOUNT_NAMESPACE"

// TestMain runs the tests in a mount namespace of their own, so that what they mount ends with them.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "make mounts private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // the thread whose end would end the child
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func publish(t *testing.T, d *driver, id, target string, block, readOnly bool) {
	t.Helper()
	if _, err := d.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: "/staged", VolumeCapability: capability(block)}); err != nil {
		t.Fatal(err)
	}
	_, err := d.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: "/staged", TargetPath: target, VolumeCapability: capability(block), Readonly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
}

func unpublish(t *testing.T, d *driver, id, target string) {
	t.Helper()
	if _, err := d.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(target); !os.IsNotExist(err) {
		t.Errorf("the target is left: %v", err)
	}
}

// A directory is at each target, read-only where that is asked for.
func TestPublishDirectory(t *testing.T) {
	d, at := startDriver(t, t.TempDir()), t.TempDir()
	id := create(t, d, "one", 1<<20, false, nil)
	publish(t, d, id, at+"/a", false, false)
	publish(t, d, id, at+"/b", false, true)
	write(t, at+"/a/file", "data")
	if got, err := os.ReadFile(at + "/b/file"); err != nil || string(got) != "data" {
		t.Errorf("it has %q, %v", got, err)
	}
	if err := os.WriteFile(at+"/b/file", nil, 0o600); err == nil {
		t.Error("what is read-only was written to")
	}
	unpublish(t, d, id, at+"/a")
	unpublish(t, d, id, at+"/b")
	if got, err := os.ReadFile(filepath.Join(d.path(id), "file")); err != nil || string(got) != "data" {
		t.Errorf("the volume has %q, %v", got, err)
	}
}

// A block volume is a loop device as long as it is published somewhere, and grows meanwhile.
func TestPublishBlock(t *testing.T) {
	d, at := startDriver(t, t.TempDir()), t.TempDir()
	id := create(t, d, "one", 1<<20, true, nil)
	publish(t, d, id, at+"/a", true, false)
	publish(t, d, id, at+"/b", true, false)
	write(t, at+"/a", "data")
	if err := d.expand(d.state.Volumes[id], 2<<20); err != nil {
		t.Error(err)
	}
	device, err := os.Open(at + "/b")
	if err != nil {
		t.Fatal(err)
	}
	start := make([]byte, 4)
	_, err = device.Read(start)
	size, seekErr := device.Seek(0, 2)
	device.Close()
	if err != nil || seekErr != nil || string(start) != "data" || size != 2<<20 {
		t.Errorf("the device has %q and %d bytes, %v, %v", start, size, err, seekErr)
	}
	unpublish(t, d, id, at+"/a")
	if d.state.Volumes[id].Device == "" {
		t.Error("the device was given back while it is in use")
	}
	unpublish(t, d, id, at+"/b")
	if d.state.Volumes[id].Device != "" {
		t.Error("the device was not given back")
	}
}

// A pod's own volume comes and goes with its publication.
func TestPublishEphemeral(t *testing.T) {
	d, target := startDriver(t, t.TempDir()), t.TempDir()+"/a"
	_, err := d.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: "csi-1", TargetPath: target, VolumeCapability: capability(false), VolumeContext: map[string]string{"csi.storage.k8s.io/ephemeral": "true"}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, target+"/file", "data")
	unpublish(t, d, "csi-1", target)
	if len(d.state.Volumes) > 0 {
		t.Errorf("volumes are left: %v", d.state.Volumes)
	}
}
