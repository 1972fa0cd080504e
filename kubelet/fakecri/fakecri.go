// SPDX-License-Identifier: Apache-2.0

// Package fakecri is a CRI runtime in memory, for tests. It runs nothing, but keeps the rules of a real one:
//
//   - a name and attempt is taken until its sandbox or container is removed;
//   - a container is created in a ready sandbox, from an image that is there, and is started once;
//   - stopping a sandbox ends its containers; removing what is unknown succeeds, asking for it is NotFound;
//   - each change of a container is told to all who listen to events.
//
// Tests end containers with Exit, and read what happened with Dump.
package fakecri

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is the fake. Its fields may be changed before it is used.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	// OnExec answers ExecSync; nil: every command succeeds.
	OnExec func(container string, command []string) (stdout string, exitCode int32)
	// NetworkReady is what Status says.
	NetworkReady bool
	// NoEvents ends the stream of events at once, as CRI-O does.
	NoEvents bool

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*runtimeapi.PodSandboxStatus
	containers map[string]*container
	images     map[string]*runtimeapi.Image
	listeners  map[chan *runtimeapi.ContainerEventResponse]bool
	log        []string
	mute       bool
}

type container struct {
	sandbox string
	config  *runtimeapi.ContainerConfig
	status  *runtimeapi.ContainerStatus
	ended   chan struct{} // closed when it has ended
}

// New makes a runtime that has these images.
func New(images ...string) *Runtime {
	r := &Runtime{
		NetworkReady: true, sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, containers: map[string]*container{},
		images: map[string]*runtimeapi.Image{}, listeners: map[chan *runtimeapi.ContainerEventResponse]bool{},
	}
	for _, name := range images {
		r.images[name] = &runtimeapi.Image{Id: "sha256:" + name, RepoTags: []string{name}, Size: 1000}
	}
	return r
}

// Dial serves the runtime over an in-memory connection until stop is called.
func (r *Runtime) Dial() (conn *grpc.ClientConn, stop func(), err error) {
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, r)
	runtimeapi.RegisterImageServiceServer(server, r)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	conn, err = grpc.NewClient("passthrough:///fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	return conn, func() { _ = conn.Close(); server.Stop() }, err
}

// Dump returns what was done so far, one line each: "start web/nginx".
func (r *Runtime) Dump() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Running lists the running containers as "pod/container", sorted.
func (r *Runtime) Running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, c := range r.containers {
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			names = append(names, r.nameLocked(c))
		}
	}
	slices.Sort(names)
	return names
}

// Count tells how many sandboxes and containers there are, dead or alive.
func (r *Runtime) Count() (sandboxes, containers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes), len(r.containers)
}

// Exit ends the running container "pod/container" by itself.
func (r *Runtime) Exit(name string, code int32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if r.nameLocked(c) == name && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.endLocked(c, code, "")
			return nil
		}
	}
	return fmt.Errorf("no container %s runs", name)
}

// Postdate moves the times of all that there is, as if the clock had been set back since.
func (r *Runtime) Postdate(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		s.CreatedAt += int64(by)
	}
	for _, c := range r.containers {
		for _, at := range []*int64{&c.status.CreatedAt, &c.status.StartedAt, &c.status.FinishedAt} {
			if *at != 0 {
				*at += int64(by)
			}
		}
	}
}

// Mute loses all events from now on.
func (r *Runtime) Mute() {
	r.mu.Lock()
	r.mute = true
	r.mu.Unlock()
}

func (r *Runtime) nameLocked(c *container) string {
	pod := "?"
	if s := r.sandboxes[c.sandbox]; s != nil {
		pod = s.GetMetadata().GetName()
	}
	return pod + "/" + c.status.GetMetadata().GetName()
}

func (r *Runtime) noteLocked(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *Runtime) idLocked(prefix string) string {
	r.next++
	return fmt.Sprintf("%s%04d", prefix, r.next)
}

func (r *Runtime) endLocked(c *container, code int32, reason string) {
	c.status.State, c.status.ExitCode, c.status.Reason = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason
	c.status.FinishedAt = time.Now().UnixNano()
	close(c.ended)
	r.noteLocked("exit %s %d", r.nameLocked(c), code)
	r.tellLocked(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (r *Runtime) tellLocked(c *container, t runtimeapi.ContainerEventType) {
	event := &runtimeapi.ContainerEventResponse{ContainerId: c.status.Id, ContainerEventType: t, PodSandboxStatus: clone(r.sandboxes[c.sandbox])}
	for l := range r.listeners {
		if r.mute {
			break
		}
		select {
		case l <- event:
		default: // a listener that does not listen
		}
	}
}

func clone(s *runtimeapi.PodSandboxStatus) *runtimeapi.PodSandboxStatus {
	if s == nil {
		return nil
	}
	return &runtimeapi.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Network: s.Network, Linux: s.Linux, Labels: s.Labels}
}

// GetContainerEvents implements the CRI.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	if r.NoEvents {
		return nil
	}
	events := make(chan *runtimeapi.ContainerEventResponse, 1000)
	r.mu.Lock()
	r.listeners[events] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.listeners, events)
		r.mu.Unlock()
	}()
	for {
		select {
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Version implements the CRI.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status implements the CRI.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: r.NetworkReady},
	}}}, nil
}

