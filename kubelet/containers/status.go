// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	apitypes "k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// Status is what the runtime has for one pod: the whole input of a plan, besides the pod itself.
type Status struct {
	UID       apitypes.UID
	Name      string
	Namespace string
	// IPs are those of the newest sandbox while it is ready, else none.
	IPs        []string
	Sandboxes  []*runtimeapi.PodSandboxStatus // newest first
	Containers []*Container                   // newest first, of all sandboxes
	// Mark is the pod's in Present, as it was just before the rest was read.
	Mark Mark
}

// Mark is another one whenever a pod has another sandbox or container, or one of them is in another state.
type Mark uint64

// with adds a sandbox or container. The order does not matter: a sum has none.
func (m Mark) with(id string, state int32) Mark {
	h := fnv.New64a()
	fmt.Fprint(h, id, state)
	return m + Mark(h.Sum64())
}

// Container is one container of the runtime, alive or dead.
type Container struct {
	ID           string
	Name         string
	SandboxID    string
	Image        string
	ImageRef     string
	Hash         string
	RestartCount int
	State        runtimeapi.ContainerState
	CreatedAt    time.Time
	StartedAt    time.Time // zero until started
	FinishedAt   time.Time // zero until exited
	ExitCode     int32
	Reason       string
	Message      string // with the termination message
	LogPath      string
	Mounts       []*runtimeapi.Mount
	Resources    *runtimeapi.ContainerResources
	User         *runtimeapi.ContainerUser
	StopSignal   runtimeapi.Signal
	Labels       map[string]string
	Annotations  map[string]string
}

// PodUID names the pod that the container was made for.
func (c *Container) PodUID() apitypes.UID { return apitypes.UID(c.Labels[types.KubernetesPodUIDLabel]) }

// Running, Exited and the like keep the conditions of a plan short.
func (c *Container) Running() bool { return c.State == runtimeapi.ContainerState_CONTAINER_RUNNING }

// Exited says that the container ended and its exit code is known.
func (c *Container) Exited() bool { return c.State == runtimeapi.ContainerState_CONTAINER_EXITED }

func (c *Container) unknown() bool { return c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN }

func (c *Container) stateText() string {
	switch c.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return "created"
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return "running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return "exited"
	}
	return "unknown"
}

// Find returns the newest container of that name, or nil.
func (s *Status) Find(name string) *Container {
	for _, c := range s.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// FindActive is Find among the containers of the ready sandbox only.
func (s *Status) FindActive(name string) *Container {
	sandbox := s.activeSandbox()
	for _, c := range s.Containers {
		if c.Name == name && c.SandboxID == sandbox && sandbox != "" {
			return c
		}
	}
	return nil
}

// RunningContainers are all that run now, in any sandbox.
func (s *Status) RunningContainers() []*Container {
	var running []*Container
	for _, c := range s.Containers {
		if c.Running() {
			running = append(running, c)
		}
	}
	return running
}

// Initialized is for how long the pod's init containers have run that have ended, sidecars aside.
func (s *Status) Initialized(pod *v1.Pod) (sum time.Duration) {
	for i := range pod.Spec.InitContainers {
		for _, c := range s.Containers {
			if c.Name == pod.Spec.InitContainers[i].Name && c.Exited() && !IsSidecar(&pod.Spec.InitContainers[i]) {
				sum += c.FinishedAt.Sub(c.StartedAt)
			}
		}
	}
	return sum
}

func (s *Status) activeSandbox() string {
	if len(s.Sandboxes) > 0 && s.Sandboxes[0].State == runtimeapi.PodSandboxState_SANDBOX_READY {
		return s.Sandboxes[0].Id
	}
	return ""
}

// Status reads the pod's sandboxes and containers from the runtime. A pod it has never heard of has an empty Status.
func (r *Runtime) Status(ctx context.Context, uid apitypes.UID) (*Status, error) {
	status := &Status{UID: uid}
	selector := map[string]string{types.KubernetesPodUIDLabel: string(uid)}
	sandboxes, err := r.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of pod %s: %w", uid, err)
	}
	for _, sandbox := range sandboxes.GetItems() {
		status.Mark = status.Mark.with(sandbox.GetId(), int32(sandbox.GetState()))
		resp, err := r.cri.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox.GetId()})
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get status of sandbox %s: %w", sandbox.GetId(), err)
		}
		status.Sandboxes = append(status.Sandboxes, resp.GetStatus())
		status.Name, status.Namespace = sandbox.GetMetadata().GetName(), sandbox.GetMetadata().GetNamespace()
	}
	slices.SortStableFunc(status.Sandboxes, newestFirst)
	if status.activeSandbox() != "" {
		status.IPs = sandboxIPs(status.Sandboxes[0])
	}
	list, err := r.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("list containers of pod %s: %w", uid, err)
	}
	for _, item := range list.GetContainers() {
		status.Mark = status.Mark.with(item.GetId(), int32(item.GetState()))
		resp, err := r.cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: item.GetId()})
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get status of container %s: %w", item.GetId(), err)
		}
		status.Containers = append(status.Containers, r.newContainer(item.GetPodSandboxId(), resp.GetStatus()))
	}
	slices.SortStableFunc(status.Containers, newestContainer)
	return status, nil
}

