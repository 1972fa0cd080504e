// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupDriver is who makes the cgroups of pods.
type CgroupDriver string

const (
	Cgroupfs CgroupDriver = "cgroupfs" // the kubelet and runc do, by files
	Systemd  CgroupDriver = "systemd"  // systemd does, when asked over D-Bus
)

// DetectCgroupDriver says which driver fits the machine: systemd where systemd runs, because two
// managers of one cgroup tree would undo each other's work.
func DetectCgroupDriver() CgroupDriver {
	if _, err := os.Stat("/run/systemd/system"); err == nil { // what sd_booted(3) looks at
		return Systemd
	}
	return Cgroupfs
}

// probeSnapshotter returns "overlayfs", or "native", which copies images file by file, where dir lies on a
// file system that cannot hold overlays.
func probeSnapshotter(dir string) (string, error) {
	tmp, err := os.MkdirTemp(dir, ".overlay-probe-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o700); err != nil {
			return "", err
		}
	}
	merged := filepath.Join(tmp, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", tmp)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return "native", nil
	}
	// A file in the mount shows whether the upper directory can be written, which some file systems refuse only now.
	err = os.WriteFile(filepath.Join(merged, "file"), nil, 0o600)
	if unmountErr := unix.Unmount(merged, unix.MNT_DETACH); unmountErr != nil {
		return "", fmt.Errorf("unmount the probe %s: %w", merged, unmountErr)
	}
	if err != nil {
		return "native", nil
	}
	return "overlayfs", nil
}

// mayLowerOOMScore tries whether processes can be made less likely to be killed than this one. Without
// CAP_SYS_RESOURCE they cannot, and runc would refuse to start any container that asks for it.
func mayLowerOOMScore() (bool, error) {
	const file = "/proc/self/oom_score_adj"
	raw, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	if score == -1000 {
		return true, nil // no lower one exists
	}
	err = os.WriteFile(file, []byte(strconv.Itoa(score-1)), 0)
	if errors.Is(err, os.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(file, raw, 0)
}
