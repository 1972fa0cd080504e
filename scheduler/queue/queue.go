// SPDX-License-Identifier: Apache-2.0

// Package queue holds the pods that wait for a node.
//
// A pod is in one of four places:
//
//	active         ready to be tried, in the order of the queue sort plugin
//	back-off       worth another try once its back-off has passed, or when nothing else is to be done
//	unschedulable  waits for an event that may help, as judged by the hints of the plugins that rejected it,
//	               or for five minutes; or is gated by a PreEnqueue plugin
//	in flight      being tried; events that happen meanwhile are remembered, so that none is missed
//
// Nothing runs in the background: one timer is set while there is something to wait for.
package queue

import (
	"cmp"
	"math"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Config holds the queue's times.
type Config struct {
	InitialBackoff time.Duration // 1 s
	MaxBackoff     time.Duration // 10 s
	// MaxUnschedulable is how long a pod waits for an event before it is tried anyway: 5 min.
	MaxUnschedulable time.Duration
	// Latest returns the version of a pod that the informer has, nil if the pod needs no node any more. It is asked while the queue is
	// locked: what it says is no older than the last event that the queue was told of, so that no pod comes back after it has gone.
	Latest func(pod *v1.Pod) *v1.Pod
	// Incoming, if not nil, hears of each pod that enters a queue, and why.
	Incoming func(queue, event string)
}

// What has pods enter a queue, besides events of the cluster.
const (
	PodAdd    = "UnscheduledPodAdd"
	PodUpdate = "UnscheduledPodUpdate"

	attemptFailed   = "ScheduleAttemptFailure"
	backoffComplete = "BackoffComplete"
	poppedEarly     = "PopFromBackoffQ"
	waitedTooLong   = "UnschedulableTimeout"
	forced          = "ForceActivate"
)

// window is how exact back-offs are: of pods whose back-off ends in the same window, the more important comes first, and others wait for it.
const window = time.Second

// flushEvery is how exact MaxUnschedulable is.
const flushEvery = 30 * time.Second

// Queue is safe for concurrent use.
type Queue struct {
	config    Config
	profile   func(pod *v1.Pod) *framework.Profile // of the pod's scheduler name; never nil for pods in the queue
	Nominated *Nominated

	mu            sync.Mutex
	ready         *sync.Cond // signalled when there is something to pop, or closed
	closed        bool
	active        *podHeap
	backoff       *podHeap // rejected pods
	errorBackoff  *podHeap // pods whose attempt ended in an error: these sit out their time
	unschedulable map[types.UID]*framework.QueuedPod

	// inFlight has, for each pod being tried, how many events there had been when it was popped.
	// log holds the latest events: the first is number logStart, and logStart <= every value of inFlight.
	inFlight map[types.UID]int
	log      []*framework.Event
	logStart int

	timer      *time.Timer // fires at the end of the first back-off, or to flush
	timerAt    time.Time   // when; zero if not set
	flushTimer time.Time   // when to look for pods that waited too long; zero if there is none
}

// New returns an empty queue. profile finds a pod's profile.
func New(config Config, less func(a, b *framework.QueuedPod) bool, profile func(*v1.Pod) *framework.Profile) *Queue {
	q := &Queue{
		config: config, profile: profile, Nominated: NewNominated(),
		active:        newPodHeap(less),
		backoff:       newPodHeap(soonest(less)),
		errorBackoff:  newPodHeap(soonest(less)),
		unschedulable: make(map[types.UID]*framework.QueuedPod),
		inFlight:      make(map[types.UID]int),
	}
	q.ready = sync.NewCond(&q.mu)
	return q
}

// soonest orders by the window in which the back-off ends, and within it as less says.
func soonest(less func(a, b *framework.QueuedPod) bool) func(a, b *framework.QueuedPod) bool {
	return func(a, b *framework.QueuedPod) bool {
		if c := a.BackoffUntil.Truncate(window).Compare(b.BackoffUntil.Truncate(window)); c != 0 {
			return c < 0
		}
		return less(a, b)
	}
}

// Open lets Pop return pods again after Close.
func (q *Queue) Open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = false
	q.timerAt = time.Time{}
	q.setTimer()
}

// Close makes Pop return nil from now on.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.ready.Broadcast()
}

