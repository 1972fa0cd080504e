// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/csi"
)

// leftStaged are volumes that no pod has any more and that could not be unstaged yet, by their names. It is tried again until
// that works or a pod has the volume again; meanwhile the Node says that it is in use, for it must not be detached.
type leftStaged struct {
	wake chan struct{}

	mu    sync.Mutex
	notes map[string]note // guarded by mu
}

// nobody stands for a pod among the users of a volume that was left.
const nobody types.UID = ""

const (
	unstageFirst = 500 * time.Millisecond
	unstageMost  = 2 * time.Minute
)

// leave has a volume unstaged later.
func (c *csiVolume) leave(ctx context.Context, n note, why error) {
	klog.FromContext(ctx).Error(why, "Unstaging a volume; it is tried again", "volume", n.volume())
	if n[noteAttachment] != "" {
		c.m.inUse.add(n.unique(), nobody)
	}
	c.left.add(n)
}

func (l *leftStaged) add(n note) {
	l.mu.Lock()
	if l.notes == nil {
		l.notes = map[string]note{}
	}
	l.notes[n.volume()] = n
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *leftStaged) all() map[string]note {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.notes)
}

// unstageLeft unstages what this process and earlier ones have left, until ctx ends.
func (c *csiVolume) unstageLeft(ctx context.Context) {
	left, err := c.m.stagedForNobody()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Looking for volumes that are staged for nobody")
	}
	for _, n := range left {
		c.left.add(n)
	}
	for pause := unstageFirst; ; {
		var again <-chan time.Time
		if len(c.left.all()) > 0 {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.left.wake:
			pause = unstageFirst
			continue
		case <-again:
			pause = min(2*pause, unstageMost)
		}
		for _, n := range c.left.all() {
			if err := c.unstageNow(ctx, n); err != nil {
				klog.FromContext(ctx).Error(err, "Unstaging a volume; it is tried again", "volume", n.volume())
			}
		}
	}
}

// unstageNow unstages a volume that was left, or forgets that it was if a pod has it again.
func (c *csiVolume) unstageNow(ctx context.Context, n note) error {
	driver, err := c.driver(n["driverName"])
	if err != nil {
		return err
	}
	c.locks.LockKey(n.volume())
	defer func() { _ = c.locks.UnlockKey(n.volume()) }()
	ctx, cancel := context.WithTimeout(ctx, csi.Timeout)
	defer cancel()
	if err := c.unstage(ctx, driver, n, ""); err != nil {
		return err
	}
	c.left.mu.Lock()
	delete(c.left.notes, n.volume())
	c.left.mu.Unlock()
	if c.m.inUse.remove(n.unique(), nobody) && c.m.cfg.InUseChanged != nil {
		c.m.cfg.InUseChanged()
	}
	return nil
}

// stagedForNobody are the notes about volumes that are staged, and that no pod has.
func (m *Manager) stagedForNobody() ([]note, error) {
	users, err := m.notes()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, n := range users {
		used[n.volume()] = true
	}
	files, err := filepath.Glob(filepath.Join(m.cfg.Root, "plugins", csiPlugin, "*", "*", noteFile))
	if err != nil {
		return nil, err
	}
	var left []note
	for _, file := range files {
		n, err := readNote(filepath.Dir(file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find volumes that were left: %w", err)
		}
		if !used[n.volume()] {
			left = append(left, n)
		}
	}
	return left, nil
}