// RunPodSandbox implements the CRI.
func (r *Runtime) RunPodSandbox(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := req.GetConfig().GetMetadata()
	for _, s := range r.sandboxes {
		if s.GetMetadata().GetUid() == m.GetUid() && s.GetMetadata().GetAttempt() == m.GetAttempt() {
			return nil, grpcstatus.Errorf(codes.Unknown, "name %s attempt %d is reserved", m.GetName(), m.GetAttempt())
		}
	}
	options := req.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions()
	s := &runtimeapi.PodSandboxStatus{
		Id: r.idLocked("s"), Metadata: m, State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Labels: req.GetConfig().GetLabels(), Annotations: req.GetConfig().GetAnnotations(),
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}},
	}
	if options.GetNetwork() == runtimeapi.NamespaceMode_POD {
		s.Network = &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.42.0.%d", r.next%250+2)}
	}
	r.sandboxes[s.Id] = s
	r.noteLocked("sandbox %s", m.GetName())
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.Id}, nil
}

// StopPodSandbox implements the CRI.
func (r *Runtime) StopPodSandbox(_ context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[req.GetPodSandboxId()]
	if s == nil {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	for _, c := range r.containers {
		if c.sandbox == s.Id && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.endLocked(c, 137, "Error")
		}
	}
	if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
		s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		r.noteLocked("stop sandbox %s", s.GetMetadata().GetName())
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox implements the CRI.
func (r *Runtime) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if _, err := r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: req.GetPodSandboxId()}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.sandbox == req.GetPodSandboxId() {
			delete(r.containers, id)
		}
	}
	delete(r.sandboxes, req.GetPodSandboxId())
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus implements the CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[req.GetPodSandboxId()]
	if s == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "sandbox %s not found", req.GetPodSandboxId())
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: clone(s)}, nil
}

// ListPodSandbox implements the CRI.
func (r *Runtime) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	resp := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		if matches(s.GetLabels(), req.GetFilter().GetLabelSelector()) {
			resp.Items = append(resp.Items, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels})
		}
	}
	return resp, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// CreateContainer implements the CRI.
func (r *Runtime) CreateContainer(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[req.GetPodSandboxId()]
	if s == nil || s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil, grpcstatus.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", req.GetPodSandboxId())
	}
	config := req.GetConfig()
	for _, c := range r.containers {
		if c.sandbox == s.Id && c.config.GetMetadata().GetName() == config.GetMetadata().GetName() && c.config.GetMetadata().GetAttempt() == config.GetMetadata().GetAttempt() {
			return nil, grpcstatus.Errorf(codes.Unknown, "name %s attempt %d is reserved", config.GetMetadata().GetName(), config.GetMetadata().GetAttempt())
		}
	}
	if r.imageLocked(config.GetImage().GetImage()) == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "image %s not found", config.GetImage().GetImage())
	}
	c := &container{sandbox: s.Id, config: config, ended: make(chan struct{}), status: &runtimeapi.ContainerStatus{
		Id: r.idLocked("c"), Metadata: config.GetMetadata(), State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: &runtimeapi.ImageSpec{Image: config.GetImage().GetUserSpecifiedImage()}, ImageRef: config.GetImage().GetImage(), Labels: config.GetLabels(),
		Annotations: config.GetAnnotations(), Mounts: config.GetMounts(), LogPath: req.GetSandboxConfig().GetLogDirectory() + "/" + config.GetLogPath(),
	}}
	r.containers[c.status.Id] = c
	r.tellLocked(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.status.Id}, nil
}