// Add takes in a new pod.
func (q *Queue) Add(pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.find(pod.UID) != nil {
		return
	}
	if _, busy := q.inFlight[pod.UID]; busy {
		return
	}
	p := &framework.QueuedPod{PodInfo: framework.NewPodInfo(pod), Timestamp: time.Now()}
	q.Nominated.Update(p.PodInfo, "")
	q.activate(p, PodAdd)
}

// Update takes over a changed pod, and has it tried again if the change may help.
func (q *Queue) Update(old, pod *v1.Pod, events []*framework.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, event := range events {
		q.remember(event)
	}
	if _, busy := q.inFlight[pod.UID]; busy {
		return // the pod is read again before it is put back
	}
	info := framework.NewPodInfo(pod)
	q.Nominated.Update(info, old.Status.NominatedNodeName)
	p := q.find(pod.UID)
	if p == nil {
		p = &framework.QueuedPod{PodInfo: info, Timestamp: time.Now()}
		q.activate(p, PodUpdate)
		return
	}
	p.PodInfo = info
	if q.active.get(pod.UID) != nil {
		q.active.fix(pod.UID)
		return
	}
	if q.unschedulable[pod.UID] == nil {
		return
	}
	for _, event := range events {
		if q.requeue(p, q.judge(p, event), event.Label()) {
			return
		}
	}
}

// Delete forgets a pod that is gone, finished, or bound.
func (q *Queue) Delete(pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.Nominated.Remove(pod)
	q.take(pod.UID)
}

// Pop waits for a pod to try. It returns nil once the queue is closed. The caller must then call
// PutBack or Done.
func (q *Queue) Pop() *framework.QueuedPod {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return nil
		}
		p := q.active.pop()
		if p == nil {
			if p = q.backoff.pop(); p != nil { // nothing else to do
				q.tell("active", poppedEarly)
			}
		}
		if p != nil {
			p.Attempts++
			p.BackoffUntil = time.Time{}
			q.inFlight[p.Pod.UID] = q.logStart + len(q.log)
			return p
		}
		q.ready.Wait()
	}
}

// Done says that the pod popped needs no further try, or is in safe hands.
func (q *Queue) Done(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done(uid)
}

func (q *Queue) done(uid types.UID) {
	if _, ok := q.inFlight[uid]; !ok {
		return
	}
	delete(q.inFlight, uid)
	oldest := q.logStart + len(q.log)
	for _, start := range q.inFlight {
		oldest = min(oldest, start)
	}
	clear(q.log[:oldest-q.logStart])
	q.log, q.logStart = q.log[oldest-q.logStart:], oldest
	if len(q.log) == 0 {
		q.log = nil
	}
}

// PutBack returns a pod that was popped and found no node, or could not be bound. failed tells of an
// error, as opposed to a rejection by p.Rejectors. A nil nomination leaves the pod's nominated node as the API has it. PutBack returns the
// pod's latest version, nil if it needs no node any more.
func (q *Queue) PutBack(p *framework.QueuedPod, failed bool, nomination *framework.Nomination) *v1.Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	start, tracked := q.inFlight[p.Pod.UID]
	var missed []*framework.Event
	if tracked {
		missed = q.log[start-q.logStart:]
	}
	defer q.done(p.Pod.UID)
	pod := q.config.Latest(p.Pod)
	if pod == nil {
		q.Nominated.Remove(p.Pod)
		return nil
	}
	info, was := framework.NewPodInfo(pod), p.Pod.Status.NominatedNodeName
	if nomination != nil {
		q.Nominated.Set(info, nomination.NodeName)
	} else {
		q.Nominated.Update(info, was)
	}
	if q.find(pod.UID) != nil {
		return pod
	}
	p.PodInfo = info
	p.Timestamp = time.Now()
	p.Gate, p.Flushed = "", false
	if failed {
		p.Errors++
	} else {
		p.Rejections++
		p.Errors = 0
	}
	p.BackoffUntil = p.Timestamp.Add(q.backoffOf(p))

	// An error is worth a retry by itself; so is a pod that nobody watched the events for.
	verdict := skip
	if failed || len(p.Rejectors) == 0 || !tracked {
		verdict = later
	}
	for _, event := range missed {
		verdict = max(verdict, q.judge(p, event))
		if event.For == pod.UID {
			p.Errors = 1
		}
	}
	if !q.requeue(p, verdict, attemptFailed) {
		q.park(p, attemptFailed)
	}
	return pod
}

