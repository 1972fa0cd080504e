// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Claim is the right to be the server or the agent of a state directory. Whoever has it holds a lock on a file there, in
// which its process ID is. The kernel takes the lock back when the process ends, in whatever way.
type Claim struct{ file *os.File }

// errClaimed says that another process has the claim.
var errClaimed = errors.New("it is claimed")

func claimFile(stateDir string) string { return filepath.Join(stateDir, "skiff.pid") }

// TakeClaim claims a state directory, and makes it if need be.
func TakeClaim(stateDir string) (*Claim, error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the state directory: %w (set --state-dir)", err)
	}
	file, err := os.OpenFile(claimFile(stateDir), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("claim the state directory: %w (set --state-dir)", err)
	}
	if err := lock(file); err != nil {
		pid := pidIn(file)
		_ = file.Close()
		if errors.Is(err, errClaimed) {
			return nil, fmt.Errorf("another server or agent runs with the state directory %s: process %d (skiff stop ends it; or set --state-dir)", stateDir, pid)
		}
		return nil, err
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("claim the state directory: %w", err), file.Close())
	}
	return &Claim{file: file}, nil
}

// Release gives the claim back. The file stays: to remove it would race with the next to claim it.
func (c *Claim) Release() { _ = c.file.Close() }

// Running returns the process ID of who has claimed a state directory, 0 if there is none.
func Running(stateDir string) (int, error) {
	file, err := os.Open(claimFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	locked, err := isLocked(file)
	if !locked {
		return 0, err
	}
	return pidIn(file), nil
}

// AwaitEnd waits until who has claimed a state directory has ended.
func AwaitEnd(ctx context.Context, stateDir string) error {
	for {
		pid, err := Running(stateDir)
		if err != nil || pid == 0 {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of process %d: %w", pid, context.Cause(ctx))
		}
	}
}

func lock(file *os.File) error {
	err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) {
		return errClaimed
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return nil
}

func isLocked(file *os.File) (bool, error) {
	would := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &would); err != nil {
		return false, fmt.Errorf("look for a lock on %s: %w", file.Name(), err)
	}
	return would.Type != unix.F_UNLCK, nil
}

// pidIn returns the process ID in a claim file, -1 if it cannot be read.
func pidIn(file *os.File) int {
	raw := make([]byte, 20)
	n, _ := file.ReadAt(raw, 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(raw[:n])))
	if err != nil || pid <= 0 {
		return -1
	}
	return pid
}
