// SPDX-License-Identifier: Apache-2.0

// Package podtopologyspread spreads pods over the domains of a topology (zones, nodes) as their
// topologySpreadConstraints ask: hard ones keep a pod off nodes, soft ones and the defaults for pods of a Service or
// controller rate nodes.
//
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
package podtopologyspread

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/tainttoleration"
)

// Args configures the plugin.
type Args struct {
	// DefaultConstraints of pods without constraints; they have no selector, it comes from the pod's Service or
	// controller. nil means the system's: soft, over nodes and zones.
	DefaultConstraints []v1.TopologySpreadConstraint
}

var systemDefaults = []v1.TopologySpreadConstraint{
	{TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 3},
	{TopologyKey: v1.LabelTopologyZone, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 5},
}

type plugin struct {
	handle   *framework.Handle
	defaults []v1.TopologySpreadConstraint
	// lenient scores nodes that lack some topology label too.
	lenient bool
}

// New returns a constructor of the plugin.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	return func(h *framework.Handle) (framework.Plugin, error) {
		p := &plugin{handle: h, defaults: args.DefaultConstraints}
		if p.defaults == nil {
			p.defaults, p.lenient = systemDefaults, true
		}
		return p, nil
	}
}

func (*plugin) Name() string { return "PodTopologySpread" }

// constraint is a parsed v1.TopologySpreadConstraint.
type constraint struct {
	maxSkew       int
	minDomains    int
	key           string
	selector      labels.Selector
	honorAffinity bool
	honorTaints   bool
}

