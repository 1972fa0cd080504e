// SPDX-License-Identifier: Apache-2.0

// Package interpodaffinity places pods by which pods run in the same domain (node, zone): required affinity and
// anti-affinity keep a pod off nodes, anti-affinity also that of the pods which run there already; the preferred kinds
// rate nodes.
package interpodaffinity

import (
	"context"
	"maps"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Args configures the plugin; the zero value is the default.
type Args struct {
	// HardPodAffinityWeight is what the required affinity of a running pod adds to the score of nodes for pods that it
	// wants around; 0 means 1, a negative value none.
	HardPodAffinityWeight int32
	// IgnorePreferredTermsOfExistingPods when the pod itself has no preferences.
	IgnorePreferredTermsOfExistingPods bool
}

type plugin struct {
	Args
	namespaces corelisters.NamespaceLister
}

// New returns a constructor of the plugin.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	if args.HardPodAffinityWeight == 0 {
		args.HardPodAffinityWeight = 1
	}
	return func(h *framework.Handle) (framework.Plugin, error) {
		return &plugin{args, h.Informers.Core().V1().Namespaces().Lister()}, nil
	}
}

func (*plugin) Name() string { return "InterPodAffinity" }

var (
	existingAnti = framework.Reject("node(s) didn't satisfy existing pods anti-affinity rules")
	ownAffinity  = framework.RejectForGood("node(s) didn't match pod affinity rules")
	ownAnti      = framework.Reject("node(s) didn't match pod anti-affinity rules")
)

// filterState refers to what is kept of all pods, and has what is different in a what-if.
type filterState struct {
	existingAnti []wishesOfKey // of pods that run: anti-affinity that the pod violates
	// Pods that match all of the pod's affinity terms, by the domains of each key; and those that match one anti-affinity term each, by its domains.
	affinity, anti []*framework.Tally

	// In a what-if there are so many more, by position in the lists and by domain.
	moreExistingAnti, moreAffinity, moreAnti counts

	namespaceLabels labels.Set // of the pod's namespace
	labelsOf        func(namespace string) labels.Set
}

// counts has a number for each domain; no entry is 0.
type counts map[at]int

type at struct {
	position int
	domain   string
}

// of looks up what there is for a node, which is nothing outside of what-ifs.
func (c counts) of(position int, node *framework.NodeInfo, key string) int {
	if len(c) == 0 {
		return 0
	}
	return c[at{position, node.Node.Labels[key]}]
}

func (c *counts) add(position int, node *v1.Node, key string, n int) {
	value, ok := node.Labels[key]
	if !ok {
		return
	}
	if *c == nil {
		*c = make(counts)
	}
	(*c)[at{position, value}] += n
}

func (p *plugin) labelsOf(namespace string) labels.Set {
	if ns, err := p.namespaces.Get(namespace); err == nil {
		return ns.Labels
	}
	return nil
}

func (p *plugin) PreFilter(_ context.Context, pod *framework.PodInfo, view *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if pod.ParseError != nil {
		return nil, nil, framework.RejectForGood(pod.ParseError.Error())
	}
	wishes := wishesOf(view)
	if len(wishes.of[requiredAnti])+len(pod.RequiredAffinity)+len(pod.RequiredAntiAffinity) == 0 {
		return nil, nil, framework.SkipStatus
	}
	s := &filterState{namespaceLabels: p.labelsOf(pod.Pod.Namespace), labelsOf: p.labelsOf}
	s.existingAnti = wishes.about(view, pod.Pod, s.namespaceLabels, [kinds]int64{requiredAnti: 1})
	if len(s.existingAnti)+len(pod.RequiredAffinity)+len(pod.RequiredAntiAffinity) == 0 {
		return nil, nil, framework.SkipStatus
	}
	for i := range pod.RequiredAffinity {
		key := pod.RequiredAffinity[i].TopologyKey
		if !slices.ContainsFunc(s.affinity, func(t *framework.Tally) bool { return t.Key == key }) {
			s.affinity = append(s.affinity, p.tally(view, pod.RequiredAffinity, key))
		}
	}
	for i := range pod.RequiredAntiAffinity {
		s.anti = append(s.anti, p.tally(view, pod.RequiredAntiAffinity[i:i+1], pod.RequiredAntiAffinity[i].TopologyKey))
	}
	return s, nil, nil
}

// tally counts the pods that match all terms, by the domains of a key.
func (p *plugin) tally(view *framework.Snapshot, terms []framework.AffinityTerm, key string) *framework.Tally {
	id := "podaffinity/" + key
	where := make([]namespaceFilter, len(terms))
	for i := range terms {
		where[i] = p.filterNamespaces(&terms[i])
		id += "\n" + terms[i].ID + "\n" + where[i].id
	}
	return view.Keep(id, func(nodes int) framework.Kept {
		return framework.NewTally(nodes, key, func(node *framework.NodeInfo) (int, bool) {
			n := 0
			for _, other := range node.Pods {
				if matchesIn(terms, where, other.Pod) {
					n++
				}
			}
			return n, n > 0
		})
	}).(*framework.Tally)
}

