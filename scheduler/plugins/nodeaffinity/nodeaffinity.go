// SPDX-License-Identifier: Apache-2.0

// Package nodeaffinity keeps pods on nodes that match their nodeSelector and required node affinity, and
// prefers those that match more of the preferred terms.
package nodeaffinity

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Args configures the plugin; the zero value is the default.
type Args struct {
	// Added is an affinity that all pods of the profile have besides their own; nil for none.
	Added *v1.NodeAffinity
}

type plugin struct {
	added     *nodeaffinity.NodeSelector // nil if nothing is required besides
	preferred *nodeaffinity.PreferredSchedulingTerms
}

// New returns a constructor of the plugin.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	return func(*framework.Handle) (framework.Plugin, error) {
		var p plugin
		var err error
		if args.Added == nil {
			return p, nil
		}
		if required := args.Added.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			if p.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
				return nil, fmt.Errorf("NodeAffinity: parsing addedAffinity: %w", err)
			}
		}
		if preferred := args.Added.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) > 0 {
			if p.preferred, err = nodeaffinity.NewPreferredSchedulingTerms(preferred); err != nil {
				return nil, fmt.Errorf("NodeAffinity: parsing addedAffinity: %w", err)
			}
		}
		return p, nil
	}
}

func (plugin) Name() string { return "NodeAffinity" }

var (
	mismatch = framework.RejectForGood("node(s) didn't match Pod's node affinity/selector")
	enforced = framework.RejectForGood("node(s) didn't match scheduler-enforced node affinity")
	conflict = framework.RejectForGood("pod affinity terms conflict")
)

func (p plugin) PreFilter(_ context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	affinity := pod.Pod.Spec.Affinity
	terms := affinity != nil && affinity.NodeAffinity != nil && affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if !terms && len(pod.Pod.Spec.NodeSelector) == 0 && p.added == nil {
		return nil, nil, framework.SkipStatus
	}
	state := newRequired(pod.Pod)
	if !terms {
		return state, nil, nil
	}
	names := namedNodes(affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
	if names != nil && len(names) == 0 {
		return nil, nil, conflict
	}
	return state, names, nil
}

// namedNodes returns the nodes that the terms name by metadata.name, as DaemonSets do; nil if some term names none.
func namedNodes(terms []v1.NodeSelectorTerm) sets.Set[string] {
	all := sets.New[string]()
	for i := range terms {
		var ofTerm sets.Set[string]
		for _, field := range terms[i].MatchFields {
			if field.Key != "metadata.name" || field.Operator != v1.NodeSelectorOpIn {
				continue
			}
			names := sets.New(field.Values...)
			if ofTerm != nil {
				names = ofTerm.Intersection(names)
			}
			ofTerm = names
		}
		if ofTerm == nil {
			return nil
		}
		all = all.Union(ofTerm)
	}
	if len(terms) == 0 {
		return nil
	}
	return all
}

func (p plugin) Filter(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if p.added != nil && !p.added.Match(node.Node) {
		return enforced
	}
	if !state.(*required).matches(node.Node) {
		return mismatch
	}
	return nil
}

// Sign implements framework.Local.
func (plugin) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	spec := &pod.Pod.Spec
	b = binary.AppendUvarint(b, uint64(len(spec.NodeSelector)))
	for _, key := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		b = framework.SignString(framework.SignString(b, key), spec.NodeSelector[key])
	}
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil {
		return append(b, 0), true
	}
	return framework.SignMessage(append(b, 1), spec.Affinity.NodeAffinity), true
}

func (p plugin) PreScore(_ context.Context, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	affinity := pod.Pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		if p.preferred == nil {
			return nil, framework.SkipStatus
		}
		return (*nodeaffinity.PreferredSchedulingTerms)(nil), nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil, framework.AsStatus(fmt.Errorf("parsing preferred node affinity: %w", err))
	}
	return terms, nil
}

// Score adds up the weights of the preferred terms that match.
func (p plugin) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	score := int64(0)
	if own := state.(*nodeaffinity.PreferredSchedulingTerms); own != nil {
		score = own.Score(node.Node)
	}
	if p.preferred != nil {
		score += p.preferred.Score(node.Node)
	}
	return score
}

func (plugin) Normalize(_ framework.State, _ []*framework.NodeInfo, scores []int64) {
	framework.NormalizeByMax(scores, false)
}

func (p plugin) Hints() []framework.Hint {
	return []framework.Hint{{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeLabel, Helps: p.matchesNow}}
}

func (p plugin) matchesNow(pod *framework.PodInfo, event *framework.Event) bool {
	r := newRequired(pod.Pod)
	matches := func(node *v1.Node) bool { return (p.added == nil || p.added.Match(node)) && r.matches(node) }
	return matches(event.NewNode()) && (event.OldNode() == nil || !matches(event.OldNode()))
}
