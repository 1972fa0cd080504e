// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// Shape is a load like one of upstream's scheduler_perf: nodes of 4 CPUs and 110 places, pods that are there, pods to place.
type Shape struct {
	Name string
	// Floor is what upstream demands of itself at 5,000 nodes, in pods per second, on a large machine.
	Floor int
	Zones int // that the nodes are in, in turn; 0 for none
	// Before are pods that are placed, or found to have no place, before the time is taken.
	Before []Pods
	// Pods are placed in the time measured.
	Pods Pods
}

// Pods are so many of one kind.
type Pods struct {
	Namespace string
	Count     func(nodes int) int
	Change    func(i int, pod *v1.Pod) // of a pod that requests 100m and 500Mi
	NoPlace   bool                     // they fit nowhere
}

// The namespaces of shapes.
const (
	initial = "sched-0"
	Loaded  = "sched-1"
)

func times(n float64) func(int) int { return func(nodes int) int { return int(n * float64(nodes)) } }

func plain(int, *v1.Pod) {}

// Shapes by upstream's names.
var Shapes = []Shape{
	{Name: "Basic", Floor: 680, Before: []Pods{{initial, times(.2), plain, false}}, Pods: Pods{Loaded, times(2), plain, false}},
	{Name: "BasicMany", Floor: 790, Before: []Pods{{initial, times(1), plain, false}}, Pods: Pods{Loaded, times(10), plain, false}},
	{Name: "Daemonset", Floor: 1100, Pods: Pods{Loaded, times(2), func(i int, p *v1.Pod) {
		p.Spec.Affinity = nodeAffinity(v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{NodeName(i / 2)}}}})
	}, false}},
	{Name: "NodeAffinity", Floor: 540, Zones: 1, Before: []Pods{{initial, times(1), inZones, false}}, Pods: Pods{Loaded, times(2), inZones, false}},
	{Name: "PodAffinity", Floor: 70, Zones: 1, Before: []Pods{{initial, times(1), nearBlue, false}}, Pods: Pods{Loaded, times(1), nearBlue, false}},
	{Name: "PodAntiAffinity", Floor: 180, Before: []Pods{{initial, times(.2), farFromGreen, false}}, Pods: Pods{Loaded, times(.4), farFromGreen, false}},
	{Name: "PodMatchingAntiAffinity", Floor: 540, Before: []Pods{{initial, times(.2), farFromGreen, false}}, Pods: Pods{Loaded, times(1), green, false}},
	{Name: "PreferredPodAffinity", Floor: 160, Before: []Pods{{initial, times(1), preferRed, false}}, Pods: Pods{Loaded, times(1), preferRed, false}},
	{Name: "PreferredPodAntiAffinity", Floor: 190, Before: []Pods{{initial, times(1), avoidYellow, false}}, Pods: Pods{Loaded, times(1), avoidYellow, false}},
	{Name: "MixedBasePod", Floor: 540, Zones: 1, Before: []Pods{
		{initial, times(.4), plain, false}, {initial, times(.4), nearBlue, false}, {initial, times(.4), farFromGreen, false},
		{initial, times(.4), preferRed, false}, {initial, times(.4), avoidYellow, false},
	}, Pods: Pods{Loaded, times(1), plain, false}},
	{Name: "TopologySpreading", Floor: 460, Zones: 3, Before: []Pods{{initial, times(1), plain, false}}, Pods: Pods{Loaded, times(1), spread(v1.LabelTopologyZone, v1.DoNotSchedule, 5), false}},
	{Name: "PreferredTopologySpreading", Floor: 340, Zones: 3, Before: []Pods{{initial, times(1), plain, false}}, Pods: Pods{Loaded, times(1), spread(v1.LabelTopologyZone, v1.ScheduleAnyway, 5), false}},
	{Name: "NodeInclusionPolicy", Floor: 270, Pods: Pods{Loaded, times(.8), func(i int, p *v1.Pod) {
		spread(v1.LabelHostname, v1.DoNotSchedule, 1)(i, p)
		p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = ptr.To(v1.NodeInclusionPolicyHonor)
	}, false}},
	{Name: "Preemption", Before: []Pods{{initial, times(4), func(_ int, p *v1.Pod) { request(p, "900m") }, false}}, Pods: Pods{Loaded, times(.2), func(_ int, p *v1.Pod) {
		request(p, "3")
		p.Spec.Priority = ptr.To[int32](10)
	}, false}},
	{Name: "UnschedulableInTheWay", Floor: 590, Before: []Pods{{initial, func(int) int { return 100 }, func(_ int, p *v1.Pod) {
		request(p, "9")
		p.Spec.Priority = ptr.To[int32](10)
	}, true}}, Pods: Pods{Loaded, times(2), plain, false}},
}