func matchesIn(terms []framework.AffinityTerm, where []namespaceFilter, pod *v1.Pod) bool {
	for i := range terms {
		if !where[i].has(pod.Namespace) || !terms[i].Selector.Matches(labels.Set(pod.Labels)) {
			return false
		}
	}
	return true
}

// namespaceFilter is the namespaces that a term selects at this moment.
type namespaceFilter struct {
	id  string // what is not said by the term itself
	has func(namespace string) bool
}

func (p *plugin) filterNamespaces(t *framework.AffinityTerm) namespaceFilter {
	requirements, selects := t.NamespaceSelector.Requirements()
	switch {
	case !selects:
		return namespaceFilter{has: t.Namespaces.Has}
	case len(requirements) == 0:
		return namespaceFilter{has: func(string) bool { return true }}
	}
	names := t.Namespaces.Clone()
	namespaces, _ := p.namespaces.List(t.NamespaceSelector) // a cache's lister does not fail
	for _, ns := range namespaces {
		names.Insert(ns.Name)
	}
	return namespaceFilter{id: framework.NamesID(names), has: names.Has}
}

func matchesAll(terms []framework.AffinityTerm, pod *v1.Pod, namespaceLabels labels.Set) bool {
	for i := range terms {
		if !terms[i].Matches(pod, namespaceLabels) {
			return false
		}
	}
	return len(terms) > 0
}

func (p *plugin) Filter(state framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := state.(*filterState)
	switch {
	case !s.affinityHolds(pod, node):
		return ownAffinity
	case s.violatesOwnAnti(node):
		return ownAnti
	case s.violatesExistingAnti(node):
		return existingAnti
	}
	return nil
}

// affinityHolds wants pods around that match. The first pod of a group that wants to be among its own may start
// it: when none matches anywhere, a pod that matches its own terms may go to any node that has the domains.
func (s *filterState) affinityHolds(pod *framework.PodInfo, node *framework.NodeInfo) bool {
	holds := true
	for i := range s.affinity {
		t := s.affinity[i]
		domain := t.Of(node)
		if domain == nil {
			return false
		}
		holds = holds && domain.Pods+s.moreAffinity.of(i, node, t.Key) > 0
	}
	return holds || s.isFirst() && matchesAll(pod.RequiredAffinity, pod.Pod, s.namespaceLabels)
}

// isFirst says whether no pod matches the pod's affinity anywhere.
func (s *filterState) isFirst() bool {
	sum := 0
	for i := range s.affinity {
		sum += s.affinity[i].Pods
	}
	for _, n := range s.moreAffinity {
		sum += n
	}
	return sum == 0
}

func (s *filterState) violatesOwnAnti(node *framework.NodeInfo) bool {
	for i, t := range s.anti {
		if domain := t.Of(node); domain != nil && domain.Pods+s.moreAnti.of(i, node, t.Key) > 0 {
			return true
		}
	}
	return false
}

func (s *filterState) violatesExistingAnti(node *framework.NodeInfo) bool {
	for i := range s.existingAnti {
		w := &s.existingAnti[i]
		if int(w.around(node))+s.moreExistingAnti.of(i, node, w.Key) > 0 {
			return true
		}
	}
	return false
}

func (*plugin) Clone(state framework.State) framework.State {
	s := *state.(*filterState)
	s.moreExistingAnti, s.moreAffinity, s.moreAnti = maps.Clone(s.moreExistingAnti), maps.Clone(s.moreAffinity), maps.Clone(s.moreAnti)
	return &s
}

func (*plugin) PodAdded(state framework.State, pod, added *framework.PodInfo, node *framework.NodeInfo) {
	state.(*filterState).change(pod, added, node.Node, 1)
}

func (*plugin) PodRemoved(state framework.State, pod, removed *framework.PodInfo, node *framework.NodeInfo) {
	state.(*filterState).change(pod, removed, node.Node, -1)
}

// change counts another pod n times more.
func (s *filterState) change(pod, other *framework.PodInfo, node *v1.Node, n int) {
	for i := range other.RequiredAntiAffinity {
		if t := &other.RequiredAntiAffinity[i]; t.Matches(pod.Pod, s.namespaceLabels) {
			s.moreExistingAnti.add(s.position(t.TopologyKey), node, t.TopologyKey, n)
		}
	}
	namespaceLabels := s.labelsOf(other.Pod.Namespace)
	if matchesAll(pod.RequiredAffinity, other.Pod, namespaceLabels) {
		for i := range s.affinity {
			s.moreAffinity.add(i, node, s.affinity[i].Key, n)
		}
	}
	for i := range pod.RequiredAntiAffinity {
		if t := &pod.RequiredAntiAffinity[i]; t.Matches(other.Pod, namespaceLabels) {
			s.moreAnti.add(i, node, t.TopologyKey, n)
		}
	}
}

