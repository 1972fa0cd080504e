// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1"
)

// Weighted is a plugin with the weight of its scores; 0 means 1.
type Weighted struct {
	Plugin
	Weight int64
	Off    []Point // where it is not asked, though it could be
	// Rank is where a configuration enables the plugin by name: it has to be asked there. The lower the earlier; others have 0.
	Rank map[Point]int
}

// Profile is a list of plugins under a scheduler name, taken apart by what they can do. It is immutable.
type Profile struct {
	SchedulerName string
	Plugins       []Plugin

	// Each list refers to Plugins by position, in order.
	preEnqueue []PreEnqueuer
	preFilters []at[PreFilter]
	filters    []at[Filter]
	trackers   []at[Tracker]
	post       []PostFilter
	preScores  []at[PreScore]
	scorers    []at[Scorer]
	weights    []int64 // of scorers
	reservers  []at[Reserver]
	permits    []at[Permitter]
	preBinds   []at[PreBinder]
	binders    []Binder
	postBinds  []at[PostBinder]
	sorter     QueueSorter
	hints      map[string][]Hint

	locals       []Local
	localFilters int   // so many of filters, from the first on, are Local
	localScore   []int // of each of scorers, its number among those that are Local; -1 if it is not
	localScorers int
}

// at is a plugin's interface with its position in Profile.Plugins, where its state lies.
type at[T any] struct {
	plugin T
	pos    int
}

func collect[T any](plugins []Weighted, point Point) []at[T] {
	var found []at[T]
	for i, p := range plugins {
		if t, ok := p.Plugin.(T); ok && !slices.Contains(p.Off, point) {
			found = append(found, at[T]{t, i})
		}
	}
	slices.SortStableFunc(found, func(a, b at[T]) int { return cmp.Compare(plugins[a.pos].Rank[point], plugins[b.pos].Rank[point]) })
	return found
}

func only[T any](plugins []Weighted, point Point) []T {
	var found []T
	for _, f := range collect[T](plugins, point) {
		found = append(found, f.plugin)
	}
	return found
}

// NewProfile takes plugins apart. It refuses a profile that could not bind or sort.
func NewProfile(schedulerName string, weighted []Weighted) (*Profile, error) {
	p := &Profile{SchedulerName: schedulerName, hints: make(map[string][]Hint)}
	for _, w := range weighted {
		for point := range w.Rank {
			if !asked[point](w.Plugin) {
				return nil, fmt.Errorf("profile %q: plugin %q has nothing to say at %s", schedulerName, w.Name(), point)
			}
		}
		p.Plugins = append(p.Plugins, w.Plugin)
		if h, ok := w.Plugin.(Hinter); ok {
			p.hints[w.Name()] = h.Hints()
		} else {
			p.hints[w.Name()] = []Hint{{Kind: AnyKind, Action: Any}}
		}
	}
	p.preEnqueue = only[PreEnqueuer](weighted, AtPreEnqueue)
	p.preFilters = collect[PreFilter](weighted, AtPreFilter)
	p.filters = collect[Filter](weighted, AtFilter)
	p.trackers = collect[Tracker](weighted, AtPreFilter)
	p.post = only[PostFilter](weighted, AtPostFilter)
	p.preScores = collect[PreScore](weighted, AtPreScore)
	p.scorers = collect[Scorer](weighted, AtScore)
	for _, s := range p.scorers {
		p.weights = append(p.weights, max(weighted[s.pos].Weight, 1))
	}
	p.reservers = collect[Reserver](weighted, AtReserve)
	p.permits = collect[Permitter](weighted, AtPermit)
	p.preBinds = collect[PreBinder](weighted, AtPreBind)
	p.binders = only[Binder](weighted, AtBind)
	p.postBinds = collect[PostBinder](weighted, AtPostBind)

	sorters := only[QueueSorter](weighted, AtQueueSort)
	switch {
	case schedulerName == "":
		return nil, fmt.Errorf("profile: schedulerName must not be empty")
	case len(sorters) != 1:
		return nil, fmt.Errorf("profile %q: must have exactly one queue sort plugin, has %d", schedulerName, len(sorters))
	case len(p.binders) == 0:
		return nil, fmt.Errorf("profile %q: must have a bind plugin", schedulerName)
	}
	p.sorter = sorters[0]
	p.findLocal()
	return p, nil
}

