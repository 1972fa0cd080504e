// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// StaticPods come from the node itself, not from the API.
type StaticPods interface {
	// Read returns those that there are to be now. An unchanged one keeps its UID.
	Read(ctx context.Context) []*v1.Pod
	// Run calls changed whenever Read may have another answer, until ctx ends.
	Run(ctx context.Context, changed func()) error
	// Seen says whether Read returns all; before that, what runs may be a static pod.
	Seen() bool
}

// statics runs the static pods, and keeps for each a mirror in the API: a pod that shows it to everybody, whose
// status is the static pod's, and whose deletion means nothing.
//
// Everything about one name happens one after the other, so that a pod that takes another's name waits for its end.
type statics struct {
	source StaticPods // nil: there are none
	client kubernetes.Interface
	pods   corelisters.PodLister
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu     sync.Mutex
	wanted map[types.NamespacedName]*v1.Pod // guarded by mu: as the source says
	seen   bool                             // guarded by mu: those are all
	unsure map[types.NamespacedName]bool    // guarded by mu: mirrors of which it will show then whether they are wanted
	runs   map[types.NamespacedName]*v1.Pod // guarded by mu: those that have a worker
}

func newStatics(source StaticPods, client kubernetes.Interface, pods corelisters.PodLister) *statics {
	return &statics{
		source: source, client: client, pods: pods,
		wanted: map[types.NamespacedName]*v1.Pod{}, runs: map[types.NamespacedName]*v1.Pod{}, unsure: map[types.NamespacedName]bool{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]()),
	}
}

func nameOf(pod *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func isMirror(pod *v1.Pod) bool {
	_, ok := pod.Annotations[v1.MirrorPodAnnotationKey]
	return ok
}

// read takes over what the source says.
func (s *statics) read(ctx context.Context) {
	if s.source == nil {
		return
	}
	wanted := map[types.NamespacedName]*v1.Pod{}
	seen := s.source.Seen() // what comes after that is not among wanted
	for _, pod := range s.source.Read(ctx) {
		wanted[nameOf(pod)] = pod
	}
	s.mu.Lock()
	was := s.wanted
	s.wanted, s.seen = wanted, seen
	if seen {
		for name := range s.unsure {
			s.queue.Add(name)
		}
		clear(s.unsure)
	}
	s.mu.Unlock()
	for name := range was {
		s.queue.Add(name)
	}
	for name := range wanted {
		s.queue.Add(name)
	}
}

// mayHave says whether a pod with a UID is one of them, or might turn out to be.
func (s *statics) mayHave(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source != nil && !s.seen {
		return true
	}
	for _, pod := range s.wanted {
		if pod.UID == uid {
			return true
		}
	}
	return false
}

// isUnsure says whether it is still to be seen if there is to be a pod of a name, which is looked at again then.
func (s *statics) isUnsure(name types.NamespacedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source == nil || s.seen || s.wanted[name] != nil {
		return false
	}
	s.unsure[name] = true
	return true
}

// dismissed takes note that the worker of a pod is gone.
func (s *statics) dismissed(pod *v1.Pod) {
	name := nameOf(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ran := s.runs[name]; ran != nil && ran.UID == pod.UID {
		delete(s.runs, name)
		s.queue.Add(name)
	}
}

// of is what there is to be under a name, and what there is.
func (s *statics) of(name types.NamespacedName) (want, have *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted[name], s.runs[name]
}

// all are those that there are to be.
func (s *statics) all() []*v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.wanted))
}

// lookAgain looks at all static pods again.
func (s *statics) lookAgain() {
	for _, pod := range s.all() {
		s.queue.Add(nameOf(pod))
	}
}

// runStatics keeps static pods and mirrors until ctx ends.
func (k *Kubelet) runStatics(ctx context.Context) error {
	s := k.statics
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			name, quit := s.queue.Get()
			if quit {
				return
			}
			if err := k.syncStatic(ctx, name); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Keeping a static pod", "pod", name)
				s.queue.AddRateLimited(name)
			} else {
				s.queue.Forget(name)
			}
			s.queue.Done(name)
		}
	})
	defer s.queue.ShutDown()
	if s.source == nil {
		<-ctx.Done()
		return nil
	}
	return s.source.Run(ctx, func() { s.read(ctx) })
}

// syncStatic brings one static pod and its mirror to where they should be.
func (k *Kubelet) syncStatic(ctx context.Context, name types.NamespacedName) error {
	if k.statics.isUnsure(name) {
		return nil
	}
	want, have := k.statics.of(name)
	switch {
	case have != nil && (want == nil || want.UID != have.UID):
		k.podDeleted(have)
		return nil // dismissed brings it here again
	case want != nil && have == nil:
		k.startStatic(want)
	}
	return k.statics.syncMirror(ctx, name, want, k.agent.Node())
}

func (k *Kubelet) startStatic(pod *v1.Pod) {
	k.statics.mu.Lock()
	k.statics.runs[nameOf(pod)] = pod
	k.statics.mu.Unlock()
	k.podChanged(pod)
}

// mirrorChanged looks at a mirror that changed, or went, in the API.
func (k *Kubelet) mirrorChanged(mirror *v1.Pod) {
	k.status.Reconcile(types.UID(mirror.Annotations[v1.MirrorPodAnnotationKey]))
	k.statics.queue.Add(nameOf(mirror))
}

// syncMirror makes the pod in the API the mirror of what is wanted. What is in the way is removed, and the event of
// that leads here again.
func (s *statics) syncMirror(ctx context.Context, name types.NamespacedName, want *v1.Pod, node *v1.Node) error {
	is, err := s.pods.Pods(name.Namespace).Get(name.Name)
	switch {
	case apierrors.IsNotFound(err):
		if want == nil {
			return nil
		}
		return s.createMirror(ctx, want, node)
	case err != nil:
		return err
	case !isMirror(is):
		if want == nil {
			return nil
		}
		return fmt.Errorf("a pod %s that is not its mirror is in the API", name)
	case want != nil && is.DeletionTimestamp == nil && is.Annotations[v1.MirrorPodAnnotationKey] == string(want.UID):
		return nil
	}
	var now int64
	err = s.client.CoreV1().Pods(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(is.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mirror pod %s: %w", name, err)
	}
	return nil
}

func (s *statics) createMirror(ctx context.Context, pod *v1.Pod, node *v1.Node) error {
	if node == nil {
		return nil // wakeAll follows
	}
	controller := true
	mirror := pod.DeepCopy()
	mirror.UID, mirror.ResourceVersion = "", ""
	mirror.Annotations[v1.MirrorPodAnnotationKey] = string(pod.UID)
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller}}
	_, err := s.client.CoreV1().Pods(pod.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) { // the event of the one that exists is on its way
		return fmt.Errorf("create mirror pod %s: %w", nameOf(pod), err)
	}
	return nil
}
