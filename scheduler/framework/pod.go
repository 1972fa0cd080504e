// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"fmt"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
)

// PodInfo is a pod with everything parsed that scheduling reads more than once. It is immutable.
type PodInfo struct {
	Pod *v1.Pod

	Request Resource // as Fit sees it
	NonZero Resource // as scoring sees it: containers without requests count as small ones
	Ports   []v1.ContainerPort

	RequiredAffinity      []AffinityTerm
	RequiredAntiAffinity  []AffinityTerm
	PreferredAffinity     []WeightedAffinityTerm
	PreferredAntiAffinity []WeightedAffinityTerm

	// ParseError tells of an affinity term with an invalid selector.
	ParseError error
}

// NewPodInfo parses a pod.
func NewPodInfo(pod *v1.Pod) *PodInfo {
	p := &PodInfo{Pod: pod, Ports: hostPorts(pod)}
	if !p.addContainers() {
		p.Request, p.NonZero = podRequests(pod)
	}
	p.parseAffinity()
	return p
}

// HasAffinity says whether the pod has any inter-pod affinity term.
func (p *PodInfo) HasAffinity() bool {
	return len(p.RequiredAffinity)+len(p.RequiredAntiAffinity)+len(p.PreferredAffinity)+len(p.PreferredAntiAffinity) > 0
}

// addContainers is podRequests for most pods: those that have nothing but containers, and whose status says nothing else of these. It allocates
// nothing. It is false for others.
func (p *PodInfo) addContainers() bool {
	spec, status := &p.Pod.Spec, &p.Pod.Status
	if len(spec.InitContainers) > 0 || spec.Resources != nil || spec.Overhead != nil || status.Resources != nil || status.AllocatedResources != nil ||
		resourcehelper.IsPodResizeInfeasible(p.Pod) {
		return false
	}
	var request, nonZero Resource
	for i := range spec.Containers {
		c := &spec.Containers[i]
		if !statusAgrees(status.ContainerStatuses, c) || !request.addExactly(c.Resources.Requests, len(spec.Containers) > 1) {
			return false
		}
		if _, ok := c.Resources.Requests[v1.ResourceCPU]; !ok {
			nonZero.MilliCPU += DefaultMilliCPURequest
		}
		if _, ok := c.Resources.Requests[v1.ResourceMemory]; !ok {
			nonZero.Memory += DefaultMemoryRequest
		}
	}
	nonZero.MilliCPU += request.MilliCPU
	nonZero.Memory += request.Memory
	p.Request, p.NonZero = request, nonZero
	return true
}

// statusAgrees is false while a container is being resized.
func statusAgrees(statuses []v1.ContainerStatus, c *v1.Container) bool {
	for i := range statuses {
		if s := &statuses[i]; s.Name == c.Name {
			return (s.AllocatedResources == nil || sameAmounts(s.AllocatedResources, c.Resources.Requests)) &&
				(s.Resources == nil || s.Resources.Requests == nil || sameAmounts(s.Resources.Requests, c.Resources.Requests))
		}
	}
	return true
}