// Less orders pods as the profile's queue sort plugin does.
func (p *Profile) Less(a, b *QueuedPod) bool { return p.sorter.Less(a, b) }

// SortsLike says whether two profiles have the same queue sort plugin.
func (p *Profile) SortsLike(other *Profile) bool { return p.sorter.Name() == other.sorter.Name() }

// PreEnqueue returns the first plugin that holds the pod back, with its reason.
func (p *Profile) PreEnqueue(pod *v1.Pod) (plugin string, status *Status) {
	for _, e := range p.preEnqueue {
		if s := e.PreEnqueue(pod); !s.IsSuccess() {
			return e.Name(), s
		}
	}
	return "", nil
}

// Hints returns what a plugin waits for. Of an unknown plugin every event is worth a try.
func (p *Profile) Hints(plugin string) []Hint {
	if h, ok := p.hints[plugin]; ok {
		return h
	}
	return []Hint{{Kind: AnyKind, Action: Any}}
}

// Nominator knows which pods are nominated to which node.
type Nominator interface {
	NominatedPods(nodeName string) []*PodInfo
	NodeOf(pod types.UID) string // "" if the pod is not nominated
}

// Cycle is one attempt to place one pod. It is used by one goroutine at a time, but for Filter.
type Cycle struct {
	Profile  *Profile
	Pod      *PodInfo
	Snapshot *Snapshot
	// Asked, if not nil, is told how long each plugin took.
	Asked func(plugin string, point string, status *Status, took time.Duration)
	// Evaluated, if not nil, is told how often plugins were asked at PreFilter, Filter, PreScore and Score.
	Evaluated func(plugin string, point string, times int)

	nominator   Nominator
	states      []State // by position in Profile.Plugins
	skipFilter  []bool
	scoreStates []State
	skipScore   []bool
	preBinds    []at[PreBinder] // those that have something to do, as NeedsPreBind has found

	// What Remember sets: nothing is kept without.
	signature string
	verdicts  localVerdicts
	own       int  // position of the node that the pod itself is nominated to; -1 if there is none
	others    bool // filters that are not Local have something to do; PreFilter finds out
}

// NewCycle starts an attempt.
func NewCycle(profile *Profile, pod *PodInfo, view *Snapshot, nominator Nominator) *Cycle {
	n := len(profile.Plugins)
	states, skips := make([]State, 2*n), make([]bool, 2*n)
	return &Cycle{
		Profile: profile, Pod: pod, Snapshot: view, nominator: nominator,
		states: states[:n:n], scoreStates: states[n:],
		skipFilter: skips[:n:n], skipScore: skips[n:],
	}
}

// begin is the time before a plugin is asked, if somebody wants to know.
func (c *Cycle) begin() (t time.Time) {
	if c.Asked != nil {
		t = time.Now()
	}
	return t
}

func (c *Cycle) ended(began time.Time, p Plugin, point string, status *Status) {
	if c.Asked != nil {
		c.Asked(p.Name(), point, status, time.Since(began))
	}
}

func (c *Cycle) evaluated(p Plugin, point string, times int) {
	if c.Evaluated != nil && times > 0 {
		c.Evaluated(p.Name(), point, times)
	}
}

// Filtered tells Evaluated of so many nodes that Filter was asked about, of which plugins rejected so many.
func (c *Cycle) Filtered(nodes int, rejected Rejections) {
	for i := range c.Profile.filters {
		f := &c.Profile.filters[i]
		if !c.skipFilter[f.pos] {
			c.evaluated(f.plugin, "Filter", nodes)
			nodes -= rejected.of(f.plugin.Name())
		}
	}
}

// Rejections counts nodes by the plugin that rejects them. There are few plugins and many nodes, for which a map would be slow.
type Rejections []rejections

type rejections struct {
	plugin string
	nodes  int
}

// Add counts a node, and says how many the plugin has rejected now.
func (r *Rejections) Add(plugin string) int {
	for i := range *r {
		if (*r)[i].plugin == plugin {
			(*r)[i].nodes++
			return (*r)[i].nodes
		}
	}
	*r = append(*r, rejections{plugin, 1})
	return 1
}

func (r Rejections) of(plugin string) int {
	for i := range r {
		if r[i].plugin == plugin {
			return r[i].nodes
		}
	}
	return 0
}

