// SPDX-License-Identifier: Apache-2.0

// Package allocation remembers what this node has granted to its pods, and what their containers have been given of it.
//
// A pod's spec says what is desired and may change while it runs. What is allocated counts against the node and only
// follows when there is room; what is actuated is what the cgroups are set to, and follows the allocation. Both lie in a
// file in the pod's own folder, so that a new process neither grants nor restarts anything by mistake, and so that they
// go with the pod.
package allocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// Resources are those of one pod that can be resized.
type Resources struct {
	Pod        *v1.ResourceRequirements           `json:"pod,omitempty"`
	Containers map[string]v1.ResourceRequirements `json:"containers,omitempty"`
}

// Of are the resources that a pod's spec asks for.
func Of(pod *v1.Pod) Resources {
	r := Resources{Pod: pod.Spec.Resources.DeepCopy(), Containers: map[string]v1.ResourceRequirements{}}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			r.Containers[list[i].Name] = *list[i].Resources.DeepCopy()
		}
	}
	return r
}

// in is a copy of the pod with these resources.
func (r *Resources) in(pod *v1.Pod) *v1.Pod {
	pod = pod.DeepCopy()
	pod.Spec.Resources = r.Pod.DeepCopy()
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if granted, ok := r.Containers[list[i].Name]; ok {
				list[i].Resources = *granted.DeepCopy()
			}
		}
	}
	return pod
}

// record is what is remembered of one pod.
type record struct {
	Allocated Resources `json:"allocated"`
	Actuated  Resources `json:"actuated"`
}

// Store has the records of all pods of a node.
type Store struct {
	root string // the folder of the pods' folders

	mu   sync.Mutex
	pods map[types.UID]*record // guarded by mu: what was read or written; nil for a pod without a record
}

// New makes a Store on the folder that has a folder for each pod.
func New(root string) *Store { return &Store{root: root, pods: map[types.UID]*record{}} }

// Apply returns the pod as it was granted. desired says that its spec asks for something else.
func (s *Store) Apply(pod *v1.Pod) (granted *v1.Pod, desired bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recordLocked(pod.UID)
	if r == nil || equality.Semantic.DeepEqual(r.Allocated, Of(pod)) {
		return pod, false
	}
	return r.Allocated.in(pod), true
}

// Has says whether the pod was ever granted anything.
func (s *Store) Has(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recordLocked(uid) != nil
}

// Held returns the pod with the larger of what it was granted and what it still has.
func (s *Store) Held(pod *v1.Pod) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recordLocked(pod.UID)
	if r == nil {
		return pod
	}
	pod = r.Allocated.in(pod)
	if pod.Spec.Resources != nil && r.Actuated.Pod != nil {
		raise(&pod.Spec.Resources.Requests, r.Actuated.Pod.Requests)
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			raise(&list[i].Resources.Requests, r.Actuated.Containers[list[i].Name].Requests)
		}
	}
	return pod
}

// raise makes amounts at least as large as others.
func raise(list *v1.ResourceList, least v1.ResourceList) {
	for name, q := range least {
		if has, ok := (*list)[name]; ok && has.Cmp(q) >= 0 {
			continue
		}
		if *list == nil {
			*list = v1.ResourceList{}
		}
		(*list)[name] = q.DeepCopy()
	}
}

// Allocate grants the pod what its spec asks for. What is granted at first is what its containers start with.
func (s *Store) Allocate(pod *v1.Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &record{Allocated: Of(pod), Actuated: Of(pod)}
	if r := s.recordLocked(pod.UID); r != nil {
		if equality.Semantic.DeepEqual(r.Allocated, next.Allocated) {
			return nil
		}
		next.Actuated = r.Actuated
	}
	return s.writeLocked(pod.UID, next)
}

// Actuated is what a container was last given.
func (s *Store) Actuated(uid types.UID, container string) (given v1.ResourceRequirements, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.recordLocked(uid); r != nil {
		given, known = r.Actuated.Containers[container]
	}
	return given, known
}

// PodActuated is what the pod as a whole was last given.
func (s *Store) PodActuated(uid types.UID) (given *v1.ResourceRequirements, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.recordLocked(uid); r != nil {
		return r.Actuated.Pod, true
	}
	return nil, false
}

// Actuate notes that containers, and with whole the pod, have been given what the pod's spec says.
func (s *Store) Actuate(pod *v1.Pod, whole bool, containers ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recordLocked(pod.UID)
	if r == nil {
		return nil // never granted: nothing to compare with later
	}
	spec := Of(pod)
	next := &record{Allocated: r.Allocated, Actuated: Resources{Pod: r.Actuated.Pod, Containers: maps.Clone(r.Actuated.Containers)}}
	if whole {
		next.Actuated.Pod = spec.Pod
	}
	for _, name := range containers {
		if resources, ok := spec.Containers[name]; ok {
			next.Actuated.Containers[name] = resources
		}
	}
	if equality.Semantic.DeepEqual(r.Actuated, next.Actuated) {
		return nil
	}
	return s.writeLocked(pod.UID, next)
}

// Forget drops a pod whose folder is gone.
func (s *Store) Forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
}

func (s *Store) path(uid types.UID) string {
	return filepath.Join(s.root, string(uid), "allocation.json")
}

// recordLocked reads a record once. One that cannot be read is as good as none: the pod then has what its spec says.
func (s *Store) recordLocked(uid types.UID) *record {
	if r, known := s.pods[uid]; known {
		return r
	}
	var r *record
	if data, err := os.ReadFile(s.path(uid)); err == nil {
		var read record
		if json.Unmarshal(data, &read) == nil && read.Actuated.Containers != nil {
			r = &read
		}
	}
	s.pods[uid] = r
	return r
}

// writeLocked notes the record for the next process.
func (s *Store) writeLocked(uid types.UID, r *record) error {
	path := s.path(uid)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), checkpoint.Save(path, r)); err != nil {
		return fmt.Errorf("record what pod %s was granted: %w", uid, err)
	}
	s.pods[uid] = r
	return nil
}
