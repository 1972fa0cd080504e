// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeaffinity"
)

// advisor says what change would get plugins' objections to a pod out of the way.
type advisor struct {
	pod        *framework.PodInfo
	view       *framework.Snapshot
	namespaces corelisters.NamespaceLister
}

func (a *advisor) objections(plugin string, status *framework.Status, node *framework.NodeInfo) []Objection {
	var all []Objection
	for _, reason := range status.Reasons() {
		all = append(all, Objection{Plugin: plugin, Reason: reason, Help: a.help(plugin, reason, node)})
	}
	return all
}

// help is about one objection; "" if nothing more can be said than the reason says. node is nil if the objection is to the pod as such.
func (a *advisor) help(plugin, reason string, node *framework.NodeInfo) string {
	if node == nil {
		return a.helpAnywhere(plugin, reason)
	}
	name := node.Node.Name
	switch plugin {
	case "NodeResourcesFit":
		return a.room(reason, node)
	case "NodeUnschedulable":
		return "kubectl uncordon " + name
	case "TaintToleration":
		return tolerate(a.pod.Pod, node.Node)
	case "NodeAffinity":
		if strings.Contains(reason, "scheduler-enforced") {
			return "the scheduler's configuration has addedAffinity for all pods"
		}
		return relabel(a.pod.Pod, node.Node)
	case "NodePorts":
		return a.ports(node)
	case "InterPodAffinity":
		return a.affinity(node)
	case "PodTopologySpread":
		return spreading(a.pod.Pod, node.Node)
	case "VolumeBinding", "VolumeZone":
		return "kubectl get pvc,pv,csistoragecapacities -n " + a.pod.Pod.Namespace + " shows where the pod's volumes are, or could be made"
	case "NodeVolumeLimits":
		if strings.HasSuffix(reason, "is not installed on the node") {
			return "install the driver there: kubectl get csinode " + name + " shows which ones there are"
		}
		return "kubectl get csinode " + name + " shows how many volumes can be attached: move pods with volumes elsewhere"
	case "VolumeRestrictions":
		return a.sharing(node)
	case "NodeName":
		return fmt.Sprintf("the pod asks for node %q", a.pod.Pod.Spec.NodeName)
	case "NodeDeclaredFeatures":
		return "kubectl get node " + name + " -o jsonpath={.status.declaredFeatures} shows what the node can do"
	case "DynamicResources":
		return "kubectl get resourceslices,resourceclaims -A shows which devices there are and who has them"
	}
	return ""
}

// helpAnywhere is about what keeps the pod from all nodes.
func (a *advisor) helpAnywhere(plugin, reason string) string {
	if strings.HasSuffix(reason, "not found") || strings.HasSuffix(reason, "does not exist") {
		return "create it"
	}
	switch plugin {
	case "SchedulingGates":
		return "remove the pod's spec.schedulingGates"
	case "NodeAffinity":
		return "change the pod's node affinity: no node has all the names that it asks for"
	case "DefaultPreemption":
		return "wait until the pods are gone that make room for it"
	case "VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone":
		return "kubectl describe pvc -n " + a.pod.Pod.Namespace + " tells what the pod's claims wait for"
	case "DynamicResources":
		return "kubectl get resourceclaims,deviceclasses -n " + a.pod.Pod.Namespace + " shows what there is; a claim that was made from a template belongs to one pod"
	}
	return ""
}

// room says how much is missing of what is short.
func (a *advisor) room(reason string, node *framework.NodeInfo) string {
	name := v1.ResourceName(strings.TrimPrefix(reason, "Insufficient "))
	if reason == "Too many pods" {
		return fmt.Sprintf("all %d places are taken: delete a pod or raise --max-pods", node.Allocatable.AllowedPods)
	}
	want, all, used := a.pod.Request.Get(name), node.Allocatable.Get(name), node.Requested.Get(name)
	free := "free " + amount(name, want-(all-used))
	switch {
	case all == 0 && framework.IsExtendedResource(name):
		return "the node has none: a device plugin there, or a DeviceClass, has to offer it"
	case all == 0:
		return "the node has none"
	case want > all:
		return fmt.Sprintf("request %s instead of %s: the whole node has no more", amount(name, all), amount(name, want))
	case used >= all:
		return free
	}
	return fmt.Sprintf("request %s instead of %s, or %s", amount(name, all-used), amount(name, want), free)
}

func amount(name v1.ResourceName, value int64) string {
	switch name {
	case v1.ResourceCPU:
		return resource.NewMilliQuantity(value, resource.DecimalSI).String()
	case v1.ResourceMemory, v1.ResourceEphemeralStorage:
		return resource.NewQuantity(value, resource.BinarySI).String()
	}
	return resource.NewQuantity(value, resource.DecimalSI).String()
}

// tolerate names all taints that the pod does not tolerate. Those that tell of the node's condition come back if somebody takes them off.
func tolerate(pod *v1.Pod, node *v1.Node) string {
	var taints, off []string
	condition := false
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == v1.TaintEffectPreferNoSchedule || corev1.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, t, false) {
			continue
		}
		taints = append(taints, t.ToString())
		if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			condition = condition || t.Key != v1.TaintNodeUnschedulable
		} else {
			off = append(off, fmt.Sprintf("%s:%s-", t.Key, t.Effect))
		}
	}
	help := "tolerate " + strings.Join(taints, " and ")
	switch {
	case condition:
		return help + ", or mend the node: kubectl describe node " + node.Name + " tells what it suffers from"
	case len(off) == 0:
		return help + ", or kubectl uncordon " + node.Name
	}
	return fmt.Sprintf("%s, or kubectl taint node %s %s", help, node.Name, strings.Join(off, " "))
}