// backoffOf doubles from the initial back-off with each rejection, or with each error in a row.
func (q *Queue) backoffOf(p *framework.QueuedPod) time.Duration {
	n := cmp.Or(p.Errors, p.Rejections)
	d := float64(q.config.InitialBackoff) * math.Pow(2, float64(n-1))
	return time.Duration(min(d, float64(q.config.MaxBackoff)))
}

// Notify has all pods tried again that the event may help.
func (q *Queue) Notify(event *framework.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remember(event)
	if len(q.unschedulable) == 0 {
		return
	}
	label := event.Label()
	for _, p := range q.unschedulable {
		q.requeue(p, q.judge(p, event), label)
	}
}

func (q *Queue) remember(event *framework.Event) {
	if len(q.inFlight) > 0 {
		q.log = append(q.log, event)
	}
}

// Recheck looks again at a gated pod: the gate may have been lifted without an event. With again, what was to make room for the pod has failed, so that
// no event will come: it is to be tried again, gated or not, once it has sat out its back-off.
func (q *Queue) Recheck(uid types.UID, again bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.unschedulable[uid]
	switch _, busy := q.inFlight[uid]; {
	case busy && again:
		q.remember(&framework.Event{Kind: framework.AnyKind, Action: framework.Any, For: uid})
	case p != nil && p.Gate != "":
		q.requeue(p, now, forced)
	case p != nil && again:
		p.Errors = 1
		q.requeue(p, later, forced)
	}
}

// verdict says what an event is worth to a pod.
type verdict int

const (
	skip  verdict = iota // nothing
	later                // a try after the back-off
	now                  // a try at once
)

// judge asks the plugins that rejected the pod.
func (q *Queue) judge(p *framework.QueuedPod, event *framework.Event) verdict {
	if event.For != "" && event.For != p.Pod.UID {
		return skip
	}
	if event.Kind == framework.TargetPod && event.NewPod() != nil && event.NewPod().UID != p.Pod.UID {
		return skip
	}
	if event.Kind == framework.AssignedPod && event.OldPod() != nil && event.OldPod().UID == p.Pod.UID {
		return skip // the pod's own failed placement
	}
	if event.UpTo != nil && framework.Priority(p.Pod) > *event.UpTo {
		return skip
	}
	best := skip
	profile := q.profile(p.Pod)
	for plugin := range p.Rejectors {
		hints := profile.Hints(plugin)
		for i := range hints {
			h := &hints[i]
			if !h.Covers(event) || (h.Helps != nil && event.Kind != framework.AnyKind && !h.Helps(p.PodInfo, event)) {
				continue
			}
			if p.Waiting.Has(plugin) {
				return now
			}
			best = later
		}
	}
	return best
}

// requeue moves a pod out of the unschedulable ones as the verdict says, and tells whether it did.
func (q *Queue) requeue(p *framework.QueuedPod, v verdict, event string) bool {
	switch {
	case v == skip:
		return false
	case v == now || p.Gate != "" || !p.BackoffUntil.After(time.Now()):
		q.activate(p, event)
	default:
		q.delay(p, event)
	}
	return true
}

// activate makes a pod ready to be tried, unless a PreEnqueue plugin objects.
func (q *Queue) activate(p *framework.QueuedPod, event string) {
	if q.isGated(p, event) {
		return
	}
	q.tell("active", event)
	if p.Added.IsZero() {
		p.Added = time.Now()
	}
	delete(q.unschedulable, p.Pod.UID)
	q.active.push(p)
	q.ready.Signal()
}

// isGated asks the PreEnqueue plugins, and parks a pod that one of them holds back.
func (q *Queue) isGated(p *framework.QueuedPod, event string) bool {
	gate, status := q.profile(p.Pod).PreEnqueue(p.Pod)
	p.Gate = gate
	if status == nil {
		return false
	}
	p.Rejectors, p.Waiting, p.Flushed = sets.New(gate), nil, false
	q.park(p, event)
	return true
}

func (q *Queue) tell(queue, event string) {
	if q.config.Incoming != nil {
		q.config.Incoming(queue, event)
	}
}

