// SPDX-License-Identifier: Apache-2.0

// Package interpodaffinity places pods by which pods run in the same domain (node, zone): required affinity and
// anti-affinity keep a pod off nodes, anti-affinity also that of the pods which run there already; the preferred kinds
// rate nodes.
package interpodaffinity

import (
	"context"
	"maps"
	"math"

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

// domain is a value of a node label.
type domain struct{ key, value string }

// counts has the number of pods that matter in each domain; no entry is 0.
type counts map[domain]int

func (c counts) add(node *v1.Node, key string, n int) {
	value, ok := node.Labels[key]
	if !ok {
		return
	}
	d := domain{key, value}
	if c[d] += n; c[d] == 0 {
		delete(c, d)
	}
}

type filterState struct {
	// Of the pods that run:
	existingAnti counts // those whose anti-affinity the pod violates, by the domains of their terms
	affinity     counts // those that match all of the pod's affinity terms, by the domains of these
	anti         counts // those that match one of the pod's anti-affinity terms, by its domain

	namespaceLabels labels.Set // of the pod's namespace
	labelsOf        func(namespace string) labels.Set
}

func (p *plugin) labelsOf(namespace string) labels.Set {
	if ns, err := p.namespaces.Get(namespace); err == nil {
		return ns.Labels
	}
	return nil
}

// rememberLabels is labelsOf for one cycle, which asks for each pod that runs.
func (p *plugin) rememberLabels() func(string) labels.Set {
	known := make(map[string]labels.Set)
	return func(namespace string) labels.Set {
		set, ok := known[namespace]
		if !ok {
			set = p.labelsOf(namespace)
			known[namespace] = set
		}
		return set
	}
}

func (p *plugin) PreFilter(_ context.Context, pod *framework.PodInfo, view *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if pod.ParseError != nil {
		return nil, nil, framework.RejectForGood(pod.ParseError.Error())
	}
	if len(pod.RequiredAffinity)+len(pod.RequiredAntiAffinity)+len(view.WithRequiredAntiAffinity) == 0 {
		return nil, nil, framework.SkipStatus
	}
	s := &filterState{
		existingAnti: make(counts), affinity: make(counts), anti: make(counts),
		namespaceLabels: p.labelsOf(pod.Pod.Namespace), labelsOf: p.rememberLabels(),
	}
	for _, node := range view.WithRequiredAntiAffinity {
		for _, existing := range node.PodsWithRequiredAntiAffinity {
			s.countExistingAnti(pod, existing, node.Node, 1)
		}
	}
	if len(pod.RequiredAffinity)+len(pod.RequiredAntiAffinity) > 0 {
		for _, node := range view.Nodes {
			for _, existing := range node.Pods {
				s.countOwn(pod, existing, node.Node, 1)
			}
		}
	}
	if len(s.existingAnti) == 0 && len(pod.RequiredAffinity)+len(pod.RequiredAntiAffinity) == 0 {
		return nil, nil, framework.SkipStatus
	}
	return s, nil, nil
}

func (s *filterState) countExistingAnti(pod, existing *framework.PodInfo, node *v1.Node, n int) {
	for i := range existing.RequiredAntiAffinity {
		if t := &existing.RequiredAntiAffinity[i]; t.Matches(pod.Pod, s.namespaceLabels) {
			s.existingAnti.add(node, t.TopologyKey, n)
		}
	}
}

func (s *filterState) countOwn(pod, existing *framework.PodInfo, node *v1.Node, n int) {
	namespaceLabels := s.labelsOf(existing.Pod.Namespace)
	if matchesAll(pod.RequiredAffinity, existing.Pod, namespaceLabels) {
		for i := range pod.RequiredAffinity {
			s.affinity.add(node, pod.RequiredAffinity[i].TopologyKey, n)
		}
	}
	for i := range pod.RequiredAntiAffinity {
		if t := &pod.RequiredAntiAffinity[i]; t.Matches(existing.Pod, namespaceLabels) {
			s.anti.add(node, t.TopologyKey, n)
		}
	}
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
	case !s.affinityHolds(pod, node.Node):
		return ownAffinity
	case s.violatesOwnAnti(pod, node.Node):
		return ownAnti
	case s.violatesExistingAnti(node.Node):
		return existingAnti
	}
	return nil
}

// affinityHolds wants pods around that match. The first pod of a group that wants to be among its own may start
// it: when none matches anywhere, a pod that matches its own terms may go to any node that has the domains.
func (s *filterState) affinityHolds(pod *framework.PodInfo, node *v1.Node) bool {
	holds := true
	for i := range pod.RequiredAffinity {
		key := pod.RequiredAffinity[i].TopologyKey
		value, ok := node.Labels[key]
		if !ok {
			return false
		}
		holds = holds && s.affinity[domain{key, value}] > 0
	}
	return holds || len(s.affinity) == 0 && matchesAll(pod.RequiredAffinity, pod.Pod, s.namespaceLabels)
}

