// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// loopDevice makes a block device of 8 MiB out of a file.
func loopDevice(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	write(t, image, "")
	must(t, os.Truncate(image, 8<<20))
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { must(t, exec.Command("losetup", "--detach", device).Run()) })
	return device
}

// A local device gets a file system the first time, and keeps what is on it; as a block volume it is left as it is.
func TestLocalDevice(t *testing.T) {
	device := loopDevice(t)
	pvc, pv := claim("disk", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: device}})
	pv.Spec.MountOptions = []string{"noatime"}
	n := newNode(t, pvc, pv)
	a, b := podWith("a", "disk"), podWith("b", "disk")
	n.setUp(t, a)
	path := n.mounts(t, a)["/mnt/data"].HostPath
	if mounts := mountTable(t, path); len(mounts) != 1 {
		t.Errorf("mounts are %q", mounts)
	}
	write(t, filepath.Join(path, "file"), "data")
	must(t, n.TearDown(t.Context(), a.UID))
	n.setUp(t, b)
	if got := read(t, filepath.Join(n.mounts(t, b)["/mnt/data"].HostPath, "file")); got != "data" {
		t.Errorf("file has %q", got)
	}
	must(t, n.TearDown(t.Context(), b.UID))

	pvc, pv = claim("raw", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: device}})
	pv.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock)
	n = newNode(t, pvc, pv)
	pod := podWith("c", "raw")
	pod.Spec.Containers[0].VolumeMounts = nil
	pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}
	n.setUp(t, pod)
	devices, err := n.Devices(t.Context(), pod, &pod.Spec.Containers[0])
	if err != nil || len(devices) != 1 || devices[0].HostPath != device || devices[0].Permissions != "mrw" {
		t.Errorf("devices are %v, %v", devices, err)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}
