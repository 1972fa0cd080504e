// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// changePolicy is the pod's fsGroupChangePolicy, for volumes that outlive the pod.
func changePolicy(pod *corev1.Pod) *corev1.PodFSGroupChangePolicy {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroupChangePolicy
}

// setOwnership gives dir and all in it to group, readable and, unless readOnly, writable for it.
// A nil group changes nothing.
func setOwnership(dir string, group *int64, readOnly bool, policy *corev1.PodFSGroupChangePolicy) error {
	if group == nil {
		return nil
	}
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && rootMatches(dir, *group, readOnly) {
		return nil
	}
	root, err := os.OpenRoot(dir) // a container that has the volume already cannot lead us out of it
	if err != nil {
		return err
	}
	defer root.Close()
	var dirs []string // changed last and from the inside out: the root shows that all is done
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
			return nil
		}
		return setOwner(root, path, *group, readOnly)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = setOwner(root, dirs[i], *group, readOnly)
	}
	return err
}

// setOwner changes one file. A symlink has no mode of its own, and its target is not our business.
func setOwner(root *os.Root, path string, group int64, readOnly bool) error {
	if err := root.Lchown(path, -1, int(group)); err != nil {
		return err
	}
	info, err := root.Lstat(path)
	if err != nil || info.Mode()&os.ModeSymlink != 0 {
		return err
	}
	return root.Chmod(path, info.Mode()|groupBits(info, readOnly))
}

// groupBits are the mode bits that the group needs.
func groupBits(info fs.FileInfo, readOnly bool) os.FileMode {
	bits := os.FileMode(0o660)
	if readOnly {
		bits = 0o440
	}
	if info.IsDir() {
		bits |= os.ModeSetgid | 0o110
	}
	return bits
}

// rootMatches tells whether dir itself already is as setOwnership would make it.
func rootMatches(dir string, group int64, readOnly bool) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	bits := groupBits(info, readOnly)
	return ok && int64(stat.Gid) == group && info.Mode()&bits == bits
}
