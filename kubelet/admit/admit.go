// SPDX-License-Identifier: Apache-2.0

// Package admit decides whether a pod that was bound to this node may run on it.
//
// The scheduler decided on an older picture of the cluster, or was passed over with spec.nodeName: the node has the last
// word. The checks are the scheduler's for a single node, and their outcome goes into the pod's status as its reason.
package admit

import (
	"fmt"
	"runtime"
	"sort"

	v1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Rejection is why a pod may not run here: the reason and message of its Failed status.
type Rejection struct {
	Reason  string
	Message string
}

// Check compares a pod with the node and the pods that run on it already, as they were granted. It returns nil if the pod fits.
func Check(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *Rejection {
	if r := machine(pod, node); r != nil {
		return r
	}
	if r := resources(pod, node, others); r != nil {
		return r
	}
	return predicates(pod, node, others)
}

// machine checks what the node must be able to do for the pod.
func machine(pod *v1.Pod, node *v1.Node) *Rejection {
	if os, set := pod.Labels[v1.LabelOSStable]; set && os != runtime.GOOS {
		return rejected("PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label")
	}
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != runtime.GOOS {
		return rejected("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
	}
	if strictGroups(pod) && (node.Status.Features == nil || node.Status.Features.SupplementalGroupsPolicy == nil || !*node.Status.Features.SupplementalGroupsPolicy) {
		return rejected("SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node")
	}
	return nil
}

// predicates are the scheduler's checks that are not about amounts.
func predicates(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *Rejection {
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return predicate("NodeAffinity")
	}
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return predicate("NodeName")
	}
	if portsTaken(pod, others) {
		return predicate("NodePorts")
	}
	noExecute := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, hurts := corev1.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, noExecute, true); hurts {
		return predicate("TaintToleration")
	}
	return nil
}

func rejected(reason, message string) *Rejection {
	return &Rejection{reason, "Pod was rejected: " + message}
}

func predicate(name string) *Rejection {
	return rejected(name, fmt.Sprintf("Predicate %s failed: %s", name, explanations[name]))
}

func strictGroups(pod *v1.Pod) bool {
	sc := pod.Spec.SecurityContext
	return sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict
}

var explanations = map[string]string{
	"NodeAffinity":    "node(s) didn't match Pod's node affinity/selector",
	"NodeName":        "node(s) didn't match the requested node name",
	"NodePorts":       "node(s) didn't have free ports for the requested pod ports",
	"TaintToleration": "node(s) had taints that the pod didn't tolerate",
}

// CheckResize says whether a pod that runs here may have what its spec asks for now.
func CheckResize(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *Rejection {
	return resources(pod, node, others)
}

// resources checks that what is requested on the node in all stays within what it can give.
func resources(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *Rejection {
	for _, l := range lacking(pod, node, others) {
		return rejected("OutOf"+string(l.name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", l.name, l.requested, l.used, l.capacity))
	}
	return nil
}

// lack is a resource of which a node has too little. CPU is in thousandths.
type lack struct {
	name                      v1.ResourceName
	requested, used, capacity int64
}

// lacking lists what the node has too little of for the pod.
func lacking(pod *v1.Pod, node *v1.Node, others []*v1.Pod) (all []lack) {
	used := v1.ResourceList{}
	for _, other := range others {
		for name, q := range resource.PodRequests(other, resource.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	if most := node.Status.Allocatable.Pods().Value(); int64(len(others))+1 > most {
		all = append(all, lack{v1.ResourcePods, 1, int64(len(others)), most})
	}
	wants := resource.PodRequests(pod, resource.PodResourcesOptions{})
	names := make([]string, 0, len(wants))
	for name := range wants {
		names = append(names, string(name))
	}
	sort.Strings(names)
	for _, n := range names {
		name := v1.ResourceName(n)
		want, have := wants[name], node.Status.Allocatable[name]
		_, offered := node.Status.Allocatable[name]
		if want.IsZero() || !offered && !native(name) { // an extended resource that this node has never had is the scheduler's affair
			continue
		}
		sum := used[name]
		total := sum.DeepCopy()
		total.Add(want)
		if total.Cmp(have) > 0 {
			all = append(all, lack{name, value(name, &want), value(name, &sum), value(name, &have)})
		}
	}
	return all
}

func native(name v1.ResourceName) bool {
	return name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage
}

func value(name v1.ResourceName, q *apiresource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func portsTaken(pod *v1.Pod, others []*v1.Pod) bool {
	wants := hostPorts(pod)
	if len(wants) == 0 {
		return false
	}
	for _, other := range others {
		for _, theirs := range hostPorts(other) {
			for _, ours := range wants {
				if ours.HostPort == theirs.HostPort && ours.Protocol == theirs.Protocol && (ours.HostIP == theirs.HostIP || anyIP(ours.HostIP) || anyIP(theirs.HostIP)) {
					return true
				}
			}
		}
	}
	return false
}

func anyIP(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

func hostPorts(pod *v1.Pod) []v1.ContainerPort {
	var ports []v1.ContainerPort
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort > 0 {
				if p.Protocol == "" {
					p.Protocol = v1.ProtocolTCP
				}
				ports = append(ports, p)
			}
		}
	}
	return ports
}