// PreFilter asks all plugins. It returns the nodes to look at, nil for all, and which plugins narrowed them down. A rejection that evicting pods may
// help does not keep the others from being asked, for then their filters will be.
func (c *Cycle) PreFilter(ctx context.Context) (names sets.Set[string], by sets.Set[string], plugin string, status *Status) {
	for _, f := range c.Profile.preFilters {
		began := c.begin()
		state, nodes, s := f.plugin.PreFilter(ctx, c.Pod, c.Snapshot)
		c.ended(began, f.plugin, "PreFilter", s)
		c.evaluated(f.plugin, "PreFilter", 1)
		if s.IsSkip() {
			c.skipFilter[f.pos] = true
			continue
		}
		if s.Code() == Unschedulable {
			plugin, status = f.plugin.Name(), s
			c.states[f.pos] = state
			continue
		}
		if !s.IsSuccess() {
			return nil, nil, f.plugin.Name(), s
		}
		c.states[f.pos] = state
		if nodes == nil {
			continue
		}
		if by == nil {
			by, names = sets.New[string](), nodes
		} else {
			names = names.Intersection(nodes)
		}
		by.Insert(f.plugin.Name())
		if len(names) == 0 {
			return nil, by, f.plugin.Name(), RejectForGood(emptyIntersection(by))
		}
	}
	if names == nil && status == nil {
		c.keepVerdicts()
	}
	return names, by, plugin, status
}

func emptyIntersection(by sets.Set[string]) string {
	if len(by) == 1 {
		return fmt.Sprintf("node(s) didn't satisfy plugin %v", sets.List(by)[0])
	}
	return fmt.Sprintf("node(s) didn't satisfy plugin(s) %v simultaneously", sets.List(by))
}

// Filter says whether the pod could run on the node, counting in pods of at least its priority that
// are nominated there. They may never arrive, so the pod has to fit without them too.
func (c *Cycle) Filter(node *NodeInfo) (plugin string, status *Status) {
	if nominated := c.moreImportantNominated(node.Node.Name); len(nominated) > 0 {
		with, node := c.Clone(), node.Clone()
		for _, p := range nominated {
			with.AddPod(p, node)
		}
		if plugin, status := with.filter(node); status != nil {
			return plugin, status
		}
	}
	return c.filter(node)
}

func (c *Cycle) filter(node *NodeInfo) (plugin string, status *Status) {
	at, status := c.ask(node, 0, len(c.Profile.filters))
	return c.rejector(at, status), status
}

func (c *Cycle) rejector(at int, status *Status) string {
	if status == nil {
		return ""
	}
	return c.Profile.filters[at].plugin.Name()
}

// ask asks the filters from one position up to another, and returns where the first is that rejects the node.
func (c *Cycle) ask(node *NodeInfo, from, to int) (at int, status *Status) {
	for i := from; i < to; i++ {
		f := &c.Profile.filters[i]
		if c.skipFilter[f.pos] {
			continue
		}
		began := c.begin()
		s := f.plugin.Filter(c.states[f.pos], c.Pod, node)
		c.ended(began, f.plugin, "Filter", s)
		if s != nil {
			return i, s
		}
	}
	return 0, nil
}

// FilterAll tells what all plugins object to the node, where Filter ends at the first. Nominated pods are left out.
func (c *Cycle) FilterAll(node *NodeInfo, tell func(plugin string, status *Status)) {
	for i := range c.Profile.filters {
		f := &c.Profile.filters[i]
		if c.skipFilter[f.pos] {
			continue
		}
		if s := f.plugin.Filter(c.states[f.pos], c.Pod, node); s != nil {
			tell(f.plugin.Name(), s)
		}
	}
}

func (c *Cycle) moreImportantNominated(nodeName string) []*PodInfo {
	var pods []*PodInfo
	for _, p := range c.nominator.NominatedPods(nodeName) {
		if Priority(p.Pod) >= Priority(c.Pod.Pod) && p.Pod.UID != c.Pod.Pod.UID {
			pods = append(pods, p)
		}
	}
	return pods
}

// Clone copies the cycle for a what-if: pods may be added to and removed from it.
func (c *Cycle) Clone() *Cycle {
	clone := *c
	clone.states = slices.Clone(c.states)
	for _, t := range c.Profile.trackers {
		if !c.skipFilter[t.pos] {
			clone.states[t.pos] = t.plugin.Clone(c.states[t.pos])
		}
	}
	return &clone
}

