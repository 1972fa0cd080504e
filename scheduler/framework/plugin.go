// SPDX-License-Identifier: Apache-2.0

// Package framework is what the scheduler and its plugins agree on: how a pod and the nodes look
// to a plugin, at which points a plugin is asked, and how it answers.
//
// A plugin is a value with a name and any number of the interfaces in this file. What it works out
// about a pod once (PreFilter, PreScore) it returns as a State, and gets it back when asked about
// each node. So plugins keep nothing between calls, and most are pure functions.
//
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/
package framework

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// MaxScore is the best normalized score of a node.
const MaxScore int64 = 100

// Point is where plugins are asked, by its name in a configuration.
type Point string

// The points, each with the interface of a plugin that is asked there.
const (
	AtPreEnqueue Point = "preEnqueue"
	AtQueueSort  Point = "queueSort"
	AtPreFilter  Point = "preFilter"
	AtFilter     Point = "filter"
	AtPostFilter Point = "postFilter"
	AtPreScore   Point = "preScore"
	AtScore      Point = "score"
	AtReserve    Point = "reserve"
	AtPermit     Point = "permit"
	AtPreBind    Point = "preBind"
	AtBind       Point = "bind"
	AtPostBind   Point = "postBind"
)

// Points lists all of them.
var Points = []Point{
	AtPreEnqueue, AtQueueSort, AtPreFilter, AtFilter, AtPostFilter, AtPreScore, AtScore, AtReserve, AtPermit, AtPreBind, AtBind, AtPostBind,
}

// asked says whether a plugin is one that is asked at a point.
var asked = map[Point]func(Plugin) bool{
	AtPreEnqueue: is[PreEnqueuer], AtQueueSort: is[QueueSorter], AtPreFilter: is[PreFilter], AtFilter: is[Filter], AtPostFilter: is[PostFilter],
	AtPreScore: is[PreScore], AtScore: is[Scorer], AtReserve: is[Reserver], AtPermit: is[Permitter], AtPreBind: is[PreBinder],
	AtBind: is[Binder], AtPostBind: is[PostBinder],
}

func is[T any](p Plugin) bool {
	_, ok := p.(T)
	return ok
}

// Plugin is what all plugins have.
type Plugin interface{ Name() string }

// State is what a plugin worked out about one pod for one cycle.
type State any

// PreEnqueuer keeps pods out of the queue's reach until they are ready to be tried.
type PreEnqueuer interface {
	Plugin
	PreEnqueue(pod *v1.Pod) *Status
}

// QueueSorter orders the active queue. A profile has exactly one, the same in all profiles.
type QueueSorter interface {
	Plugin
	Less(a, b *QueuedPod) bool
}

// Hinter says when a pod that the plugin rejected is worth another try. A plugin that rejects
// pods without being a Hinter has them tried again on every event.
type Hinter interface {
	Plugin
	Hints() []Hint
}

// PreFilter looks at the pod and all nodes once. A set of names, when not nil, limits the cycle to those nodes.
// SkipStatus leaves the plugin's Filter out for this pod.
type PreFilter interface {
	Plugin
	PreFilter(ctx context.Context, pod *PodInfo, view *Snapshot) (State, sets.Set[string], *Status)
}

// Tracker is a PreFilter whose State depends on pods. Preemption and nominated pods change the view
// on one node, and this brings a clone of the state in line.
type Tracker interface {
	PreFilter
	Clone(state State) State
	PodAdded(state State, pod, added *PodInfo, node *NodeInfo)
	PodRemoved(state State, pod, removed *PodInfo, node *NodeInfo)
}

// Filter says whether the pod could run on the node. It is asked for each node, for several at the same time: it should not
// allocate.
type Filter interface {
	Plugin
	Filter(state State, pod *PodInfo, node *NodeInfo) *Status
}

// PostFilter is asked when no node was found; it may make room. It returns the node that it
// nominates ("" to clear the nomination), and whether to change the nomination at all.
type PostFilter interface {
	Plugin
	PostFilter(ctx context.Context, cycle *Cycle, diagnosis *Diagnosis) (nomination *Nomination, status *Status)
}

// Planner is a PostFilter that can also say what it would do, without doing it: whom to preempt. nil Victims mean that nothing would help,
// for the reason of the status.
type Planner interface {
	PostFilter
	Plan(ctx context.Context, cycle *Cycle, diagnosis *Diagnosis) (*Victims, *Status)
}

// Nomination names the node that a pod is expected to run on; "" withdraws an earlier one.
type Nomination struct{ NodeName string }

// PreScore looks at the feasible nodes once.
type PreScore interface {
	Plugin
	PreScore(ctx context.Context, pod *PodInfo, view *Snapshot, nodes []*NodeInfo) (State, *Status)
}

// Scorer rates a feasible node, from 0 to MaxScore unless it is a Normalizer too. state is that of PreScore, or
// of PreFilter if the plugin has no PreScore.
type Scorer interface {
	Plugin
	Score(state State, pod *PodInfo, node *NodeInfo) int64
}

// Normalizer brings a Scorer's scores between 0 and MaxScore. scores[i] belongs to nodes[i].
type Normalizer interface {
	Scorer
	Normalize(state State, nodes []*NodeInfo, scores []int64)
}

// Reserver books what the pod will use on its node. Unreserve must also work after a failed or missing Reserve.
// state is that of PreFilter.
type Reserver interface {
	Plugin
	Reserve(ctx context.Context, state State, pod *v1.Pod, nodeName string) *Status
	Unreserve(ctx context.Context, state State, pod *v1.Pod, nodeName string)
}

// Permitter may hold a pod back: with a Wait status the pod is bound only once allow is called with
// nil, and rejected by an error or after the timeout.
type Permitter interface {
	Plugin
	Permit(ctx context.Context, state State, pod *v1.Pod, nodeName string, allow func(error)) (*Status, time.Duration)
}

// PreBinder does work that must be done before the pod is bound. state is that of PreFilter.
type PreBinder interface {
	Plugin
	// NeedsPreBind says whether PreBind has anything to do. If so, the pod is nominated to the node meanwhile, for others to see.
	NeedsPreBind(state State, nodeName string) bool
	PreBind(ctx context.Context, state State, pod *v1.Pod, nodeName string) *Status
}

// ConcurrentPreBinder is a PreBinder that may work at the same time as others that are next to it in the order of plugins.
type ConcurrentPreBinder interface {
	PreBinder
	PreBindsBesideOthers()
}

// Binder binds the pod, or returns SkipStatus to leave it to the next Binder.
type Binder interface {
	Plugin
	Bind(ctx context.Context, pod *v1.Pod, nodeName string) *Status
}

// PostBinder hears of a bound pod.
type PostBinder interface {
	Plugin
	PostBind(ctx context.Context, state State, pod *v1.Pod, nodeName string)
}

// QueuedPod is a pod in the scheduling queue.
type QueuedPod struct {
	*PodInfo
	Added     time.Time // when it could be tried first; zero as long as it is gated
	Timestamp time.Time // when it entered the queue that it is in
	Attempts  int       // how often it was tried
	// Errors counts the latest attempts, in a row, that ended in an error, Rejections all those that found no node; each has its back-off.
	Errors, Rejections int
	BackoffUntil       time.Time
	Rejectors          sets.Set[string] // plugins that rejected it last
	Waiting            sets.Set[string] // of these, those that said Pending
	Gate               string           // plugin whose PreEnqueue holds it, or ""
	Flushed            bool             // it is tried only because it has waited too long for an event
	// Announced is the nominated node that the attempt has written when it was about to bind; the informer may not show it yet.
	Announced string
}
