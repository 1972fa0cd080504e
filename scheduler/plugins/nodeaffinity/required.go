// SPDX-License-Identifier: Apache-2.0

package nodeaffinity

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// required is a pod's nodeSelector and required node affinity. What is about labels alone, as most are, is matched without the
// allocations that the library makes for each node.
type required struct {
	selector labels.Selector
	terms    []labels.Selector // of which one has to match; nil if nothing is required
	library  nodeaffinity.RequiredNodeAffinity
	fields   bool // ask the library: terms are about fields, or do not parse
}

var operators = map[v1.NodeSelectorOperator]selection.Operator{
	v1.NodeSelectorOpIn: selection.In, v1.NodeSelectorOpNotIn: selection.NotIn,
	v1.NodeSelectorOpExists: selection.Exists, v1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
	v1.NodeSelectorOpGt: selection.GreaterThan, v1.NodeSelectorOpLt: selection.LessThan,
}

func newRequired(pod *v1.Pod) *required {
	r := &required{selector: labels.SelectorFromSet(pod.Spec.NodeSelector), library: nodeaffinity.GetRequiredNodeAffinity(pod)}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		r.terms = []labels.Selector{}
		for i := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			r.add(&a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[i])
		}
	}
	return r
}

func (r *required) add(term *v1.NodeSelectorTerm) {
	r.fields = r.fields || len(term.MatchFields) > 0
	if len(term.MatchExpressions) == 0 {
		return // matches nothing
	}
	selector := labels.NewSelector()
	for i := range term.MatchExpressions {
		e := &term.MatchExpressions[i]
		requirement, err := labels.NewRequirement(e.Key, operators[e.Operator], e.Values)
		if err != nil {
			r.fields = true
			return
		}
		selector = selector.Add(*requirement)
	}
	r.terms = append(r.terms, selector)
}

// matches says whether the pod may run on the node. A term that does not parse matches nothing.
func (r *required) matches(node *v1.Node) bool {
	if r.fields {
		match, _ := r.library.Match(node)
		return match
	}
	if !r.selector.Matches(labels.Set(node.Labels)) {
		return false
	}
	for _, t := range r.terms {
		if t.Matches(labels.Set(node.Labels)) {
			return true
		}
	}
	return r.terms == nil
}

// Unmet says, for each of the pod's required terms, what is not so of a node that matches none of them.
func Unmet(pod *v1.Pod, node *v1.Node) []string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	var unmet []string
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var wanted []string
		for i := range term.MatchExpressions {
			e := &term.MatchExpressions[i]
			requirement, err := labels.NewRequirement(e.Key, operators[e.Operator], e.Values)
			if err == nil && !requirement.Matches(labels.Set(node.Labels)) {
				wanted = append(wanted, requirement.String())
			}
		}
		for _, field := range term.MatchFields {
			wanted = append(wanted, fmt.Sprintf("%s %s %v", field.Key, field.Operator, field.Values))
		}
		unmet = append(unmet, strings.Join(wanted, " and "))
	}
	return unmet
}