// AddPod puts a pod on a node, both of which belong to a what-if.
func (c *Cycle) AddPod(p *PodInfo, node *NodeInfo) {
	node.AddPod(p)
	for _, t := range c.Profile.trackers {
		if !c.skipFilter[t.pos] {
			t.plugin.PodAdded(c.states[t.pos], c.Pod, p, node)
		}
	}
}

// RemovePod takes a pod off a node, both of which belong to a what-if.
func (c *Cycle) RemovePod(p *PodInfo, node *NodeInfo) {
	node.RemovePod(p.Pod)
	for _, t := range c.Profile.trackers {
		if !c.skipFilter[t.pos] {
			t.plugin.PodRemoved(c.states[t.pos], c.Pod, p, node)
		}
	}
}

// PostFilter asks plugins in order until one makes room, knows that nothing helps, or reports an error.
func (c *Cycle) PostFilter(ctx context.Context, d *Diagnosis) (*Nomination, *Status) {
	var nomination *Nomination
	var reasons []string
	for _, p := range c.Profile.post {
		began := c.begin()
		n, s := p.PostFilter(ctx, c, d)
		c.ended(began, p, "PostFilter", s)
		if s.Code() != Unschedulable {
			return n, s
		}
		if n != nil {
			nomination = n
		}
		reasons = append(reasons, s.Reasons()...)
	}
	return nomination, Reject(reasons...)
}

// Plan says what the first plugin that knows how to make room would do.
func (c *Cycle) Plan(ctx context.Context, d *Diagnosis) (*Victims, *Status) {
	for _, p := range c.Profile.post {
		if planner, ok := p.(Planner); ok {
			return planner.Plan(ctx, c, d)
		}
	}
	return nil, nil
}

// Score rates nodes: the weighted sum of all plugins' scores, in the order of nodes. The result is valid until the next one of the same snapshot.
func (c *Cycle) Score(ctx context.Context, nodes []*NodeInfo) ([]int64, error) {
	for _, p := range c.Profile.preScores {
		began := c.begin()
		state, s := p.plugin.PreScore(ctx, c.Pod, c.Snapshot, nodes)
		c.ended(began, p.plugin, "PreScore", s)
		c.evaluated(p.plugin, "PreScore", 1)
		if s.IsSkip() {
			c.skipScore[p.pos] = true
			continue
		}
		if !s.IsSuccess() {
			return nil, fmt.Errorf("running PreScore plugin %q: %s", p.plugin.Name(), s.Message())
		}
		c.scoreStates[p.pos] = state
	}
	buffer := slices.Grow(c.Snapshot.scores[:0], 2*len(nodes))[:2*len(nodes)]
	c.Snapshot.scores = buffer
	total, scores := buffer[:len(nodes)], buffer[len(nodes):]
	clear(total)
	kept, positions := c.keptScores(nodes)
	for i, s := range c.Profile.scorers {
		state, skip := c.scoreState(s.pos)
		if skip {
			continue
		}
		began := c.begin()
		if at := c.Profile.localScore[i]; kept != nil && at >= 0 {
			for j, position := range positions {
				scores[j] = kept.scores[position*kept.perNode+at]
			}
		} else {
			for j, node := range nodes {
				scores[j] = s.plugin.Score(state, c.Pod, node)
			}
		}
		c.ended(began, s.plugin, "Score", nil)
		c.evaluated(s.plugin, "Score", len(nodes))
		if n, ok := s.plugin.(Normalizer); ok {
			n.Normalize(state, nodes, scores)
		}
		for j, score := range scores {
			if score < 0 || score > MaxScore {
				return nil, fmt.Errorf("plugin %q returned the score %d for node %q, which must be from 0 to %d", s.plugin.Name(), score, nodes[j].Node.Name, MaxScore)
			}
			total[j] += c.Profile.weights[i] * score
		}
	}
	return total, nil
}

// scoreState is what Score gets, and whether there is nothing to score for this pod.
func (c *Cycle) scoreState(pos int) (state State, skip bool) {
	if _, prepares := c.Profile.Plugins[pos].(PreScore); prepares {
		return c.scoreStates[pos], c.skipScore[pos]
	}
	return c.states[pos], c.skipFilter[pos]
}

