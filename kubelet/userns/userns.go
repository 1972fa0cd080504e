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

// length is how many IDs a pod has; a range begins at a multiple of it. The first range is the host's own.
const length = 65536

// Ranges hands out the ranges of one node.
type Ranges struct {
	root string // the folder of the pods' folders
	most uint32 // how many ranges there are

	mu   sync.Mutex
	used map[uint32]types.UID // guarded by mu: by first ID; nil before the folders were read
}

// New makes Ranges for that many pods, whose folders are in root.
func New(root string, pods int64) *Ranges { return &Ranges{root: root, most: uint32(pods)} }

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
	for first, owner := range r.used {
		if owner == uid {
			return namespace(first), nil
		}
	}
	for n := range r.most {
		first := (n + 1) * length
		if _, taken := r.used[first]; taken {
			continue
		}
		if err := r.write(uid, first); err != nil {
			return nil, err
		}
		r.used[first] = uid
		return namespace(first), nil
	}
	return nil, fmt.Errorf("all %d ranges of user IDs are taken", r.most)
}

// Forget frees the range of a pod whose folder is gone.
func (r *Ranges) Forget(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for first, owner := range r.used {
		if owner == uid {
			delete(r.used, first)
		}
	}
}

func namespace(first uint32) *runtimeapi.UserNamespace {
	ids := []*runtimeapi.IDMapping{{HostId: first, ContainerId: 0, Length: length}}
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
	used := map[uint32]types.UID{}
	for _, f := range folders {
		data, err := os.ReadFile(r.path(f.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var have record
		if err == nil {
			err = json.Unmarshal(data, &have)
		}
		if err == nil && (len(have.UIDs) != 1 || have.UIDs[0].Length != length) {
			err = errors.New("not a range of ours")
		}
		if err != nil {
			return fmt.Errorf("read the user IDs of pod %s: %w", f.Name(), err)
		}
		used[have.UIDs[0].HostID] = types.UID(f.Name())
	}
	r.used = used
	return nil
}

func (r *Ranges) write(uid types.UID, first uint32) error {
	ids := []mapping{{HostID: first, Length: length}}
	path := r.path(string(uid))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), checkpoint.Save(path, record{UIDs: ids, GIDs: ids})); err != nil {
		return fmt.Errorf("record the user IDs of pod %s: %w", uid, err)
	}
	return nil
}
