// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// fakeMount puts a program `mount` first in the path that notes how it was called, and mounts a tmpfs whatever
// it was asked for.
func fakeMount(t *testing.T) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	noted := filepath.Join(dir, "calls")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\nfor last; do :; done\nexec /usr/bin/mount -t tmpfs none \"$last\"\n", noted)
	must(t, os.WriteFile(filepath.Join(dir, "mount"), []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string { return read(t, noted) }
}

// An export is mounted once, with the options of whoever names it, and unmounted with the pod.
func TestNFS(t *testing.T) {
	calls := fakeMount(t)
	pvc, pv := claim("home", corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "fd00::1", Path: "/home"}})
	pv.Spec.MountOptions = []string{"nfsvers=4.2", "hard"}
	n := newNode(t, pvc, pv)
	pod := newPod(
		vol("own", corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/media", ReadOnly: true}}),
		vol("home", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "home"}}),
	)
	n.setUp(t, pod)
	n.setUp(t, pod)
	mounts, dir := n.mounts(t, pod), filepath.Join(n.PodDir(pod.UID), "volumes/kubernetes.io~nfs")
	own, home := mounts["/mnt/own"], mounts["/mnt/home"]
	if own.HostPath != dir+"/own" || !own.Readonly || home.HostPath != dir+"/pv-home" || home.Readonly {
		t.Errorf("mounts are %v and %v", own, home)
	}
	want := []string{"-t nfs -o ro nas:/media " + dir + "/own", "-t nfs -o nfsvers=4.2,hard [fd00::1]:/home " + dir + "/pv-home", ""}
	if got := strings.Split(calls(), "\n"); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("mount was called with %q, want %q", got, want)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
	if left := mountTable(t, n.PodDir(pod.UID)); len(left) > 0 {
		t.Errorf("mounts are left: %q", left)
	}
}