// delay has a pod sit out its back-off, or less of it when nothing else is to be done: that is why gates are looked at before.
func (q *Queue) delay(p *framework.QueuedPod, event string) {
	if q.isGated(p, event) {
		return
	}
	q.tell("backoff", event)
	delete(q.unschedulable, p.Pod.UID)
	if p.Errors > 0 {
		q.errorBackoff.push(p)
	} else {
		q.backoff.push(p)
		q.ready.Signal() // it is popped early when nothing else is to be done
	}
	q.setTimer()
}

func (q *Queue) park(p *framework.QueuedPod, event string) {
	if p.Gate != "" {
		q.tell("gated", event)
	} else {
		q.tell("unschedulable", event)
	}
	q.unschedulable[p.Pod.UID] = p
	if q.flushTimer.IsZero() && p.Gate == "" {
		q.flushTimer = time.Now().Add(flushEvery)
		q.setTimer()
	}
}

// setTimer sets the timer to the next thing to do.
func (q *Queue) setTimer() {
	next := q.flushTimer
	for _, h := range []*podHeap{q.backoff, q.errorBackoff} {
		if p := h.peek(); p != nil && (next.IsZero() || p.BackoffUntil.Before(next)) {
			next = p.BackoffUntil
		}
	}
	switch {
	case q.closed || next.IsZero():
		return
	case q.timer == nil:
		q.timer = time.AfterFunc(time.Until(next), q.tick)
	case !q.timerAt.Equal(next):
		q.timer.Reset(time.Until(next))
	}
	q.timerAt = next
}

// tick ends back-offs, and the wait of pods that have waited too long.
func (q *Queue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timerAt = time.Time{}
	t := time.Now()
	for _, h := range []*podHeap{q.backoff, q.errorBackoff} {
		for p := h.peek(); p != nil && !p.BackoffUntil.After(t); p = h.peek() {
			q.activate(h.pop(), backoffComplete)
		}
	}
	if !q.flushTimer.IsZero() && !q.flushTimer.After(t) {
		q.flush(t)
	}
	q.setTimer()
}

func (q *Queue) flush(t time.Time) {
	q.flushTimer = time.Time{}
	for _, p := range q.unschedulable {
		if p.Gate != "" {
			continue
		}
		if t.Sub(p.Timestamp) >= q.config.MaxUnschedulable {
			p.Flushed = true
			q.requeue(p, later, waitedTooLong)
		} else {
			q.flushTimer = t.Add(flushEvery)
		}
	}
}

func (q *Queue) find(uid types.UID) *framework.QueuedPod {
	for _, h := range []*podHeap{q.active, q.backoff, q.errorBackoff} {
		if p := h.get(uid); p != nil {
			return p
		}
	}
	return q.unschedulable[uid]
}

func (q *Queue) take(uid types.UID) {
	for _, h := range []*podHeap{q.active, q.backoff, q.errorBackoff} {
		h.remove(uid)
	}
	delete(q.unschedulable, uid)
}

// Find says where a pod is, how often it was tried, and when its back-off ends if it has one.
func (q *Queue) Find(uid types.UID) (place string, attempts int, until *time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.find(uid)
	switch {
	case p == nil:
		if _, busy := q.inFlight[uid]; busy {
			place = "in flight"
		}
		return place, 0, nil
	case q.active.get(uid) != nil:
		place = "active"
	case p.Gate != "":
		place = "gated"
	case q.unschedulable[uid] != nil:
		place = "unschedulable"
	default:
		end := p.BackoffUntil
		place, until = "backoff", &end
	}
	return place, p.Attempts, until
}

// Pending counts the pods by place, for tests and metrics. Gated ones are among the unschedulable.
func (q *Queue) Pending() (active, backoff, unschedulable, inFlight int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.active.pods), len(q.backoff.pods) + len(q.errorBackoff.pods), len(q.unschedulable), len(q.inFlight)
}

// Remembered counts the events that are remembered for the pods in flight, by label, and these pods as PodPopped.
func (q *Queue) Remembered() map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	counts := make(map[string]int)
	for _, event := range q.log {
		counts[event.Label()]++
	}
	if n := len(q.inFlight); n > 0 {
		counts["PodPopped"] = n
	}
	return counts
}

// Waiting calls tell for each pod that waits for an event or is gated.
func (q *Queue) Waiting(tell func(p *framework.QueuedPod)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.unschedulable {
		tell(p)
	}
}