// StartContainer implements the CRI.
func (r *Runtime) StartContainer(_ context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[req.GetContainerId()]
	if c == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "container %s not found", req.GetContainerId())
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, grpcstatus.Errorf(codes.FailedPrecondition, "container %s is in state %s", req.GetContainerId(), c.status.State)
	}
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	r.noteLocked("start %s", r.nameLocked(c))
	r.tellLocked(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer implements the CRI. Containers obey the stop signal, unless their command is "stubborn".
func (r *Runtime) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	r.mu.Lock()
	c := r.containers[req.GetContainerId()]
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return &runtimeapi.StopContainerResponse{}, nil
	}
	r.noteLocked("stop %s %d", r.nameLocked(c), req.GetTimeout())
	if !slices.Contains(c.config.GetCommand(), "stubborn") {
		r.endLocked(c, 0, "")
		r.mu.Unlock()
		return &runtimeapi.StopContainerResponse{}, nil
	}
	r.mu.Unlock()
	timer := time.NewTimer(time.Duration(req.GetTimeout()) * time.Second)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-ctx.Done():
		return nil, grpcstatus.FromContextError(ctx.Err()).Err()
	case <-timer.C:
		r.mu.Lock()
		defer r.mu.Unlock()
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.endLocked(c, 137, "Error")
		}
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer implements the CRI.
func (r *Runtime) RemoveContainer(_ context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[req.GetContainerId()]; c != nil {
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.endLocked(c, 137, "Error")
		}
		r.tellLocked(c, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
		delete(r.containers, req.GetContainerId())
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ListContainers implements the CRI.
func (r *Runtime) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		s := c.status
		if state := req.GetFilter().GetState(); !matches(s.GetLabels(), req.GetFilter().GetLabelSelector()) || state != nil && state.GetState() != s.GetState() {
			continue
		}
		resp.Containers = append(resp.Containers, &runtimeapi.Container{
			Id: s.Id, PodSandboxId: c.sandbox, Metadata: s.Metadata, Image: s.Image, ImageRef: s.ImageRef, State: s.State,
			CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations,
		})
	}
	return resp, nil
}

// ContainerStatus implements the CRI.
func (r *Runtime) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[req.GetContainerId()]
	if c == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "container %s not found", req.GetContainerId())
	}
	s := c.status
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt, ExitCode: s.ExitCode,
		Image: s.Image, ImageRef: s.ImageRef, Reason: s.Reason, Message: s.Message, Labels: s.Labels, Annotations: s.Annotations, Mounts: s.Mounts, LogPath: s.LogPath,
		Resources: &runtimeapi.ContainerResources{Linux: c.config.GetLinux().GetResources()},
	}}, nil
}

// UpdateContainerResources implements the CRI.
func (r *Runtime) UpdateContainerResources(_ context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[req.GetContainerId()]
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, grpcstatus.Errorf(codes.NotFound, "container %s does not run", req.GetContainerId())
	}
	c.config.Linux.Resources = req.GetLinux()
	r.noteLocked("resize %s", r.nameLocked(c))
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// UpdatePodSandboxResources implements the CRI. The runtime objects to less than a tenth of a CPU.
func (r *Runtime) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[req.GetPodSandboxId()]; s == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "sandbox %s not found", req.GetPodSandboxId())
	}
	if req.GetResources().GetCpuShares() < 102 {
		return nil, grpcstatus.Errorf(codes.InvalidArgument, "a sandbox needs a tenth of a CPU")
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// ContainerStats implements the CRI: every container uses a little memory.
func (r *Runtime) ContainerStats(_ context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	little := &runtimeapi.UInt64Value{Value: 1 << 20}
	return &runtimeapi.ContainerStatsResponse{Stats: &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: req.GetContainerId()},
		Memory:     &runtimeapi.MemoryUsage{UsageBytes: little, WorkingSetBytes: little},
	}}, nil
}

// ExecSync implements the CRI.
func (r *Runtime) ExecSync(_ context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	r.mu.Lock()
	c := r.containers[req.GetContainerId()]
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return nil, grpcstatus.Errorf(codes.NotFound, "container %s does not run", req.GetContainerId())
	}
	name := r.nameLocked(c)
	r.noteLocked("exec %s %s", name, strings.Join(req.GetCmd(), " "))
	r.mu.Unlock()
	if r.OnExec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	out, code := r.OnExec(name, req.GetCmd())
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(out), ExitCode: code}, nil
}

// ReopenContainerLog implements the CRI.
func (r *Runtime) ReopenContainerLog(context.Context, *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

func (r *Runtime) imageLocked(name string) *runtimeapi.Image {
	if image := r.images[name]; image != nil {
		return image
	}
	for _, image := range r.images {
		if image.GetId() == name {
			return image
		}
	}
	return nil
}

// ImageStatus implements the CRI.
func (r *Runtime) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: r.imageLocked(req.GetImage().GetImage())}, nil
}

// ListImages implements the CRI.
func (r *Runtime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	resp := &runtimeapi.ListImagesResponse{}
	for _, image := range r.images {
		resp.Images = append(resp.Images, image)
	}
	return resp, nil
}

// PullImage implements the CRI. No registry can be reached.
func (r *Runtime) PullImage(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return nil, grpcstatus.Errorf(codes.NotFound, "failed to pull and unpack image %q: not found", req.GetImage().GetImage())
}