// State is what the plugin's PreFilter has worked out; nil if it has nothing to do for this pod.
func (c *Cycle) State(p Plugin) State {
	return c.states[slices.Index(c.Profile.Plugins, p)]
}

// Reserve books the node with all plugins, or with none.
func (c *Cycle) Reserve(ctx context.Context, pod *v1.Pod, nodeName string) (plugin string, status *Status) {
	for _, r := range c.Profile.reservers {
		began := c.begin()
		s := r.plugin.Reserve(ctx, c.states[r.pos], pod, nodeName)
		c.ended(began, r.plugin, "Reserve", s)
		if !s.IsSuccess() {
			c.Unreserve(ctx, pod, nodeName)
			return r.plugin.Name(), inPlugin(ctx, "Reserve", r.plugin, s)
		}
	}
	return "", nil
}

// Unreserve undoes Reserve.
func (c *Cycle) Unreserve(ctx context.Context, pod *v1.Pod, nodeName string) {
	for _, r := range slices.Backward(c.Profile.reservers) {
		r.plugin.Unreserve(ctx, c.states[r.pos], pod, nodeName)
	}
}

// inPlugin says in which plugin an error came up, and why a context was canceled.
func inPlugin(ctx context.Context, point string, p Plugin, s *Status) *Status {
	if s.Code() != Error {
		return s
	}
	err := cmp.Or(s.Err(), errors.New(s.Message()))
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	return AsStatus(fmt.Errorf("running %s plugin %q: %w", point, p.Name(), err))
}

// PermitWait blocks until all plugins have allowed the pod, and says which has rejected it.
type PermitWait func(ctx context.Context) (plugin string, status *Status)

// Permit asks for leave to bind. wait is nil if no plugin wants the pod to wait.
func (c *Cycle) Permit(ctx context.Context, pod *v1.Pod, nodeName string) (plugin string, status *Status, wait PermitWait) {
	type waiting struct {
		plugin  string
		done    chan error
		timeout time.Duration
		expiry  <-chan time.Time
	}
	var all []waiting
	for _, p := range c.Profile.permits {
		done := make(chan error, 1)
		allow := func(err error) {
			select {
			case done <- err:
			default: // the first word counts
			}
		}
		began := c.begin()
		s, timeout := p.plugin.Permit(ctx, c.states[p.pos], pod, nodeName, allow)
		c.ended(began, p.plugin, "Permit", s)
		switch {
		case s.Code() == Wait:
			all = append(all, waiting{p.plugin.Name(), done, timeout, time.After(timeout)})
		case !s.IsSuccess():
			return p.plugin.Name(), inPlugin(ctx, "Permit", p.plugin, s), nil
		}
	}
	if len(all) == 0 {
		return "", nil, nil
	}
	return "", nil, func(ctx context.Context) (string, *Status) {
		for _, w := range all {
			select {
			case err := <-w.done:
				if err != nil {
					return w.plugin, Reject(err.Error())
				}
			case <-w.expiry:
				return w.plugin, Reject(fmt.Sprintf("rejected due to timeout after waiting %v at plugin %v", w.timeout, w.plugin))
			case <-ctx.Done():
				return "", AsStatus(fmt.Errorf("waiting on permit for pod: %w", context.Cause(ctx)))
			}
		}
		return "", nil
	}
}

// NeedsPreBind says whether PreBind has anything to do for the pod, and has to be asked before it.
func (c *Cycle) NeedsPreBind(nodeName string) bool {
	for _, p := range c.Profile.preBinds {
		if !c.skipFilter[p.pos] && p.plugin.NeedsPreBind(c.states[p.pos], nodeName) {
			c.preBinds = append(c.preBinds, p)
		}
	}
	return len(c.preBinds) > 0
}

// PreBind prepares the node for the pod. Plugins that may work beside each other do.
func (c *Cycle) PreBind(ctx context.Context, pod *v1.Pod, nodeName string) (plugin string, status *Status) {
	for rest := c.preBinds; len(rest) > 0; {
		n := 1
		for worksBeside(rest[0]) && n < len(rest) && worksBeside(rest[n]) {
			n++
		}
		if plugin, status := c.preBindTogether(ctx, rest[:n], pod, nodeName); status != nil {
			return plugin, status
		}
		rest = rest[n:]
	}
	return "", nil
}

