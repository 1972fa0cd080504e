// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// stage is how far a pod is. It only ever grows.
type stage int

const (
	syncing     stage = iota // the pod is to run
	terminating              // its containers are being ended
	terminated               // they have ended; volumes and cgroups are being removed
	finished                 // nothing is left to do but to remember that it must never start again
)

// worker brings one pod, known by its UID, to where it should be.
//
// Only run and what it calls touch the fields without a guard.
type worker struct {
	uid  types.UID
	news chan struct{} // capacity 1: the pod itself changed, or must be looked at for its sake
	wake chan struct{} // capacity 1: something around it changed

	mu     sync.Mutex
	pod    *v1.Pod            // guarded by mu: the newest version
	stage  stage              // guarded by mu
	gone   bool               // guarded by mu: no longer in the API
	cancel context.CancelFunc // guarded by mu: ends the step under way
	ready  bool               // guarded by mu: admitted to this node
	waits  time.Time          // guarded by mu: since when it waits for room to grow; zero: it does not
	nudge  string             // guarded by mu: what last may have made room for it while it waits
	holds  bool               // guarded by mu: it still has what it was granted before, besides what it is granted now
	over   *status.End        // guarded by mu: the node has decided that the pod is over
	grace  *int64             // guarded by mu: the seconds that its containers have then; nil for the pod's own
	mark   containers.Mark    // guarded by mu: of what the runtime had for the pod when last asked

	waiting map[string]*containers.Waiting // why containers could not be started
	ended   chan struct{}                  // closed when nothing of the pod is left but its object
	room    []<-chan struct{}              // closed when those have ended that are ended for this pod
	resize  resizing                       // how far a change of resources is
	seen    bool                           // a first sync was made
	began   time.Time                      // when the pod was first heard of
	started bool                           // it was seen running, or ran before this process
	old     []string                       // containers that ran before this process
}

// The pauses of a worker that has nothing to do, or could not do it.
const (
	resyncPeriod = 5 * time.Minute // whatever happens is told; this is for what is not
	volumePeriod = time.Minute     // of pods with volumes of drivers, which may want to be called again
	retryFirst   = time.Second
	retryMost    = 10 * time.Second
)

// resync is how long a pod is left alone when nothing happens, not all at the same moment.
func resync(pod *v1.Pod) time.Duration {
	period := resyncPeriod
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.CSI != nil || v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			period = volumePeriod
		}
	}
	return period/2 + rand.N(period)
}

// saw notes what the runtime has for the pod; lastSeen is that.
func (w *worker) saw(have *containers.Status) {
	w.mu.Lock()
	w.mark = have.Mark
	w.mu.Unlock()
}

func (w *worker) lastSeen() containers.Mark {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mark
}

// podChanged takes a new version of a pod that is bound to this node.
func (k *Kubelet) podChanged(pod *v1.Pod) {
	k.mu.Lock()
	w := k.workers[pod.UID]
	if w == nil {
		w = &worker{uid: pod.UID, news: make(chan struct{}, 1), wake: make(chan struct{}, 1), ended: make(chan struct{}), began: time.Now(), pod: pod, waiting: map[string]*containers.Waiting{}}
		k.workers[pod.UID] = w
		k.metrics.ContainersPerPod.Observe(float64(len(pod.Spec.Containers)))
		if pod.DeletionTimestamp != nil {
			w.stage = terminating
		}
		k.startLocked(w)
		k.mu.Unlock()
		return
	}
	k.mu.Unlock()
	k.countResize(w.update(pod), pod)
	k.status.Reconcile(pod.UID)
}

// podDeleted takes note that the pod has left the API: whatever is left of it has to go.
func (k *Kubelet) podDeleted(pod *v1.Pod) {
	k.mu.Lock()
	w := k.workers[pod.UID]
	k.mu.Unlock()
	k.status.Forget(pod.UID)
	if w == nil {
		return
	}
	w.mu.Lock()
	w.gone = true
	done := w.stage == finished
	w.advanceLocked(terminating)
	w.mu.Unlock()
	signal(w.news)
	if done {
		k.dismiss(w)
	}
}