// position of a key in existingAnti, where it gets one if only a pod of a what-if is about it.
func (s *filterState) position(key string) int {
	i := slices.IndexFunc(s.existingAnti, func(w wishesOfKey) bool { return w.Key == key })
	if i < 0 {
		i = len(s.existingAnti)
		s.existingAnti = append(slices.Clip(s.existingAnti), wishesOfKey{domains: &domains{Key: key}})
	}
	return i
}

func (p *plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.AssignedPod, Action: framework.Add | framework.Delete | framework.UpdatePodLabel, Helps: p.podHelps},
		{Kind: framework.TargetPod, Action: framework.UpdatePodLabel},
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeLabel},
		{Kind: framework.Namespace, Action: framework.UpdateOther},
	}
}

// podHelps: a pod that came may be wanted around; one that went, or changed its labels, may have been in the way.
func (p *plugin) podHelps(pod *framework.PodInfo, event *framework.Event) bool {
	was, is := event.OldPod(), event.NewPod()
	wanted := func(other *v1.Pod) bool {
		return other != nil && matchesAll(pod.RequiredAffinity, other, p.labelsOf(other.Namespace))
	}
	if wanted(is) && !wanted(was) {
		return true
	}
	if was == nil {
		return false
	}
	for i := range pod.RequiredAntiAffinity {
		if pod.RequiredAntiAffinity[i].Matches(was, p.labelsOf(was.Namespace)) {
			return true
		}
	}
	if is != nil {
		return false // its own terms are as they were
	}
	terms := framework.NewPodInfo(was).RequiredAntiAffinity
	for i := range terms {
		if terms[i].Matches(pod.Pod, p.labelsOf(pod.Pod.Namespace)) {
			return true
		}
	}
	return false
}

// scoreState has what counts for the pod, and how much, by the keys of the terms.
type scoreState struct {
	own    []weightedTally
	wishes []wishesOfKey
}

// weightedTally is of pods that the pod wants to be near, or far from if the weight is negative.
type weightedTally struct {
	*framework.Tally
	weight int64
}

func (p *plugin) PreScore(_ context.Context, pod *framework.PodInfo, view *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	prefers := len(pod.PreferredAffinity)+len(pod.PreferredAntiAffinity) > 0
	if !prefers && p.IgnorePreferredTermsOfExistingPods {
		return nil, framework.SkipStatus
	}
	wishes := wishesOf(view)
	if !prefers && len(wishes.of[required])+len(wishes.of[preferred])+len(wishes.of[preferredAnti]) == 0 {
		return nil, framework.SkipStatus
	}
	s := &scoreState{}
	s.addOwn(p, view, pod.PreferredAffinity, 1)
	s.addOwn(p, view, pod.PreferredAntiAffinity, -1)
	s.wishes = wishes.about(view, pod.Pod, p.labelsOf(pod.Pod.Namespace), [kinds]int64{
		required: int64(max(p.HardPodAffinityWeight, 0)), preferred: 1, preferredAnti: -1,
	})
	if len(s.own)+len(s.wishes) == 0 {
		return nil, framework.SkipStatus
	}
	return s, nil
}

func (s *scoreState) addOwn(p *plugin, view *framework.Snapshot, terms []framework.WeightedAffinityTerm, sign int32) {
	for i := range terms {
		t := &terms[i]
		if tally := p.tally(view, []framework.AffinityTerm{t.AffinityTerm}, t.TopologyKey); tally.Pods > 0 {
			s.own = append(s.own, weightedTally{tally, int64(sign * t.Weight)})
		}
	}
}

func (p *plugin) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	s := state.(*scoreState)
	score := int64(0)
	for i := range s.own {
		if domain := s.own[i].Of(node); domain != nil {
			score += s.own[i].weight * int64(domain.Pods)
		}
	}
	for i := range s.wishes {
		score += s.wishes[i].around(node)
	}
	return score
}

// Normalize stretches the scores, which may be negative, over the whole range.
func (p *plugin) Normalize(_ framework.State, _ []*framework.NodeInfo, scores []int64) {
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, score := range scores {
		lowest, highest = min(lowest, score), max(highest, score)
	}
	for i := range scores {
		if highest == lowest {
			scores[i] = 0
			continue
		}
		scores[i] = int64(float64(framework.MaxScore) * (float64(scores[i]-lowest) / float64(highest-lowest)))
	}
}