func sameAmounts(a, b v1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

// podRequests counts init containers, sidecars, overhead, pod-level resources, and, while a
// resize is under way, the larger of what is asked for and what is given.
func podRequests(pod *v1.Pod) (request, nonZero Resource) {
	options := resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	request = NewResource(resourcehelper.PodRequests(pod, options))
	options.NonMissingContainerRequests = v1.ResourceList{
		v1.ResourceCPU:    *resource.NewMilliQuantity(DefaultMilliCPURequest, resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(DefaultMemoryRequest, resource.BinarySI),
	}
	list := resourcehelper.PodRequests(pod, options)
	nonZero.MilliCPU = list.Cpu().MilliValue()
	nonZero.Memory = list.Memory().Value()
	return request, nonZero
}

// hostPorts lists the ports that the pod occupies on its node, those of sidecars included.
func hostPorts(pod *v1.Pod) []v1.ContainerPort {
	var ports []v1.ContainerPort
	add := func(c *v1.Container) {
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				ports = append(ports, port)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

// AffinityTerm is a parsed v1.PodAffinityTerm.
type AffinityTerm struct {
	ID                string // the same for terms that say the same
	Namespaces        sets.Set[string]
	NamespaceSelector labels.Selector
	Selector          labels.Selector
	TopologyKey       string
}

// Matches says whether the term selects pod, which is in a namespace with the labels given.
func (t *AffinityTerm) Matches(pod *v1.Pod, namespaceLabels labels.Set) bool {
	if t.Namespaces.Has(pod.Namespace) || t.NamespaceSelector.Matches(namespaceLabels) {
		return t.Selector.Matches(labels.Set(pod.Labels))
	}
	return false
}

// WeightedAffinityTerm is an AffinityTerm that only counts in scores.
type WeightedAffinityTerm struct {
	AffinityTerm
	Weight int32
}

func (p *PodInfo) parseAffinity() {
	a := p.Pod.Spec.Affinity
	if a == nil {
		return
	}
	if pa := a.PodAffinity; pa != nil {
		p.RequiredAffinity = p.parseTerms(pa.RequiredDuringSchedulingIgnoredDuringExecution)
		p.PreferredAffinity = p.parseWeighted(pa.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if pa := a.PodAntiAffinity; pa != nil {
		p.RequiredAntiAffinity = p.parseTerms(pa.RequiredDuringSchedulingIgnoredDuringExecution)
		p.PreferredAntiAffinity = p.parseWeighted(pa.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (p *PodInfo) parseTerms(terms []v1.PodAffinityTerm) []AffinityTerm {
	var parsed []AffinityTerm
	for i := range terms {
		if t, ok := p.parseTerm(&terms[i]); ok {
			parsed = append(parsed, t)
		}
	}
	return parsed
}

func (p *PodInfo) parseWeighted(terms []v1.WeightedPodAffinityTerm) []WeightedAffinityTerm {
	var parsed []WeightedAffinityTerm
	for i := range terms {
		if t, ok := p.parseTerm(&terms[i].PodAffinityTerm); ok {
			parsed = append(parsed, WeightedAffinityTerm{t, terms[i].Weight})
		}
	}
	return parsed
}

// parseTerm also merges matchLabelKeys into the selector. The API server has usually done so
// when the pod was created; saying the same twice changes nothing.
func (p *PodInfo) parseTerm(term *v1.PodAffinityTerm) (AffinityTerm, bool) {
	selector, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	if err != nil {
		p.ParseError = fmt.Errorf("parsing affinity selector: %w", err)
		return AffinityTerm{}, false
	}
	nsSelector, err := metav1.LabelSelectorAsSelector(term.NamespaceSelector)
	if err != nil {
		p.ParseError = fmt.Errorf("parsing affinity namespaceSelector: %w", err)
		return AffinityTerm{}, false
	}
	if term.LabelSelector != nil {
		selector = SelectValuesOf(selector, p.Pod.Labels, term.MatchLabelKeys, true)
		selector = SelectValuesOf(selector, p.Pod.Labels, term.MismatchLabelKeys, false)
	}
	t := AffinityTerm{
		Namespaces:        sets.New(term.Namespaces...),
		NamespaceSelector: nsSelector,
		Selector:          selector,
		TopologyKey:       term.TopologyKey,
	}
	if len(term.Namespaces) == 0 && term.NamespaceSelector == nil {
		t.Namespaces = sets.New(p.Pod.Namespace)
	}
	t.ID = strings.Join([]string{t.TopologyKey, SelectorID(selector), SelectorID(nsSelector), NamesID(t.Namespaces)}, "\n")
	return t, true
}

// SelectorID tells selectors apart.
func SelectorID(selector labels.Selector) string {
	if _, selectable := selector.Requirements(); !selectable {
		return "-"
	}
	return selector.String()
}

// NamesID tells sets of names apart.
func NamesID(names sets.Set[string]) string { return strings.Join(sets.List(names), ",") }

// SelectValuesOf narrows a selector to pods that have (or lack) the same values as podLabels under keys.
func SelectValuesOf(selector labels.Selector, podLabels map[string]string, keys []string, same bool) labels.Selector {
	if _, selectable := selector.Requirements(); !selectable {
		return selector // matches nothing, and still has to
	}
	op := metav1.LabelSelectorOpIn
	if !same {
		op = metav1.LabelSelectorOpNotIn
	}
	var more metav1.LabelSelector
	for _, key := range keys {
		if value, ok := podLabels[key]; ok {
			more.MatchExpressions = append(more.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
	if len(more.MatchExpressions) == 0 {
		return selector
	}
	merged, err := metav1.LabelSelectorAsSelector(&more)
	if err != nil {
		return selector // a label's key and value always parse
	}
	requirements, _ := merged.Requirements()
	return selector.Add(requirements...)
}
