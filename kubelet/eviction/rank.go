// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
)

// Reason is that of an evicted pod's status and of its event.
const Reason = "Evicted"

// systemCritical is the lowest priority of pods without which the node itself would not work.
const systemCritical = 2_000_000_000

// Critical says whether a pod is never evicted.
func Critical(pod *v1.Pod) bool {
	_, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]
	source, set := pod.Annotations["kubernetes.io/config.source"]
	return mirror || set && source != "api" || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// rank puts those first that are to go first: of whom nothing is known, then those above their requests, then those of low
// priority, then those that are furthest above their requests.
func rank(pods []*v1.Pod, usage map[types.UID]*Usage, signal Signal) {
	excess := func(pod *v1.Pod) int64 {
		requests := podresource.PodRequests(pod, podresource.PodResourcesOptions{})
		switch u := usage[pod.UID]; resources[signal] {
		case v1.ResourceMemory:
			return u.Memory - requests.Memory().Value()
		case v1.ResourceEphemeralStorage:
			return u.Disk - requests.StorageEphemeral().Value()
		case "inodes":
			return u.Inodes
		default:
			return u.Processes
		}
	}
	requested := resources[signal] == v1.ResourceMemory || resources[signal] == v1.ResourceEphemeralStorage
	slices.SortStableFunc(pods, func(a, b *v1.Pod) int {
		if c := yesFirst(usage[a.UID] == nil, usage[b.UID] == nil); c != 0 || usage[a.UID] == nil {
			return c
		}
		above := 0
		if requested {
			above = yesFirst(excess(a) > 0, excess(b) > 0)
		}
		return cmp.Or(above, cmp.Compare(corev1.PodPriority(a), corev1.PodPriority(b)), cmp.Compare(excess(b), excess(a)))
	})
}

func yesFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func nodeCondition(pressure []v1.NodeConditionType) string {
	return fmt.Sprintf("The node had condition: %v. ", pressure)
}

// verdict says what ran short and which of the pod's containers used more than they had asked for.
func verdict(pod *v1.Pod, u *Usage, signal Signal, t Threshold, seen Observation) Verdict {
	name := resources[signal]
	message := fmt.Sprintf("The node was low on resource: %v. Threshold quantity: %v, available: %v. ", name, quantity(signal, t.Of(seen.Capacity)), quantity(signal, seen.Available))
	var names, amounts []string
	if u != nil && (name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage) {
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			used, known := u.Containers[c.Name]
			amount := used.Memory
			if name == v1.ResourceEphemeralStorage {
				amount = used.Disk
			}
			request := c.Resources.Requests[name]
			if !known || amount <= request.Value() {
				continue
			}
			text := resource.NewQuantity(amount, resource.BinarySI).String()
			message += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, text, request.String(), name)
			names, amounts = append(names, c.Name), append(amounts, text)
		}
	}
	return Verdict{Signal: signal, Message: message, Annotations: map[string]string{
		"offending_containers": strings.Join(names, ","), "offending_containers_usage": strings.Join(amounts, ","), "starved_resource": string(name),
	}}
}

func quantity(signal Signal, n int64) *resource.Quantity {
	if name := resources[signal]; name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage {
		return resource.NewQuantity(n, resource.BinarySI)
	}
	return resource.NewQuantity(n, resource.DecimalSI)
}
