// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// help says what change would get a plugin's objection out of the way; "" if nothing more can be said than the reason says. node is nil
// if the objection is to the pod as such.
func help(plugin, reason string, pod *framework.PodInfo, node *framework.NodeInfo) string {
	if node == nil {
		return helpAnywhere(plugin, reason, pod)
	}
	name := node.Node.Name
	switch plugin {
	case "NodeResourcesFit":
		return room(reason, pod, node)
	case "NodeUnschedulable":
		return "kubectl uncordon " + name
	case "TaintToleration":
		return tolerate(pod.Pod, node.Node)
	case "NodeAffinity":
		return relabel(pod.Pod, node.Node)
	case "NodePorts":
		return ports(pod, node)
	case "InterPodAffinity":
		return "change the pod's affinity, or the labels of the pods that it is about"
	case "PodTopologySpread":
		return "raise maxSkew or set whenUnsatisfiable: ScheduleAnyway, or add nodes in other domains of the topologyKey"
	case "VolumeBinding", "VolumeZone":
		return "kubectl get pvc,pv,csistoragecapacities -n " + pod.Pod.Namespace + " shows where the pod's volumes are, or could be made"
	case "NodeVolumeLimits":
		if strings.HasSuffix(reason, "is not installed on the node") {
			return "install the driver there: kubectl get csinode " + name + " shows which ones there are"
		}
		return "kubectl get csinode " + name + " shows how many volumes can be attached: move pods with volumes elsewhere"
	case "VolumeRestrictions":
		return "delete the pod that uses the volume"
	case "NodeName":
		return fmt.Sprintf("the pod asks for node %q", pod.Pod.Spec.NodeName)
	case "NodeDeclaredFeatures":
		return "kubectl get node " + name + " -o jsonpath={.status.declaredFeatures} shows what the node can do"
	case "DynamicResources":
		return "kubectl get resourceslices,resourceclaims shows which devices there are and who has them"
	}
	return ""
}

// helpAnywhere is about what keeps the pod from all nodes.
func helpAnywhere(plugin, reason string, pod *framework.PodInfo) string {
	switch plugin {
	case "SchedulingGates":
		return "remove the pod's spec.schedulingGates"
	case "NodeAffinity":
		return "change the pod's node affinity: no node has all the names that it asks for"
	case "DefaultPreemption":
		return "wait until the pods are gone that make room for it"
	case "VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone":
		if strings.HasSuffix(reason, "not found") {
			return "create it"
		}
		if pod == nil {
			return ""
		}
		return "kubectl describe pvc -n " + pod.Pod.Namespace + " tells what the pod's claims wait for"
	case "DynamicResources":
		return "kubectl get resourceclaims,deviceclasses shows what there is; a claim that was made from a template belongs to one pod"
	}
	return ""
}

// room says how much is missing of what is short.
func room(reason string, pod *framework.PodInfo, node *framework.NodeInfo) string {
	name := v1.ResourceName(strings.TrimPrefix(reason, "Insufficient "))
	if reason == "Too many pods" {
		return fmt.Sprintf("all %d places are taken: delete a pod or raise --max-pods", node.Allocatable.AllowedPods)
	}
	want, all, used := pod.Request.Get(name), node.Allocatable.Get(name), node.Requested.Get(name)
	if want > all {
		return fmt.Sprintf("request %s instead of %s: the whole node has no more", amount(name, all), amount(name, want))
	}
	return fmt.Sprintf("request %s instead of %s, or free %s", amount(name, max(all-used, 0)), amount(name, want), amount(name, want-(all-used)))
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

func tolerate(pod *v1.Pod, node *v1.Node) string {
	taint, untolerated := corev1.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(t *v1.Taint) bool {
		return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
	}, false)
	if !untolerated {
		return ""
	}
	return fmt.Sprintf("tolerate %s, or kubectl taint node %s %s:%s-", taint.ToString(), node.Name, taint.Key, taint.Effect)
}

// relabel names what the nodeSelector wants and the node lacks.
func relabel(pod *v1.Pod, node *v1.Node) string {
	var missing []string
	for _, key := range slices.Sorted(maps.Keys(pod.Spec.NodeSelector)) {
		if value := pod.Spec.NodeSelector[key]; node.Labels[key] != value {
			missing = append(missing, key+"="+value)
		}
	}
	if len(missing) == 0 {
		return "change the pod's node affinity, or the node's labels"
	}
	return fmt.Sprintf("change the pod's nodeSelector, or kubectl label node %s %s", node.Name, strings.Join(missing, " "))
}

func ports(pod *framework.PodInfo, node *framework.NodeInfo) string {
	for i := range pod.Ports {
		if !node.UsedPorts.Conflicts(&pod.Ports[i]) {
			continue
		}
		for _, other := range node.Pods {
			for j := range other.Ports {
				if other.Ports[j].HostPort == pod.Ports[i].HostPort {
					return fmt.Sprintf("port %d of the node is taken by pod %s: use another hostPort", pod.Ports[i].HostPort, framework.Key(other.Pod))
				}
			}
		}
	}
	return ""
}
