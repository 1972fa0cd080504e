// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"
)

// Shortage is how much a node has too little of a resource. CPU is in thousandths.
type Shortage struct {
	Name   v1.ResourceName
	Amount int64
}

// Short says of what there is too little for a pod; nil if that is not all that keeps it from running here.
func Short(pod *v1.Pod, node *v1.Node, others []*v1.Pod) (all []Shortage) {
	if machine(pod, node) != nil || predicates(pod, node, others) != nil {
		return nil
	}
	for _, l := range lacking(pod, node, others) {
		all = append(all, Shortage{l.name, l.requested + l.used - l.capacity})
	}
	return all
}

// Victims are the pods to end so that there is enough for one that is critical: as few as possible and little ones, and
// none of a better class where those of a worse one will do. Those that may go are given.
// Reference: https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/
func Victims(mayGo []*v1.Pod, short []Shortage) ([]*v1.Pod, error) {
	of := map[v1.PodQOSClass][]*v1.Pod{}
	for _, pod := range mayGo {
		class := qos.GetPodQOS(pod)
		of[class] = append(of[class], pod)
	}
	bestEffort, burstable, guaranteed := of[v1.PodQOSBestEffort], of[v1.PodQOSBurstable], of[v1.PodQOSGuaranteed]
	if left := without(short, mayGo); len(left) > 0 {
		return nil, noneFound(left)
	}
	var ends [3][]*v1.Pod
	for i, class := range [3]struct {
		of    []*v1.Pod
		after []*v1.Pod // that are gone by then, all the worse ones and those of better classes that must go
	}{{guaranteed, slices.Concat(bestEffort, burstable)}, {burstable, bestEffort}, {bestEffort, nil}} {
		left := without(without(short, class.after), slices.Concat(ends[:]...))
		chosen, err := nearest(class.of, left)
		if err != nil {
			return nil, err
		}
		ends[i] = chosen
	}
	return slices.Concat(ends[2], ends[1], ends[0]), nil
}

func noneFound(short []Shortage) error {
	var b strings.Builder
	for _, s := range short {
		fmt.Fprintf(&b, "(res: %v, q: %d), ", s.Name, s.Amount)
	}
	return fmt.Errorf("no set of running pods found to reclaim resources: [%s]", b.String())
}

// nearest chooses pods one after the other, each time that which leaves the least to be found.
func nearest(from []*v1.Pod, short []Shortage) (chosen []*v1.Pod, err error) {
	from = slices.Clone(from)
	for len(short) > 0 {
		if len(from) == 0 {
			return nil, noneFound(short)
		}
		best := slices.MinFunc(from, func(a, b *v1.Pod) int {
			return cmp.Or(cmp.Compare(distance(short, a), distance(short, b)), cmp.Compare(request(a, v1.ResourceMemory), request(b, v1.ResourceMemory)), cmp.Compare(request(a, v1.ResourceCPU), request(b, v1.ResourceCPU)))
		})
		chosen, short = append(chosen, best), without(short, []*v1.Pod{best})
		from = slices.DeleteFunc(from, func(p *v1.Pod) bool { return p == best })
	}
	return chosen, nil
}

// distance is how far the end of a pod leaves us from what is needed; each resource counts alike.
func distance(short []Shortage, pod *v1.Pod) (sum float64) {
	for _, s := range short {
		if left := s.Amount - request(pod, s.Name); left > 0 {
			sum += math.Pow(float64(left)/float64(s.Amount), 2)
		}
	}
	return sum
}

// without is what is short once some pods have ended.
func without(short []Shortage, pods []*v1.Pod) (left []Shortage) {
	for _, s := range short {
		for _, pod := range pods {
			s.Amount -= request(pod, s.Name)
		}
		if s.Amount > 0 {
			left = append(left, s)
		}
	}
	return left
}

func request(pod *v1.Pod, name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	q := resource.PodRequests(pod, resource.PodResourcesOptions{})[name]
	return value(name, &q)
}
