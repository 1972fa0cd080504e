// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// driver serves all of CSI for one node.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	config

	mu    sync.Mutex // held by serve
	state state
	saved []byte // what the state file has
}

// state outlives the process, as the volumes do.
type state struct {
	Volumes   map[string]*volume   // by ID
	Snapshots map[string]*snapshot // by ID
}

type volume struct {
	ID, Name  string
	Size      int64
	Block     bool
	Ephemeral bool // of one pod, and gone with it
	Source    source
	Attached  bool
	Staged    string          // where; empty if it is not
	Published map[string]bool // where
	Device    string          // the loop device of a Block volume that is published
}

func (v *volume) inUse() bool { return v.Attached || v.Staged != "" || len(v.Published) > 0 }

// source is what a volume began with: one of the two, or nothing.
type source struct{ Snapshot, Volume string }

type snapshot struct {
	ID, Name, Volume string
	Size             int64
	Block            bool
	Created          time.Time
}

func newDriver(c config) (*driver, error) {
	d := &driver{config: c}
	for _, dir := range []string{"volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o750); err != nil {
			return nil, err
		}
	}
	var err error
	d.saved, err = os.ReadFile(d.statePath())
	if err == nil {
		err = json.Unmarshal(d.saved, &d.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	if d.state.Volumes == nil {
		d.state.Volumes = map[string]*volume{}
	}
	if d.state.Snapshots == nil {
		d.state.Snapshots = map[string]*snapshot{}
	}
	return d, nil
}

func (d *driver) statePath() string { return filepath.Join(d.dir, "state.json") }

// path is the directory or the file of a volume.
func (d *driver) path(volume string) string { return filepath.Join(d.dir, "volumes", volume) }

// copyPath is where the content of a snapshot is.
func (d *driver) copyPath(snapshot string) string { return filepath.Join(d.dir, "snapshots", snapshot) }

func (d *driver) save() error {
	content, err := json.Marshal(d.state)
	if err != nil || bytes.Equal(content, d.saved) {
		return err
	}
	next := d.statePath() + ".next"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, d.statePath()); err != nil {
		return err
	}
	d.saved = content
	return nil
}

// volume finds one that a call names.
func (d *driver) volume(id string) (*volume, error) {
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume ID is missing")
	}
	v := d.state.Volumes[id]
	if v == nil {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", id)
	}
	return v, nil
}

// create makes the content of a volume: a copy of source, or nothing if that is empty.
func (d *driver) create(v *volume, source string) error {
	err := fill(d.path(v.ID), source, v)
	if err != nil {
		return errors.Join(err, os.RemoveAll(d.path(v.ID)))
	}
	d.state.Volumes[v.ID] = v
	return nil
}

func fill(path, source string, v *volume) error {
	if v.Block {
		return copyFile(path, source, v.Size)
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask
		return err
	}
	return copyTree(path, source)
}

func (d *driver) remove(v *volume) error {
	if err := os.RemoveAll(d.path(v.ID)); err != nil {
		return err
	}
	delete(d.state.Volumes, v.ID)
	return nil
}

// copyTree copies what is in a directory, with owners and modes.
func copyTree(to, from string) error {
	if from == "" {
		return nil
	}
	out, err := exec.Command("cp", "-a", from+"/.", to+"/").CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// copyFile makes a file of that size with the content of another, and with holes where there are zeros only.
func copyFile(to, from string, size int64) error {
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	if from == "" {
		return target.Truncate(size)
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	block, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := source.Read(block)
		if err != nil && err != io.EOF {
			return err
		}
		if n == 0 {
			return target.Truncate(size)
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := target.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
}

// page is a part of a list, in the order of keys, and the token with which the next one is to be asked for.
func page[V any](all map[string]V, token string, limit int32) (part []V, next string, err error) {
	keys := slices.Sorted(maps.Keys(all))
	start := 0
	if token != "" {
		if start, err = strconv.Atoi(token); err != nil || start < 0 || start > len(keys) {
			return nil, "", status.Errorf(codes.Aborted, "there is no page %q", token)
		}
	}
	end := len(keys)
	if limit > 0 && start+int(limit) < end {
		end = start + int(limit)
		next = strconv.Itoa(end)
	}
	for _, key := range keys[start:end] {
		part = append(part, all[key])
	}
	return part, next, nil
}
