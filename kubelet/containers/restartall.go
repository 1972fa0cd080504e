// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// MayRestartAll says whether a rule of any container can ask for all of them to be started anew.
func MayRestartAll(pod *v1.Pod) bool {
	return slices.ContainsFunc(initAndRegular(pod), func(c *v1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(rule v1.ContainerRestartRule) bool {
			return rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// RestartsAll says whether a container has ended in a way for which its rules ask to start all of them anew.
func RestartsAll(pod *v1.Pod, status *Status) bool {
	return slices.ContainsFunc(initAndRegular(pod), func(c *v1.Container) bool { return asksForAll(c, status.Find(c.Name)) })
}

func asksForAll(c *v1.Container, now *Container) bool {
	if now == nil || !now.Exited() {
		return false
	}
	rule := matchingRule(c, now.ExitCode)
	return rule != nil && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

// Removed says whether the runtime has no container of the pod's any more, but for ephemeral ones.
func Removed(pod *v1.Pod, status *Status) bool {
	return !slices.ContainsFunc(initAndRegular(pod), func(c *v1.Container) bool { return status.Find(c.Name) != nil })
}

// RemoveAll ends and removes all containers of a pod, so that it starts from its beginning in the sandbox that it has. Those
// that asked for it go last: as long as one is there, a later process knows what was going on. Logs stay.
func (r *Runtime) RemoveAll(ctx context.Context, pod *v1.Pod, status *Status) error {
	for _, c := range removalOrder(pod, status) {
		if c.Running() || c.unknown() {
			if err := r.kill(ctx, pod, Spec(pod, c.Name), c, "", 0, nil); err != nil {
				return err
			}
		}
		if _, err := r.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil && !isNotFound(err) {
			return fmt.Errorf("remove container %s (%s): %w", c.Name, c.ID, err)
		}
	}
	return nil
}

// removalOrder lists what the runtime has of a pod: regular containers before init containers, and last those that asked for it.
func removalOrder(pod *v1.Pod, status *Status) []*Container {
	var others, asking []*Container
	specs := initAndRegular(pod)
	slices.Reverse(specs)
	for _, spec := range specs {
		for _, c := range status.Containers {
			switch {
			case c.Name != spec.Name:
			case asksForAll(spec, c):
				asking = append(asking, c)
			default:
				others = append(others, c)
			}
		}
	}
	return append(others, asking...)
}

func initAndRegular(pod *v1.Pod) []*v1.Container {
	var all []*v1.Container
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	return all
}
