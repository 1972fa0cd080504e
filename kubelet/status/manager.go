// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
)

// Manager writes the statuses it is given to the API, each difference once.
//
// A pod whose status says that all of it has ended, and that is to be deleted, is deleted by it for good.
type Manager struct {
	// Writers is how many pods' statuses are written at the same time; set before Run.
	Writers int
	// Ended counts the containers that have ended, by the labels container_type, exit_code and reason; set before Run. Nil: nobody does.
	Ended *metrics.CounterVec
	// Written is told how long a status took to get to the API, from when it was decided; set before Run. Nil: nobody is.
	Written func(time.Duration)
	// Changed is told of pods with another status; set before Run. It must not block. Nil: nobody is.
	Changed func(types.UID)

	client kubernetes.Interface
	pods   corelisters.PodLister
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu   sync.Mutex
	want map[types.UID]*desired // guarded by mu
}

// desired is what the API is to have for one pod.
type desired struct {
	namespace, name string
	status          v1.PodStatus
	since           time.Time // when the first change was decided that is not written; zero: all are
	remove          bool      // nothing of the pod is left on this node
	written         *v1.Pod   // the object as our last write returned it; newer than the lister's for a while
}

// NewManager makes a Manager. The lister must be that of the informer whose events reach Reconcile.
func NewManager(client kubernetes.Interface, pods corelisters.PodLister) *Manager {
	return &Manager{
		Writers: 2, client: client, pods: pods, want: map[types.UID]*desired{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](100*time.Millisecond, 30*time.Second)),
	}
}

// Run writes until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range m.Writers {
		wg.Go(func() { m.work(ctx) })
	}
	<-ctx.Done()
	m.queue.ShutDown()
	wg.Wait()
	return nil
}

func (m *Manager) work(ctx context.Context) {
	for {
		uid, quit := m.queue.Get()
		if quit {
			return
		}
		err := m.write(ctx, uid)
		m.queue.Done(uid)
		if err == nil {
			m.queue.Forget(uid)
			continue
		}
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Writing a pod's status; it is tried again", "podUID", uid)
			m.queue.AddRateLimited(uid)
		}
	}
}

// Set says what the status of a pod is to be.
func (m *Manager) Set(pod *v1.Pod, s v1.PodStatus) {
	normalize(&s)
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.want[pod.UID]
	if d == nil {
		d = &desired{status: pod.Status}
		m.want[pod.UID] = d
	} else if equality.Semantic.DeepEqual(d.status, s) {
		return
	}
	if m.Ended != nil {
		m.countEnded("init_container", d.status.InitContainerStatuses, s.InitContainerStatuses)
		m.countEnded("container", d.status.ContainerStatuses, s.ContainerStatuses)
		m.countEnded("ephemeral_container", d.status.EphemeralContainerStatuses, s.EphemeralContainerStatuses)
	}
	d.namespace, d.name, d.status = pod.Namespace, pod.Name, s
	if d.since.IsZero() {
		d.since = time.Now()
	}
	if s.StartTime == nil {
		now := metav1.Now().Rfc3339Copy()
		d.status.StartTime = &now
		if pod.Status.StartTime != nil {
			d.status.StartTime = pod.Status.StartTime
		}
	}
	m.queue.Add(pod.UID)
	if m.Changed != nil {
		m.Changed(pod.UID)
	}
}

// countEnded counts the containers that have ended since they had other statuses.
func (m *Manager) countEnded(kind string, before, after []v1.ContainerStatus) {
	for i := range after {
		ended, was := after[i].State.Terminated, find(before, after[i].Name)
		if ended != nil && (was == nil || was.State.Terminated == nil) {
			m.Ended.WithLabelValues(kind, strconv.Itoa(int(ended.ExitCode)), ended.Reason).Inc()
		}
	}
}

// Get returns what was last set for a pod.
func (m *Manager) Get(uid types.UID) (v1.PodStatus, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.want[uid]; d != nil {
		return *d.status.DeepCopy(), true
	}
	return v1.PodStatus{}, false
}

// Removed says that nothing of the pod is left on this node; its object may go once it is to be deleted.
func (m *Manager) Removed(uid types.UID) {
	m.mu.Lock()
	if d := m.want[uid]; d != nil {
		d.remove = true
	}
	m.mu.Unlock()
	m.queue.Add(uid)
}

// Reconcile looks at a pod again that changed in the API.
func (m *Manager) Reconcile(uid types.UID) {
	m.mu.Lock()
	_, known := m.want[uid]
	m.mu.Unlock()
	if known {
		m.queue.Add(uid)
	}
}

// Forget drops a pod that has left the API.
func (m *Manager) Forget(uid types.UID) {
	m.mu.Lock()
	delete(m.want, uid)
	m.mu.Unlock()
}

func (m *Manager) write(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	d := m.want[uid]
	var now desired
	if d != nil {
		now, d.since = *d, time.Time{}
	}
	m.mu.Unlock()
	if d == nil {
		return nil
	}
	pod, err := m.current(ctx, uid, &now)
	if pod != nil && err == nil {
		pod, err = m.patch(ctx, pod, &now.status)
	}
	if pod == nil || err != nil {
		m.mu.Lock()
		if !now.since.IsZero() {
			d.since = now.since
		}
		m.mu.Unlock()
		return err
	}
	if m.Written != nil && !now.since.IsZero() {
		m.Written(time.Since(now.since))
	}
	m.mu.Lock()
	if d := m.want[uid]; d != nil {
		d.written = pod
	}
	m.mu.Unlock()
	if now.remove && pod.DeletionTimestamp != nil {
		return m.remove(ctx, pod)
	}
	return nil
}

