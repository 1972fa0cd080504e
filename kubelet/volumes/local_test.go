// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	b.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(5678))}
	n.setUp(t, b)
	file := filepath.Join(n.mounts(t, b)["/mnt/data"].HostPath, "file")
	info, err := os.Stat(file)
	must(t, err)
	if got := read(t, file); got != "data" || info.Sys().(*syscall.Stat_t).Gid != 5678 {
		t.Errorf("file has %q and %+v", got, info.Sys())
	}
	must(t, n.TearDown(t.Context(), b.UID))
	reader := podWith("reader", "disk") // its group is given nothing that cannot be written
	reader.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	reader.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(1234))}
	n.setUp(t, reader)
	must(t, n.TearDown(t.Context(), reader.UID))

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
	if size, err := n.Measure(t.Context(), pod.UID, "data"); err != nil || size.Capacity != 8<<20 || size.Used != 0 {
		t.Errorf("the device has %+v, %v, want 8 MiB", size, err)
	}
	if places, folders := n.Places(pod.UID), n.Paths(pod.UID); places["data"] != device || len(folders) != 0 {
		t.Errorf("it is at %q, and the folders are %q", places, folders)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// The file system on a local device grows with the device, while a pod has it, when the claim says that it is the node's turn. To grow
// one that is mounted is not allowed to the root of every machine, so the tool is one that only notes what it is called with.
func TestLocalDeviceGrows(t *testing.T) {
	bin := t.TempDir()
	called := filepath.Join(bin, "called")
	must(t, os.WriteFile(filepath.Join(bin, "resize2fs"), []byte("#!/bin/sh\necho \"$@\" >>"+called+"\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	device := loopDevice(t)
	pvc, pv := claim("disk", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: device}})
	size := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
	}
	pv.Spec.Capacity, pvc.Status.Capacity = size("8Mi"), size("8Mi")
	n := newNode(t, pvc, pv)
	pod := podWith("a", "disk")
	n.setUp(t, pod)

	pv.Spec.Capacity = size("32Mi")
	_, err := n.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
	must(t, err)
	n.setUp(t, pod)
	if _, err := os.Stat(called); err == nil {
		t.Errorf("it is grown before its controller is done: %q", read(t, called))
	}

	pvc.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending}
	_, err = n.client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(t.Context(), pvc, metav1.UpdateOptions{})
	must(t, err)
	n.setUp(t, pod)
	n.setUp(t, pod)
	if got := read(t, called); got != device+"\n" {
		t.Errorf("grown: %q, want %s once", got, device)
	}
	got, err := n.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "disk", metav1.GetOptions{})
	must(t, err)
	if has := got.Status.Capacity[corev1.ResourceStorage]; has.String() != "32Mi" || len(got.Status.AllocatedResourceStatuses) > 0 {
		t.Errorf("claim is %+v", got.Status)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}
