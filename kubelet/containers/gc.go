// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apitypes "k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubelet/pkg/types"
)

// Policy says how much of what is dead is kept for a look at it.
type Policy struct {
	PerContainer int           // dead instances of each container of a living pod
	MinAge       time.Duration // younger ones stay
}

// CollectGarbage removes dead containers beyond the policy, sandboxes that nothing needs, and the logs of pods that are gone.
// gone says that a pod has left this node for good, so that all of it may go.
func (r *Runtime) CollectGarbage(ctx context.Context, policy Policy, gone func(apitypes.UID) bool) error {
	list, err := r.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	sandboxes, err := r.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	var errs []error
	removed := map[string]bool{}
	for _, c := range deadContainers(list.GetContainers(), policy, gone, time.Now()) {
		err := r.removeContainer(ctx, c)
		errs = append(errs, err)
		removed[c.GetId()] = err == nil
	}
	inUse := map[string]bool{} // sandboxes that still have a container
	for _, c := range list.GetContainers() {
		if !removed[c.GetId()] {
			inUse[c.GetPodSandboxId()] = true
		}
	}
	for _, s := range deadSandboxes(sandboxes.GetItems(), inUse, gone) {
		errs = append(errs, r.removeSandbox(ctx, s.GetId()))
	}
	return errors.Join(append(errs, r.removeLogs(gone), r.removeDeadLinks())...)
}

// deadContainers picks the ended containers that the policy does not keep; the newest are kept.
func deadContainers(all []*runtimeapi.Container, policy Policy, gone func(apitypes.UID) bool, now time.Time) []*runtimeapi.Container {
	type key struct{ uid, name string }
	ended := map[key][]*runtimeapi.Container{}
	var remove []*runtimeapi.Container
	for _, c := range all {
		uid, ours := c.GetLabels()[types.KubernetesPodUIDLabel]
		if !ours || c.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if gone(apitypes.UID(uid)) {
			remove = append(remove, c)
			continue
		}
		if now.Sub(time.Unix(0, c.GetCreatedAt())) < policy.MinAge {
			continue
		}
		k := key{uid, c.GetLabels()[types.KubernetesContainerNameLabel]}
		ended[k] = append(ended[k], c)
	}
	for _, instances := range ended {
		slices.SortStableFunc(instances, newestFirst)
		remove = append(remove, instances[min(len(instances), policy.PerContainer):]...)
	}
	return remove
}

// deadSandboxes picks those that are not ready and have no container; of a living pod the newest stays.
func deadSandboxes(all []*runtimeapi.PodSandbox, inUse map[string]bool, gone func(apitypes.UID) bool) []*runtimeapi.PodSandbox {
	newest := map[string]*runtimeapi.PodSandbox{}
	for _, s := range all {
		uid := s.GetLabels()[types.KubernetesPodUIDLabel]
		if n := newest[uid]; n == nil || newestFirst(s, n) < 0 {
			newest[uid] = s
		}
	}
	var remove []*runtimeapi.PodSandbox
	for _, s := range all {
		uid, ours := s.GetLabels()[types.KubernetesPodUIDLabel]
		if !ours || s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY || inUse[s.GetId()] {
			continue
		}
		if newest[uid] != s || gone(apitypes.UID(uid)) {
			remove = append(remove, s)
		}
	}
	return remove
}

// Remove removes all dead containers and sandboxes of one pod, and its logs.
func (r *Runtime) Remove(ctx context.Context, uid apitypes.UID) error {
	selector := map[string]string{types.KubernetesPodUIDLabel: string(uid)}
	list, err := r.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range list.GetContainers() {
		errs = append(errs, r.removeContainer(ctx, c))
	}
	sandboxes, err := r.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes.GetItems() {
		errs = append(errs, r.removeSandbox(ctx, s.GetId()))
	}
	errs = append(errs, r.removeLogs(func(other apitypes.UID) bool { return other == uid }))
	return errors.Join(errs...)
}

func (r *Runtime) removeContainer(ctx context.Context, c *runtimeapi.Container) error {
	resp, err := r.cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.GetId()})
	if err == nil {
		r.removeLogOf(resp.GetStatus())
	}
	_, err = r.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.GetId()})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("remove container %s: %w", c.GetId(), err)
	}
	return nil
}

// removeLogOf removes a container's log, with the rotated ones, and the link to it.
func (r *Runtime) removeLogOf(s *runtimeapi.ContainerStatus) {
	if path := s.GetLogPath(); path != "" {
		rotated, _ := filepath.Glob(path + ".*") // the pattern is our own
		for _, file := range append(rotated, path) {
			_ = os.Remove(file) // what stays goes with the pod's folder
		}
	}
	if r.cfg.ContainerLogLinks != "" {
		l := s.GetLabels()
		_ = os.Remove(r.logLink(l[types.KubernetesPodNameLabel], l[types.KubernetesPodNamespaceLabel], l[types.KubernetesContainerNameLabel], s.GetId()))
	}
}

func (r *Runtime) removeSandbox(ctx context.Context, id string) error {
	// A sandbox that is not ready may still hold its network; stopping twice is allowed.
	if _, err := r.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !isNotFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	if _, err := r.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !isNotFound(err) {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

// removeLogs removes the log folders ("<namespace>_<name>_<uid>") of pods that are gone.
func (r *Runtime) removeLogs(gone func(apitypes.UID) bool) error {
	folders, err := os.ReadDir(r.cfg.LogRoot)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list pod logs: %w", err)
	}
	var errs []error
	for _, f := range folders {
		uid := f.Name()[strings.LastIndex(f.Name(), "_")+1:]
		if f.IsDir() && strings.Count(f.Name(), "_") == 2 && gone(apitypes.UID(uid)) {
			errs = append(errs, os.RemoveAll(filepath.Join(r.cfg.LogRoot, f.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeDeadLinks removes the links to logs whose pod is gone: containers may have been removed before their logs were.
func (r *Runtime) removeDeadLinks() error {
	if r.cfg.ContainerLogLinks == "" {
		return nil
	}
	links, err := os.ReadDir(r.cfg.ContainerLogLinks)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list links to container logs: %w", err)
	}
	var errs []error
	for _, l := range links {
		link := filepath.Join(r.cfg.ContainerLogLinks, l.Name())
		to, err := os.Readlink(link)
		podLogs := filepath.Dir(filepath.Dir(to))
		if err != nil || filepath.Dir(podLogs) != filepath.Clean(r.cfg.LogRoot) {
			continue // not ours
		}
		if _, err := os.Lstat(podLogs); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(errs...)
}

// pruneInitContainers keeps only the newest dead instance of each init container.
func (r *Runtime) pruneInitContainers(ctx context.Context, pod *v1.Pod, status *Status) {
	r.removeInitContainers(ctx, pod, status, 1)
}

// removeInitContainers removes the dead instances of init containers but the newest few.
func (r *Runtime) removeInitContainers(ctx context.Context, pod *v1.Pod, status *Status, keep int) {
	for i := range pod.Spec.InitContainers {
		seen := 0
		for _, c := range status.Containers {
			if c.Name != pod.Spec.InitContainers[i].Name || keep > 0 && !c.Exited() && !c.unknown() {
				continue
			}
			if seen++; seen <= keep {
				continue
			}
			if _, err := r.cri.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil && !isNotFound(err) {
				klog.FromContext(ctx).Error(err, "Removing an old init container", "container", c.Name, "id", c.ID)
			}
		}
	}
}