// parse returns the pod's constraints of one kind.
func parse(constraints []v1.TopologySpreadConstraint, podLabels map[string]string, action v1.UnsatisfiableConstraintAction) ([]constraint, error) {
	var parsed []constraint
	for i := range constraints {
		c := &constraints[i]
		if c.WhenUnsatisfiable != action {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("parsing labelSelector of topology spread constraint: %w", err)
		}
		p := constraint{
			maxSkew: int(c.MaxSkew), minDomains: 1, key: c.TopologyKey,
			selector:      framework.SelectValuesOf(selector, podLabels, c.MatchLabelKeys, true),
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			p.minDomains = int(*c.MinDomains)
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

// constraints returns the pod's own, or the default ones.
func (p *plugin) constraints(ctx context.Context, pod *v1.Pod, action v1.UnsatisfiableConstraintAction) ([]constraint, error) {
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		return parse(pod.Spec.TopologySpreadConstraints, pod.Labels, action)
	}
	defaults, err := parse(p.defaults, pod.Labels, action)
	if err != nil || len(defaults) == 0 {
		return nil, err
	}
	selector, err := p.defaultSelector(ctx, pod)
	if err != nil || selector.Empty() {
		return nil, err
	}
	for i := range defaults {
		defaults[i].selector = selector
	}
	return defaults, nil
}

// includes says whether the node counts for the constraint.
func (c *constraint) includes(pod *v1.Pod, required *nodeaffinity.RequiredNodeAffinity, node *v1.Node) bool {
	if c.honorAffinity {
		if match, _ := required.Match(node); !match {
			return false
		}
	}
	return !c.honorTaints || tainttoleration.Tolerates(pod, node)
}

// hasKeys says whether the node is in a domain of every constraint.
func hasKeys(node *v1.Node, constraints []constraint) bool {
	for i := range constraints {
		if _, ok := node.Labels[constraints[i].key]; !ok {
			return false
		}
	}
	return true
}

// among says which nodes a pod's constraints are about.
type among struct {
	pod         *v1.Pod
	required    *nodeaffinity.RequiredNodeAffinity
	constraints []constraint
	allKeys     bool // only nodes that have a domain of each constraint
}

// tally counts the pods that a constraint is about, by domain.
func (a among) tally(view *framework.Snapshot, c *constraint) *framework.Tally {
	return view.Keep(a.id(c), func(nodes int) framework.Kept {
		return framework.NewTally(nodes, c.key, func(node *framework.NodeInfo) (int, bool) {
			if a.allKeys && !hasKeys(node.Node, a.constraints) || !c.includes(a.pod, a.required, node.Node) {
				return 0, false
			}
			return countMatching(node, c.selector, a.pod.Namespace), true
		})
	}).(*framework.Tally)
}

// perNode counts them on single nodes.
func (a among) perNode(view *framework.Snapshot, c *constraint) *framework.PerNode {
	return view.Keep("nodespread/"+a.pod.Namespace+"/"+framework.SelectorID(c.selector), func(nodes int) framework.Kept {
		return framework.NewPerNode(nodes, func(node *framework.NodeInfo) int { return countMatching(node, c.selector, a.pod.Namespace) })
	}).(*framework.PerNode)
}

// id has everything in it that tally's verdicts depend on.
func (a among) id(c *constraint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "spread/%s/%s\n%s", a.pod.Namespace, c.key, framework.SelectorID(c.selector))
	for i := 0; a.allKeys && i < len(a.constraints); i++ {
		fmt.Fprintf(&b, "\nkey %s", a.constraints[i].key)
	}
	if affinity := a.pod.Spec.Affinity; c.honorAffinity && affinity != nil && affinity.NodeAffinity != nil {
		fmt.Fprintf(&b, "\naffinity %v", affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	if c.honorAffinity && len(a.pod.Spec.NodeSelector) > 0 {
		fmt.Fprintf(&b, "\nselector %v", a.pod.Spec.NodeSelector)
	}
	if c.honorTaints {
		fmt.Fprintf(&b, "\ntolerations %v", a.pod.Spec.Tolerations)
	}
	return b.String()
}

// countMatching counts the node's pods that the selector picks; those being deleted do not count.
func countMatching(node *framework.NodeInfo, selector labels.Selector, namespace string) int {
	if selector.Empty() {
		return 0
	}
	count := 0
	for _, p := range node.Pods {
		if p.Pod.DeletionTimestamp == nil && p.Pod.Namespace == namespace && selector.Matches(labels.Set(p.Pod.Labels)) {
			count++
		}
	}
	return count
}

const skewed = "node(s) didn't match pod topology spread constraints"

var (
	tooSkewed    = framework.Reject(skewed)
	missingLabel = framework.RejectForGood(skewed + " (missing required label)")
)

// filterState has, for each hard constraint, the number of matching pods in each domain.
type filterState struct {
	constraints []constraint
	tallies     []*framework.Tally
	self        []bool
	required    nodeaffinity.RequiredNodeAffinity

	// In a what-if there are more matching pods in some domains, or fewer.
	more   []map[string]int
	lowest []int // the number in the emptiest domain; 0 as long as there are fewer domains than there should be
}

func (p *plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, view *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	constraints, err := p.constraints(ctx, pod.Pod, v1.DoNotSchedule)
	if err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	if len(constraints) == 0 {
		return nil, nil, framework.SkipStatus
	}
	s := &filterState{
		constraints: constraints,
		tallies:     make([]*framework.Tally, len(constraints)),
		self:        make([]bool, len(constraints)),
		required:    nodeaffinity.GetRequiredNodeAffinity(pod.Pod),
		more:        make([]map[string]int, len(constraints)),
		lowest:      make([]int, len(constraints)),
	}
	among := among{pod.Pod, &s.required, constraints, true}
	for i := range constraints {
		s.tallies[i] = among.tally(view, &constraints[i])
		s.self[i] = constraints[i].selector.Matches(labels.Set(pod.Pod.Labels))
		s.findLowest(i)
	}
	return s, nil, nil
}

// Filter wants that, with the pod, the node's domain has at most maxSkew more matching pods than the emptiest.
func (p *plugin) Filter(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := state.(*filterState)
	for i := range s.constraints {
		c := &s.constraints[i]
		domain := s.tallies[i].Of(node)
		if domain == nil {
			return missingLabel
		}
		count := domain.Pods
		if more := s.more[i]; more != nil {
			count += more[node.Node.Labels[c.key]]
		}
		if s.self[i] {
			count++
		}
		if count-s.lowest[i] > c.maxSkew {
			return tooSkewed
		}
	}
	return nil
}

func (s *filterState) findLowest(i int) {
	s.lowest[i] = 0
	if s.tallies[i].Domains >= s.constraints[i].minDomains {
		s.lowest[i] = s.tallies[i].Lowest(s.more[i])
	}
}

func (*plugin) Clone(state framework.State) framework.State {
	s := *state.(*filterState)
	s.more, s.lowest = slices.Clone(s.more), slices.Clone(s.lowest)
	for i := range s.more {
		s.more[i] = maps.Clone(s.more[i])
	}
	return &s
}

func (*plugin) PodAdded(state framework.State, pod, added *framework.PodInfo, node *framework.NodeInfo) {
	state.(*filterState).update(pod, added, node, 1)
}

func (*plugin) PodRemoved(state framework.State, pod, removed *framework.PodInfo, node *framework.NodeInfo) {
	state.(*filterState).update(pod, removed, node, -1)
}

func (s *filterState) update(pod, changed *framework.PodInfo, node *framework.NodeInfo, delta int) {
	if changed.Pod.Namespace != pod.Pod.Namespace || !hasKeys(node.Node, s.constraints) {
		return
	}
	for i := range s.constraints {
		c := &s.constraints[i]
		if !c.selector.Matches(labels.Set(changed.Pod.Labels)) || !c.includes(pod.Pod, &s.required, node.Node) {
			continue
		}
		if s.more[i] == nil {
			s.more[i] = make(map[string]int)
		}
		s.more[i][node.Node.Labels[c.key]] += delta
		s.findLowest(i)
	}
}