// newestFirst orders instances by their numbers, and by the clock only then: it may have been set back between two.
func newestFirst[I interface {
	GetMetadata() M
	GetCreatedAt() int64
}, M interface{ GetAttempt() uint32 }](a, b I) int {
	return cmp.Or(cmp.Compare(b.GetMetadata().GetAttempt(), a.GetMetadata().GetAttempt()), cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()))
}

// newestContainer is newestFirst for what is known of a container besides.
func newestContainer(a, b *Container) int {
	return cmp.Or(cmp.Compare(b.RestartCount, a.RestartCount), b.CreatedAt.Compare(a.CreatedAt))
}

func sandboxIPs(s *runtimeapi.PodSandboxStatus) []string {
	var ips []string
	if ip := s.GetNetwork().GetIp(); ip != "" {
		ips = append(ips, ip)
	}
	for _, more := range s.GetNetwork().GetAdditionalIps() {
		ips = append(ips, more.GetIp())
	}
	return ips
}

func (r *Runtime) newContainer(sandboxID string, s *runtimeapi.ContainerStatus) *Container {
	c := &Container{
		ID:          s.GetId(),
		Name:        s.GetLabels()[types.KubernetesContainerNameLabel],
		SandboxID:   sandboxID,
		Image:       s.GetImage().GetImage(),
		ImageRef:    s.GetImageRef(),
		Hash:        s.GetAnnotations()[annotationHash],
		State:       s.GetState(),
		CreatedAt:   time.Unix(0, s.GetCreatedAt()),
		LogPath:     s.GetLogPath(),
		Mounts:      s.GetMounts(),
		Resources:   s.GetResources(),
		User:        s.GetUser(),
		StopSignal:  s.GetStopSignal(),
		Labels:      s.GetLabels(),
		Annotations: s.GetAnnotations(),
	}
	c.RestartCount, _ = strconv.Atoi(s.GetAnnotations()[annotationRestartCount]) // absent: not ours, count from 0
	if s.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED {
		c.StartedAt = time.Unix(0, s.GetStartedAt())
	}
	if c.Exited() {
		c.ExitCode, c.Reason = s.GetExitCode(), s.GetReason()
		c.FinishedAt = time.Unix(0, s.GetFinishedAt())
		c.Message = withTerminationMessage(s.GetMessage(), r.terminationMessage(c))
	}
	return c
}

func withTerminationMessage(message, written string) string {
	if message == "" || written == "" {
		return message + written
	}
	return message + ": " + written
}

// Present lists the pods of which the runtime has a sandbox or container, running or not.
func (r *Runtime) Present(ctx context.Context) (map[apitypes.UID]Mark, error) {
	present := map[apitypes.UID]Mark{}
	see := func(labels map[string]string, id string, state int32) {
		if uid, ok := labels[types.KubernetesPodUIDLabel]; ok {
			present[apitypes.UID(uid)] = present[apitypes.UID(uid)].with(id, state)
		}
	}
	sandboxes, err := r.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes.GetItems() {
		see(s.GetLabels(), s.GetId(), int32(s.GetState()))
	}
	list, err := r.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range list.GetContainers() {
		see(c.GetLabels(), c.GetId(), int32(c.GetState()))
	}
	return present, nil
}

// IsSidecar says whether an init container is one that keeps running beside the regular ones.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Spec finds a container of any kind in the pod's spec, or returns nil.
func Spec(pod *v1.Pod, name string) *v1.Container {
	for c := range podcontainers.All(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}