// startLocked starts the worker if Run has come that far. The caller holds k.mu.
func (k *Kubelet) startLocked(w *worker) {
	if k.ctx == nil || k.ctx.Err() != nil {
		return
	}
	ctx := k.ctx
	k.wg.Go(func() { k.work(ctx, w) })
}

// wake makes the pod's worker look again.
func (k *Kubelet) wake(uid types.UID) {
	k.mu.Lock()
	w := k.workers[uid]
	k.mu.Unlock()
	if w != nil {
		w.poke()
	}
}

// wakeAll makes all workers look again, also those that failed a moment ago.
func (k *Kubelet) wakeAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		signal(w.news)
	}
	k.statics.lookAgain()
}

func (w *worker) poke() { signal(w.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// update takes a newer version. A deletion, or one with a shorter grace period, ends the step under way. What only
// says what this kubelet wrote itself is no reason to look again. It returns the version before.
func (w *worker) update(pod *v1.Pod) (was *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was = w.pod
	w.pod = pod
	if pod.DeletionTimestamp != nil {
		w.advanceLocked(terminating)
		if w.stage == terminating && was.DeletionTimestamp != nil && shorter(pod, was) && w.cancel != nil {
			w.cancel()
		}
	}
	if asksForMore(was, pod) {
		signal(w.news)
	}
	return was
}

// asksForMore says whether a new version of a pod has anything that its node must act on.
func asksForMore(was, is *v1.Pod) bool {
	return !equality.Semantic.DeepEqual(was.Spec, is.Spec) ||
		!maps.Equal(was.Labels, is.Labels) || !maps.Equal(was.Annotations, is.Annotations) ||
		!was.DeletionTimestamp.Equal(is.DeletionTimestamp) || shorter(is, was) || was.Generation != is.Generation ||
		!equality.Semantic.DeepEqual(was.Status.ResourceClaimStatuses, is.Status.ResourceClaimStatuses) ||
		slices.ContainsFunc(is.Spec.ReadinessGates, func(gate v1.PodReadinessGate) bool {
			return conditionStatus(was, gate.ConditionType) != conditionStatus(is, gate.ConditionType)
		})
}

func conditionStatus(pod *v1.Pod, t v1.PodConditionType) v1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func shorter(pod, was *v1.Pod) bool {
	return pod.DeletionGracePeriodSeconds != nil && (was.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds < *was.DeletionGracePeriodSeconds)
}

// advance moves the pod on; it never moves back.
func (w *worker) advance(to stage) {
	w.mu.Lock()
	w.advanceLocked(to)
	w.mu.Unlock()
}

func (w *worker) advanceLocked(to stage) {
	if to <= w.stage {
		return
	}
	w.stage = to
	if to == finished {
		close(w.ended)
	}
	if to == terminating && w.cancel != nil {
		w.cancel() // whatever starts containers now must stop doing so
	}
}

// decide ends the pod by the node's own will, unless that was decided before.
func (w *worker) decide(end *status.End, grace *int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over == nil {
		w.over, w.grace = end, grace
	}
	w.advanceLocked(terminating)
	signal(w.news)
}

// decided is what the node decided, if it did.
func (w *worker) decided() (*status.End, *int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over, w.grace
}

// begin opens a step on the newest version of the pod.
func (w *worker) begin(ctx context.Context) (context.Context, *v1.Pod, stage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.cancel = context.WithCancel(ctx)
	return ctx, w.pod, w.stage
}

func (w *worker) end() {
	w.mu.Lock()
	w.cancel()
	w.cancel = nil
	w.mu.Unlock()
}

// next says when to make the following step.
type next struct {
	now bool
	at  time.Time // zero: when something changes
}

// work makes steps until the pod is finished or ctx ends.
func (k *Kubelet) work(ctx context.Context, w *worker) {
	w.mu.Lock()
	name := klog.KObj(w.pod)
	w.mu.Unlock()
	logger := klog.FromContext(ctx).WithValues("pod", name, "podUID", w.uid)
	ctx = klog.NewContext(ctx, logger)
	pause := retryFirst
	for ctx.Err() == nil {
		stepCtx, pod, at := w.begin(ctx)
		then, err := k.step(stepCtx, w, pod, at)
		interrupted := stepCtx.Err() != nil
		w.end()
		if at == finished {
			return
		}
		wait, least := resync(pod), time.Duration(0)
		switch {
		case then.now || interrupted:
			continue
		case !then.at.IsZero():
			wait = min(wait, time.Until(then.at))
		case errors.Is(err, errNotRegistered) || errors.Is(err, errMakingRoom): // we are woken
		case err != nil:
			logger.Error(err, "Error syncing pod, skipping")
			wait, pause = pause, min(2*pause, retryMost)
			least = retryFirst // our own failed attempts come back as events of the runtime
		}
		if err == nil {
			pause = retryFirst
		}
		w.sleep(ctx, wait, least)
	}
}

// sleep lasts at most d; what changes around the pod ends it after least, a change of the pod itself at once.
func (w *worker) sleep(ctx context.Context, d, least time.Duration) {
	timer, early := time.NewTimer(max(d, 0)), time.NewTimer(least)
	defer timer.Stop()
	defer early.Stop()
	wake := w.wake
	if least > 0 {
		wake = nil
	}
	for {
		select {
		case <-early.C:
			wake = w.wake
			continue
		case <-ctx.Done():
		case <-w.news:
		case <-wake:
		case <-timer.C:
		}
		return
	}
}

// step does what the pod's stage asks for.
func (k *Kubelet) step(ctx context.Context, w *worker, pod *v1.Pod, at stage) (next, error) {
	began, operation := time.Now(), "terminate"
	if !w.seen {
		k.metrics.PodWorkerStart.Observe(began.Sub(w.began).Seconds())
	}
	defer func() { k.metrics.PodWork.WithLabelValues(operation).Observe(time.Since(began).Seconds()) }()
	switch at {
	case syncing:
		operation = "sync"
		if !w.seen {
			operation = "create"
		}
		done, then, err := k.syncPod(ctx, w, pod)
		if done {
			w.advance(terminating)
			then.now = true
		}
		return then, err
	case terminating:
		if err := k.terminate(ctx, w, pod); err != nil {
			return next{}, err
		}
		w.advance(terminated)
		return next{now: true}, nil
	case terminated:
		if err := k.tidyUp(ctx, w, pod); err != nil {
			return next{}, err
		}
		w.advance(finished)
		return next{now: true}, nil
	}
	k.finish(w)
	return next{}, nil
}

// finish leaves a finished worker in the list while its pod is in the API, so that this UID never starts again.
func (k *Kubelet) finish(w *worker) {
	w.mu.Lock()
	gone := w.gone
	w.mu.Unlock()
	if gone {
		k.dismiss(w)
	}
}

// dismiss forgets a pod that has left the API, and removes the last of it.
func (k *Kubelet) dismiss(w *worker) {
	k.mu.Lock()
	delete(k.workers, w.uid)
	k.mu.Unlock()
	k.prober.Forget(w.uid)
	k.status.Forget(w.uid)
	k.pods.Changed(w.uid)
	k.grants.Forget(w.uid)
	k.users.Forget(w.uid)
	k.cleanUp(w.uid)
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	k.statics.dismissed(pod)
}

// active lists the pods that hold resources of the node, each with what it was granted.
func (k *Kubelet) active() []*v1.Pod {
	return k.granted(false, func(*worker) bool { return true })
}

// rivals lists the pods that a pod shares the node with as the API has it. Those that were deleted by force are not among
// them, though they may not have ended: the scheduler has given their place away.
func (k *Kubelet) rivals(of types.UID) []*v1.Pod {
	return k.granted(true, func(w *worker) bool { return w.uid != of && !w.gone })
}

// granted lists those pods that hold resources of the node which are wanted: with what they were granted, or with all that they hold.
func (k *Kubelet) granted(all bool, wanted func(*worker) bool) []*v1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	var pods []*v1.Pod
	for _, w := range k.workers {
		w.mu.Lock()
		// What an earlier process let in counts before this one has come to it.
		if in := w.ready || !status.IsTerminal(w.pod.Status.Phase) && k.grants.Has(w.uid); in && w.stage < terminated && wanted(w) {
			granted, _ := k.grants.Apply(w.pod)
			if all && (w.holds || !w.ready) {
				granted = k.grants.Held(w.pod)
			}
			pods = append(pods, granted)
		}
		w.mu.Unlock()
	}
	return pods
}