func (s *filterState) violatesOwnAnti(pod *framework.PodInfo, node *v1.Node) bool {
	if len(s.anti) == 0 {
		return false
	}
	for i := range pod.RequiredAntiAffinity {
		key := pod.RequiredAntiAffinity[i].TopologyKey
		if value, ok := node.Labels[key]; ok && s.anti[domain{key, value}] > 0 {
			return true
		}
	}
	return false
}

func (s *filterState) violatesExistingAnti(node *v1.Node) bool {
	if len(s.existingAnti) == 0 {
		return false
	}
	for key, value := range node.Labels {
		if s.existingAnti[domain{key, value}] > 0 {
			return true
		}
	}
	return false
}

func (*plugin) Clone(state framework.State) framework.State {
	s := *state.(*filterState)
	s.existingAnti, s.affinity, s.anti = maps.Clone(s.existingAnti), maps.Clone(s.affinity), maps.Clone(s.anti)
	return &s
}

func (*plugin) PodAdded(state framework.State, pod, added *framework.PodInfo, node *framework.NodeInfo) {
	s := state.(*filterState)
	s.countExistingAnti(pod, added, node.Node, 1)
	s.countOwn(pod, added, node.Node, 1)
}

func (*plugin) PodRemoved(state framework.State, pod, removed *framework.PodInfo, node *framework.NodeInfo) {
	s := state.(*filterState)
	s.countExistingAnti(pod, removed, node.Node, -1)
	s.countOwn(pod, removed, node.Node, -1)
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
	if came := event.NewPod(); came != nil && matchesAll(pod.RequiredAffinity, came, p.labelsOf(came.Namespace)) {
		return true
	}
	was := event.OldPod()
	if was == nil {
		return false
	}
	for i := range pod.RequiredAntiAffinity {
		if pod.RequiredAntiAffinity[i].Matches(was, p.labelsOf(was.Namespace)) {
			return true
		}
	}
	terms := framework.NewPodInfo(was).RequiredAntiAffinity
	for i := range terms {
		if terms[i].Matches(pod.Pod, p.labelsOf(pod.Pod.Namespace)) {
			return true
		}
	}
	return false
}

// scores has what each domain adds to the score of its nodes.
type scores map[string]map[string]int64 // by key, by value

func (s scores) add(t *framework.AffinityTerm, weight int32, pod *v1.Pod, namespaceLabels labels.Set, node *v1.Node) {
	value, ok := node.Labels[t.TopologyKey]
	if !ok || !t.Matches(pod, namespaceLabels) {
		return
	}
	if s[t.TopologyKey] == nil {
		s[t.TopologyKey] = make(map[string]int64)
	}
	s[t.TopologyKey][value] += int64(weight)
}

func (s scores) addAll(terms []framework.WeightedAffinityTerm, sign int32, pod *v1.Pod, namespaceLabels labels.Set, node *v1.Node) {
	for i := range terms {
		s.add(&terms[i].AffinityTerm, sign*terms[i].Weight, pod, namespaceLabels, node)
	}
}

func (p *plugin) PreScore(_ context.Context, pod *framework.PodInfo, view *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	prefers := len(pod.PreferredAffinity)+len(pod.PreferredAntiAffinity) > 0
	if !prefers && p.IgnorePreferredTermsOfExistingPods {
		return nil, framework.SkipStatus
	}
	nodes := view.WithAffinity
	if prefers {
		nodes = view.Nodes
	}
	s := make(scores)
	labelsOf := p.rememberLabels()
	namespaceLabels := labelsOf(pod.Pod.Namespace)
	for _, node := range nodes {
		existing := node.PodsWithAffinity
		if prefers {
			existing = node.Pods
		}
		for _, e := range existing {
			p.addExisting(s, pod, namespaceLabels, e, labelsOf(e.Pod.Namespace), node.Node)
		}
	}
	if len(s) == 0 {
		return nil, framework.SkipStatus
	}
	return s, nil
}

// addExisting counts what the pod thinks of one that runs, and what that one thinks of the pod.
func (p *plugin) addExisting(s scores, pod *framework.PodInfo, namespaceLabels labels.Set, existing *framework.PodInfo, existingLabels labels.Set, node *v1.Node) {
	s.addAll(pod.PreferredAffinity, 1, existing.Pod, existingLabels, node)
	s.addAll(pod.PreferredAntiAffinity, -1, existing.Pod, existingLabels, node)
	if p.HardPodAffinityWeight > 0 {
		for i := range existing.RequiredAffinity {
			s.add(&existing.RequiredAffinity[i], p.HardPodAffinityWeight, pod.Pod, namespaceLabels, node)
		}
	}
	s.addAll(existing.PreferredAffinity, 1, pod.Pod, namespaceLabels, node)
	s.addAll(existing.PreferredAntiAffinity, -1, pod.Pod, namespaceLabels, node)
}

func (p *plugin) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	score := int64(0)
	for key, values := range state.(scores) {
		if value, ok := node.Node.Labels[key]; ok {
			score += values[value]
		}
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