func worksBeside(p at[PreBinder]) bool {
	_, ok := p.plugin.(ConcurrentPreBinder)
	return ok
}

var errOtherFailed = errors.New("some other PreBind operation failed")

// preBindTogether returns the first failure, which ends the others.
func (c *Cycle) preBindTogether(ctx context.Context, group []at[PreBinder], pod *v1.Pod, nodeName string) (plugin string, status *Status) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var once sync.Once
	preBind := func(p at[PreBinder]) {
		began := c.begin()
		s := p.plugin.PreBind(ctx, c.states[p.pos], pod, nodeName)
		c.ended(began, p.plugin, "PreBind", s)
		if !s.IsSuccess() {
			once.Do(func() {
				plugin, status = p.plugin.Name(), inPlugin(ctx, "PreBind", p.plugin, s)
				cancel(errOtherFailed)
			})
		}
	}
	var others sync.WaitGroup
	for _, p := range group[1:] {
		others.Go(func() { preBind(p) })
	}
	preBind(group[0])
	others.Wait()
	return plugin, status
}

// Bind lets the first willing plugin bind the pod.
func (c *Cycle) Bind(ctx context.Context, pod *v1.Pod, nodeName string) *Status {
	for _, b := range c.Profile.binders {
		began := c.begin()
		s := b.Bind(ctx, pod, nodeName)
		c.ended(began, b, "Bind", s)
		if !s.IsSkip() {
			return inPlugin(ctx, "Bind", b, s)
		}
	}
	return AsStatus(fmt.Errorf("no bind plugin took pod %s/%s", pod.Namespace, pod.Name))
}

// PostBind tells plugins that the pod is bound.
func (c *Cycle) PostBind(ctx context.Context, pod *v1.Pod, nodeName string) {
	for _, p := range c.Profile.postBinds {
		began := c.begin()
		p.plugin.PostBind(ctx, c.states[p.pos], pod, nodeName)
		c.ended(began, p.plugin, "PostBind", nil)
	}
}

// Diagnosis is why a pod found no node.
type Diagnosis struct {
	Nodes         []*NodeInfo // the snapshot's
	Statuses      []*Status   // of Nodes, by position; nil where no plugin was asked
	Absent        *Status     // of nodes with no status of their own
	PreFilterMsg  string
	PostFilterMsg string
	Rejectors     sets.Set[string]
	Waiting       sets.Set[string]
}

// AddRejection notes that a plugin rejected the pod.
func (d *Diagnosis) AddRejection(plugin string, status *Status) {
	if status.Code() == Pending {
		d.Waiting = insert(d.Waiting, plugin)
	}
	d.Rejectors = insert(d.Rejectors, plugin)
}

func insert(set sets.Set[string], s string) sets.Set[string] {
	if set == nil {
		set = sets.New[string]()
	}
	return set.Insert(s)
}

// Status of the node at position i.
func (d *Diagnosis) Status(i int) *Status {
	if i < len(d.Statuses) && d.Statuses[i] != nil {
		return d.Statuses[i]
	}
	return d.Absent
}

// Message counts the reasons, as kubectl users know it: 0/3 nodes are available: 1 Insufficient cpu, ...
func (d *Diagnosis) Message() string {
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available:", len(d.Nodes))
	if d.PreFilterMsg != "" {
		fmt.Fprintf(&b, " %s.", d.PreFilterMsg)
	} else if reasons := d.countReasons(); len(reasons) > 0 {
		fmt.Fprintf(&b, " %s.", strings.Join(reasons, ", "))
	}
	if d.PostFilterMsg != "" {
		b.WriteString(" " + d.PostFilterMsg)
	}
	return b.String()
}

func (d *Diagnosis) countReasons() []string {
	counts := make(map[string]int)
	for i := 0; i < len(d.Nodes); {
		status, from := d.Status(i), i
		for i < len(d.Nodes) && d.Status(i) == status { // verdicts are shared, so many in a row are the same
			i++
		}
		for _, reason := range status.Reasons() {
			counts[reason] += i - from
		}
	}
	texts := make([]string, 0, len(counts))
	for reason, count := range counts {
		texts = append(texts, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(texts)
	return texts
}

// Priority of a pod; 0 if it says none.
func Priority(pod *v1.Pod) int32 { return corev1.PodPriority(pod) }

// Key names a pod.
func Key(pod *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}