// NodeName is that of a node of a shape.
func NodeName(i int) string { return fmt.Sprint("node-", i) }

// Nodes makes the nodes of a shape.
func (s *Shape) Nodes(n int) []*v1.Node {
	list := make([]*v1.Node, n)
	for i := range list {
		list[i] = &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: NodeName(i), Labels: map[string]string{v1.LabelHostname: NodeName(i)}},
			Status:     v1.NodeStatus{Allocatable: resources("4", "32Gi", "110")},
		}
		if s.Zones > 0 {
			list[i].Labels[v1.LabelTopologyZone] = fmt.Sprint("zone", 1+i%s.Zones)
		}
	}
	return list
}

// Make makes the pods for so many nodes.
func (p *Pods) Make(nodes int) []*v1.Pod {
	list := make([]*v1.Pod, p.Count(nodes))
	for i := range list {
		pod := &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: p.Namespace},
			Spec: v1.PodSpec{
				SchedulerName: v1.DefaultSchedulerName, TerminationGracePeriodSeconds: ptr.To[int64](0),
				Containers: []v1.Container{{Name: "pause", Image: "pause", Ports: []v1.ContainerPort{{ContainerPort: 80, Protocol: v1.ProtocolTCP}}}},
			},
		}
		if p.NoPlace {
			pod.Name = fmt.Sprint("none", i)
		}
		pod.UID = types.UID(pod.Namespace + "/" + pod.Name)
		request(pod, "100m")
		p.Change(i, pod)
		list[i] = pod
	}
	return list
}

func request(p *v1.Pod, cpu string) {
	list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("500Mi")}
	p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: list, Limits: list}
}

func spread(key string, when v1.UnsatisfiableConstraintAction, skew int32) func(int, *v1.Pod) {
	return func(_ int, p *v1.Pod) {
		p.Labels = map[string]string{"app": "web"}
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
			MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
		}}
	}
}

func nodeAffinity(term v1.NodeSelectorTerm) *v1.Affinity {
	return &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{term}}}}
}

func inZones(_ int, p *v1.Pod) {
	p.Spec.Affinity = nodeAffinity(v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{
		{Key: v1.LabelTopologyZone, Operator: v1.NodeSelectorOpIn, Values: []string{"zone1", "zone2"}},
	}})
}

func green(_ int, p *v1.Pod) { p.Labels = map[string]string{"color": "green"} }

// colour labels the pod and returns a term about all pods of that colour.
func colour(p *v1.Pod, key, of string) v1.PodAffinityTerm {
	p.Labels = map[string]string{"color": of}
	return v1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}, Namespaces: []string{initial, Loaded}}
}

func nearBlue(_ int, p *v1.Pod) {
	p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{colour(p, v1.LabelTopologyZone, "blue")}}}
}

func farFromGreen(_ int, p *v1.Pod) {
	p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{colour(p, v1.LabelHostname, "green")}}}
}

func preferRed(_ int, p *v1.Pod) {
	p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{
		{Weight: 1, PodAffinityTerm: colour(p, v1.LabelHostname, "red")},
	}}}
}

func avoidYellow(_ int, p *v1.Pod) {
	p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{
		{Weight: 1, PodAffinityTerm: colour(p, v1.LabelHostname, "yellow")},
	}}}
}
