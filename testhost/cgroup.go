// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupMount  = "/sys/fs/cgroup"
	cgroupPrefix = "testhost-"
	// The kernel takes a moment to let go of the cgroups of processes that were killed.
	cgroupPatience = 10 * time.Second
)

// cgroups are one host's directories below the cgroup hierarchies.
type cgroups struct {
	path string   // below the root of a hierarchy
	dirs []string // the same as directories
}

// makeCgroups makes a cgroup in every version 1 hierarchy, or in the version 2 tree. Its name has the
// process ID in it, so that a later run finds out what one that was killed left behind.
func makeCgroups() (cgroups, error) {
	roots, err := cgroupRoots()
	if err != nil {
		return cgroups{}, err
	}
	first, err := os.MkdirTemp(roots[0], fmt.Sprintf("%s%d-", cgroupPrefix, os.Getpid()))
	if err != nil {
		return cgroups{}, fmt.Errorf("make cgroup: %w", err)
	}
	if err := os.Chmod(first, 0o755); err != nil { // as all cgroups are: users of user namespaces pass through
		return cgroups{}, errors.Join(fmt.Errorf("open cgroup: %w", err), os.Remove(first))
	}
	name := filepath.Base(first)
	c := cgroups{path: "/" + name}
	for _, root := range roots {
		sweep(root)
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return cgroups{}, errors.Join(fmt.Errorf("make cgroup: %w", err), c.remove())
		}
		c.dirs = append(c.dirs, dir)
		if err := inheritCPUSet(root, dir); err != nil {
			return cgroups{}, errors.Join(err, c.remove())
		}
	}
	return c, nil
}

// inheritCPUSet gives a version 1 cpuset the CPUs of its parent; a new one has none and takes no process.
func inheritCPUSet(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another controller, or version 2, where the root has no such file
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), all, 0o644); err != nil {
			return fmt.Errorf("set %s: %w", file, err)
		}
	}
	return nil
}

func cgroupRoots() ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", cgroupMount, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, e := range entries {
		if e.IsDir() { // the others are links such as cpu -> cpu,cpuacct
			roots = append(roots, filepath.Join(cgroupMount, e.Name()))
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted below %s", cgroupMount)
	}
	return roots, nil
}

// sweep removes the empty cgroups of test processes that no longer exist.
func sweep(root string) {
	dirs, _ := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			removeTree(dir) // one that is still in use refuses
		}
	}
}

func (c cgroups) remove() error {
	deadline := time.Now().Add(cgroupPatience)
	var errs []error
	for _, dir := range c.dirs {
		err := removeTree(dir)
		for errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond) // version 1 tells nobody when a cgroup gets empty
			err = removeTree(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and those below it. The files in it are not removable, nor need they be.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
