// SPDX-License-Identifier: Apache-2.0

// Package userns gives each pod that does not use the host's users (`hostUsers: false`) a range of user and group IDs that no
// other pod of the node has.
//
// The range is recorded in the pod's folder, as upstream does it, and is free again when the folder is gone. Nothing is read
// before the first such pod.
// Reference: https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/
package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// Length is how many IDs a pod has, unless the operator wants more.
const Length = 65536

// Ranges hands out the ranges of one node.
type Ranges struct {
	root   string // the folder of the pods' folders
	most   int64  // how many ranges there are
	length int64  // how many IDs a pod has; a range begins at a multiple of it, and the first is the host's own

	mu   sync.Mutex
	used map[types.UID]mapping // guarded by mu; nil before the folders were read
}

// New makes Ranges of so many IDs for so many pods, whose folders are in root.
func New(root string, pods, length int64) *Ranges {
	return &Ranges{root: root, most: pods, length: length}
}

// record is the file in a pod's folder.
type record struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

type mapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

// Of returns the pod's namespace; it is made at the first call and stays the same for the pod's life.
func (r *Ranges) Of(uid types.UID) (*runtimeapi.UserNamespace, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.readLocked(); err != nil {
		return nil, err
	}
	if have, is := r.used[uid]; is {
		return namespace(have), nil
	}
	for n := range r.most {
		ids := mapping{HostID: uint32((n + 1) * r.length), Length: uint32(r.length)}
		if r.takenLocked(ids) {
			continue
		}
		if err := r.write(uid, ids); err != nil {
			return nil, err
		}
		r.used[uid] = ids
		return namespace(ids), nil
	}
	return nil, fmt.Errorf("all %d ranges of user IDs are taken", r.most)
}

// Forget frees the range of a pod whose folder is gone.
func (r *Ranges) Forget(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.used, uid)
}

// takenLocked says whether a pod has any of these IDs; ranges were of another length if the operator has chosen anew.
func (r *Ranges) takenLocked(ids mapping) bool {
	for _, have := range r.used {
		if uint64(have.HostID) < uint64(ids.HostID)+uint64(ids.Length) && uint64(ids.HostID) < uint64(have.HostID)+uint64(have.Length) {
			return true
		}
	}
	return false
}

func namespace(of mapping) *runtimeapi.UserNamespace {
	ids := []*runtimeapi.IDMapping{{HostId: of.HostID, ContainerId: 0, Length: of.Length}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
}

func (r *Ranges) path(uid string) string { return filepath.Join(r.root, uid, "userns") }

// readLocked finds out once which ranges earlier processes gave away. A record that makes no sense ends it: its pod may
// run with any range.
func (r *Ranges) readLocked() error {
	if r.used != nil {
		return nil
	}
	folders, err := os.ReadDir(r.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list pods' folders: %w", err)
	}
	used := map[types.UID]mapping{}
	for _, f := range folders {
		data, err := os.ReadFile(r.path(f.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var have record
		if err == nil {
			err = json.Unmarshal(data, &have)
		}
		if err == nil && (len(have.UIDs) != 1 || have.UIDs[0].Length == 0) {
			err = errors.New("not a range of ours")
		}
		if err != nil {
			return fmt.Errorf("read the user IDs of pod %s: %w", f.Name(), err)
		}
		used[types.UID(f.Name())] = have.UIDs[0]
	}
	r.used = used
	return nil
}

func (r *Ranges) write(uid types.UID, of mapping) error {
	ids := []mapping{of}
	path := r.path(string(uid))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), checkpoint.Save(path, record{UIDs: ids, GIDs: ids})); err != nil {
		return fmt.Errorf("record the user IDs of pod %s: %w", uid, err)
	}
	return nil
}