// current is the newest version of the pod's object that we know of; nil when it is gone.
func (m *Manager) current(ctx context.Context, uid types.UID, d *desired) (*v1.Pod, error) {
	pod, err := m.pods.Pods(d.namespace).Get(d.name)
	if apierrors.IsNotFound(err) || err == nil && !shows(pod, uid) { // the lister may be behind, or the pod replaced
		if pod, err = m.client.CoreV1().Pods(d.namespace).Get(ctx, d.name, metav1.GetOptions{}); apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			return nil, nil // a node may not even ask for a pod that is no longer bound to it
		}
	}
	if err != nil {
		return nil, fmt.Errorf("get Pod %s/%s: %w", d.namespace, d.name, err)
	}
	if !shows(pod, uid) {
		return nil, nil
	}
	if d.written != nil {
		if order, err := resourceversion.CompareResourceVersion(d.written.ResourceVersion, pod.ResourceVersion); err == nil && order > 0 {
			return d.written, nil
		}
	}
	return pod, nil
}

// shows says whether an object is that of a pod, or the mirror of a static one.
func shows(object *v1.Pod, uid types.UID) bool {
	return object.UID == uid || object.Annotations[v1.MirrorPodAnnotationKey] == string(uid)
}

// patch writes what differs and returns the object as it is then; nil when the pod is gone.
func (m *Manager) patch(ctx context.Context, pod *v1.Pod, want *v1.PodStatus) (*v1.Pod, error) {
	patch, err := diff(pod, want)
	if err != nil || patch == nil {
		return pod, err
	}
	updated, err := m.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case apierrors.IsConflict(err): // the UID does not match: the pod was replaced
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("patch status of Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	klog.FromContext(ctx).V(3).Info("Wrote pod status", "pod", klog.KObj(pod), "phase", want.Phase)
	return updated, nil
}

// diff is the patch from what the API has to what it is to have; nil if that is the same.
func diff(pod *v1.Pod, want *v1.PodStatus) ([]byte, error) {
	is := &v1.Pod{Status: *pod.Status.DeepCopy()}
	normalize(&is.Status)
	next := &v1.Pod{Status: merge(pod, want)}
	if equality.Semantic.DeepEqual(is.Status, next.Status) {
		return nil, nil
	}
	from, err := json.Marshal(is)
	if err != nil {
		return nil, err
	}
	to, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("make patch of Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if bytes.Equal(patch, []byte("{}")) {
		return nil, nil
	}
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return nil, err
	}
	fields["metadata"] = map[string]any{"uid": pod.UID} // never another pod of the same name
	return json.Marshal(fields)
}

// merge keeps what others wrote into the status, and no step back from a phase that is final.
func merge(pod *v1.Pod, want *v1.PodStatus) v1.PodStatus {
	s := *want.DeepCopy()
	var conditions []v1.PodCondition
	for _, c := range pod.Status.Conditions {
		if ours := condition(s.Conditions, c.Type); ours == nil && !isKubeletCondition(c.Type) {
			conditions = append(conditions, c)
		}
	}
	for _, c := range s.Conditions {
		if theirs := condition(pod.Status.Conditions, c.Type); theirs != nil && !isKubeletCondition(c.Type) {
			c = *theirs
		}
		conditions = append(conditions, c)
	}
	s.Conditions = conditions
	if isTerminal(pod.Status.Phase) {
		s.Phase = pod.Status.Phase
	}
	s.NominatedNodeName = pod.Status.NominatedNodeName
	s.ResourceClaimStatuses = pod.Status.ResourceClaimStatuses
	s.ExtendedResourceClaimStatus = pod.Status.ExtendedResourceClaimStatus
	if pod.Status.QOSClass != "" {
		s.QOSClass = pod.Status.QOSClass
	}
	return s
}

func isKubeletCondition(t v1.PodConditionType) bool {
	for _, k := range kubeletConditions {
		if k == t {
			return true
		}
	}
	return false
}

// remove deletes the object at once, if it is still that pod.
func (m *Manager) remove(ctx context.Context, pod *v1.Pod) error {
	var now int64
	err := m.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.Forget(pod.UID)
	klog.FromContext(ctx).V(3).Info("Deleted pod for good", "pod", klog.KObj(pod))
	return nil
}

// normalize cuts times to the seconds that the API keeps, so that equal statuses compare equal.
func normalize(s *v1.PodStatus) {
	cut := func(t *metav1.Time) {
		if !t.IsZero() {
			*t = t.Rfc3339Copy()
		}
	}
	if s.StartTime != nil {
		cut(s.StartTime)
	}
	for _, list := range [][]v1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for _, state := range []*v1.ContainerState{&list[i].State, &list[i].LastTerminationState} {
				if state.Running != nil {
					cut(&state.Running.StartedAt)
				}
				if state.Terminated != nil {
					cut(&state.Terminated.StartedAt)
					cut(&state.Terminated.FinishedAt)
				}
			}
		}
	}
	for i := range s.Conditions {
		cut(&s.Conditions[i].LastTransitionTime)
		cut(&s.Conditions[i].LastProbeTime)
	}
}
