// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// changePolicy is the pod's fsGroupChangePolicy, for volumes that outlive the pod.
func changePolicy(pod *corev1.Pod) *corev1.PodFSGroupChangePolicy {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroupChangePolicy
}

// The pauses before somebody hears that a volume has very many files, and before the next time.
const (
	slowOwnership      = 30 * time.Second
	slowOwnershipAgain = 60 * time.Second
)

const onRootMismatchDocs = "https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods"

// giveVolume is setOwnership for a volume that outlives the pod, and may have so many files that the pod has to wait for long.
func (m *Manager) giveVolume(pod *corev1.Pod, dir string, group *int64, readOnly bool) error {
	var files atomic.Int64
	done := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() { m.tellSlow(pod, dir, &files, done) })
	err := setOwnershipCounted(dir, group, readOnly, changePolicy(pod), &files)
	close(done)
	telling.Wait()
	return err
}

// tellSlow tells the pod now and then what takes so long, until it is done.
func (m *Manager) tellSlow(pod *corev1.Pod, dir string, files *atomic.Int64, done <-chan struct{}) {
	if i := strings.Index(dir, string(pod.UID)); i >= 0 {
		dir = dir[i:]
	}
	timer := time.NewTimer(slowOwnership)
	defer timer.Stop()
	for told := false; ; told = true {
		select {
		case <-done:
			return
		case <-timer.C:
		}
		timer.Reset(slowOwnershipAgain)
		message := fmt.Sprintf("Setting volume ownership for %s is taking longer than expected, consider using OnRootMismatch - %s", dir, onRootMismatchDocs)
		if told {
			message = fmt.Sprintf("Setting volume ownership for %s, processed %d files.", dir, files.Load())
		}
		m.tell(pod, corev1.EventTypeWarning, "VolumePermissionChangeInProgress", message)
	}
}

// setOwnership gives dir and all in it to group, readable and, unless readOnly, writable for it.
// A nil group changes nothing.
func setOwnership(dir string, group *int64, readOnly bool, policy *corev1.PodFSGroupChangePolicy) error {
	return setOwnershipCounted(dir, group, readOnly, policy, new(atomic.Int64))
}

func setOwnershipCounted(dir string, group *int64, readOnly bool, policy *corev1.PodFSGroupChangePolicy, files *atomic.Int64) error {
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
		files.Add(1)
		return setOwner(root, path, *group, readOnly)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		files.Add(1)
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