// relabel names what the nodeSelector and the node affinity want and the node lacks.
func relabel(pod *v1.Pod, node *v1.Node) string {
	var missing []string
	settable := true
	for _, key := range slices.Sorted(maps.Keys(pod.Spec.NodeSelector)) {
		if value := pod.Spec.NodeSelector[key]; node.Labels[key] != value {
			missing = append(missing, key+"="+value)
			settable = settable && key != v1.LabelHostname && key != v1.LabelOSStable && key != v1.LabelArchStable // which say what the node is
		}
	}
	switch {
	case !settable:
		return "change the pod's nodeSelector, which wants " + strings.Join(missing, " and ")
	case len(missing) > 0:
		return fmt.Sprintf("change the pod's nodeSelector, or kubectl label node %s %s", node.Name, strings.Join(missing, " "))
	}
	return "change the pod's node affinity, or the node's labels so that " + strings.Join(nodeaffinity.Unmet(pod, node), ", or ")
}

func (a *advisor) ports(node *framework.NodeInfo) string {
	for _, other := range node.Pods {
		var alone framework.NodeInfo
		alone.AddPod(other)
		for i := range a.pod.Ports {
			if alone.UsedPorts.Conflicts(&a.pod.Ports[i]) {
				return fmt.Sprintf("port %d of the node is taken by pod %s: use another hostPort", a.pod.Ports[i].HostPort, framework.Key(other.Pod))
			}
		}
	}
	return ""
}

// affinity names who is missing around, or in the way.
func (a *advisor) affinity(node *framework.NodeInfo) string {
	for i := range a.pod.RequiredAffinity {
		t := &a.pod.RequiredAffinity[i]
		value, ok := node.Node.Labels[t.TopologyKey]
		if !ok {
			return "label the node with the topologyKey " + t.TopologyKey
		}
		if a.around(node, t.TopologyKey, func(other *framework.PodInfo) bool { return t.Matches(other.Pod, a.labelsOf(other.Pod)) }) == "" {
			return fmt.Sprintf("there has to be a pod with %s where %s=%s", t.Selector, t.TopologyKey, value)
		}
	}
	for i := range a.pod.RequiredAntiAffinity {
		t := &a.pod.RequiredAntiAffinity[i]
		if who := a.around(node, t.TopologyKey, func(other *framework.PodInfo) bool { return t.Matches(other.Pod, a.labelsOf(other.Pod)) }); who != "" {
			return "pod " + who + " is in the way: the pod does not want to be near it"
		}
	}
	own := a.labelsOf(a.pod.Pod)
	for _, other := range a.view.Nodes {
		for _, p := range other.PodsWithAffinity {
			for i := range p.RequiredAntiAffinity {
				t := &p.RequiredAntiAffinity[i]
				if sameDomain(node, other, t.TopologyKey) && t.Matches(a.pod.Pod, own) {
					return "pod " + framework.Key(p.Pod).String() + " is in the way: it does not want the pod near it"
				}
			}
		}
	}
	return "change the pod's affinity, or the labels of the pods that it is about"
}

// around names a pod in the node's domain of a key that matches; "" if there is none.
func (a *advisor) around(node *framework.NodeInfo, key string, matches func(*framework.PodInfo) bool) string {
	for _, other := range a.view.Nodes {
		if !sameDomain(node, other, key) {
			continue
		}
		if i := slices.IndexFunc(other.Pods, matches); i >= 0 {
			return framework.Key(other.Pods[i].Pod).String()
		}
	}
	return ""
}

func sameDomain(a, b *framework.NodeInfo, key string) bool {
	x, has := a.Node.Labels[key]
	y, also := b.Node.Labels[key]
	return has && also && x == y
}

func (a *advisor) labelsOf(pod *v1.Pod) labels.Set {
	if ns, err := a.namespaces.Get(pod.Namespace); err == nil {
		return ns.Labels
	}
	return nil
}

func spreading(pod *v1.Pod, node *v1.Node) string {
	var missing []string
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if _, ok := node.Labels[c.TopologyKey]; !ok && c.WhenUnsatisfiable == v1.DoNotSchedule {
			missing = append(missing, c.TopologyKey)
		}
	}
	if len(missing) > 0 {
		return "label the node with the topologyKey " + strings.Join(missing, " and ")
	}
	return "raise maxSkew or set whenUnsatisfiable: ScheduleAnyway, or make room in the other domains of the topologyKey, which have fewer such pods"
}

// sharing names who uses a claim that is for one pod only.
func (a *advisor) sharing(node *framework.NodeInfo) string {
	claims := make(map[string]bool)
	for i := range a.pod.Pod.Spec.Volumes {
		if source := a.pod.Pod.Spec.Volumes[i].PersistentVolumeClaim; source != nil {
			claims[source.ClaimName] = true
		}
	}
	for _, other := range a.view.Nodes {
		for _, p := range other.Pods {
			if p.Pod.Namespace == a.pod.Pod.Namespace && slices.ContainsFunc(p.Pod.Spec.Volumes, func(v v1.Volume) bool {
				return v.PersistentVolumeClaim != nil && claims[v.PersistentVolumeClaim.ClaimName]
			}) {
				return "delete pod " + framework.Key(p.Pod).String() + ", which uses the volume"
			}
		}
	}
	return "delete the pod on node " + node.Node.Name + " that uses the disk"
}
