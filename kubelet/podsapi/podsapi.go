// SPDX-License-Identifier: Apache-2.0

// Package podsapi tells programs on this node which pods it has, without a way to the API server: the pods API (v1alpha1,
// on by default since 1.37) at <root>/pods-api/pods-api.sock. It only reads.
//
// Who watches has a list of the pods to look at again, each once however often it changes, so a slow client misses nothing
// and costs little.
// Reference: https://kep.k8s.io/4188
package podsapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/localgrpc"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Node has the pods. Those that it gives must not be changed.
type Node struct {
	Pods    func() []*v1.Pod
	Pod     func(types.UID) (*v1.Pod, bool)
	Decided func(types.UID) bool // the status is this node's own, not what an earlier process left in the API
	Synced  func() bool          // all pods are known
}

// Server serves the API.
type Server struct {
	api.UnimplementedPodsServer
	socket  string
	node    Node
	metrics *metrics.Metrics

	mu       sync.Mutex
	watchers map[*watcher]bool // guarded by mu
}

// watcher is a client that watches.
type watcher struct {
	news chan struct{} // capacity 1: there is something in dirty

	mu    sync.Mutex
	dirty map[types.UID]bool // guarded by mu: to look at
}

// New makes a Server in the kubelet's root.
func New(root string, node Node, counts *metrics.Metrics) *Server {
	return &Server{socket: filepath.Join(root, "pods-api", "pods-api.sock"), node: node, metrics: counts, watchers: map[*watcher]bool{}}
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	err := localgrpc.Serve(ctx, s.socket, func(server *grpc.Server) { api.RegisterPodsServer(server, s) },
		grpc.ChainUnaryInterceptor(localgrpc.Limit(), s.countCall), grpc.StreamInterceptor(s.countStream))
	if err != nil {
		return fmt.Errorf("serve pods: %w", err)
	}
	return nil
}

func (s *Server) countCall(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	response, err := handle(ctx, request)
	s.count(info.FullMethod, err)
	return response, err
}

func (s *Server) countStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	err := handle(server, stream)
	s.count(info.FullMethod, err)
	return err
}

// count counts a call that has ended, by its method such as "/v1alpha1.Pods/ListPods".
func (s *Server) count(method string, err error) {
	code := status.Code(err)
	if errors.Is(err, context.Canceled) {
		code = codes.Canceled
	}
	const version = "v1alpha1"
	s.metrics.PodsAPI.WithLabelValues(version, code.String()).Inc()
	if of := s.metrics.PodsAPIOf[path.Base(method)]; of != nil {
		of.WithLabelValues(version, code.String()).Inc()
	}
}

// Changed is to be called when a pod or its status has changed, or it is gone. It does not block.
func (s *Server) Changed(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.add(uid)
	}
}

func (w *watcher) add(uid types.UID) {
	w.mu.Lock()
	w.dirty[uid] = true
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// take returns what is to be looked at, and forgets it.
func (w *watcher) take() []types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	uids := slices.Sorted(maps.Keys(w.dirty))
	clear(w.dirty)
	return uids
}

// ListPods lists all pods.
func (s *Server) ListPods(context.Context, *api.ListPodsRequest) (*api.ListPodsResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	resp := &api.ListPodsResponse{}
	for _, pod := range s.sorted() {
		data, err := s.encode(pod)
		if err != nil {
			return nil, err
		}
		resp.Pods = append(resp.Pods, data)
	}
	return resp, nil
}

// GetPod returns one pod.
func (s *Server) GetPod(_ context.Context, r *api.GetPodRequest) (*api.GetPodResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	pod, found := s.node.Pod(types.UID(r.GetPodUID()))
	if !found {
		return nil, status.Errorf(codes.NotFound, "pod with UID %s not found", r.GetPodUID())
	}
	data, err := s.encode(pod)
	return &api.GetPodResponse{Pod: data}, err
}

// WatchPods sends all pods, says that these are all, and sends what changes.
func (s *Server) WatchPods(_ *api.WatchPodsRequest, stream api.Pods_WatchPodsServer) error {
	if err := s.ready(); err != nil {
		return err
	}
	w := &watcher{news: make(chan struct{}, 1), dirty: map[types.UID]bool{}}
	s.mu.Lock()
	s.watchers[w] = true // before the first look, so that nothing is missed
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	sent := map[types.UID]types.NamespacedName{}
	for _, pod := range s.sorted() {
		if err := s.send(stream, pod.UID, sent); err != nil {
			return err
		}
	}
	if err := stream.Send(&api.WatchPodsEvent{Type: api.EventType_INITIAL_SYNC_COMPLETE}); err != nil {
		return err
	}
	for {
		select {
		case <-w.news:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		for _, uid := range w.take() {
			if err := s.send(stream, uid, sent); err != nil {
				return err
			}
		}
	}
}

// send tells how a pod is now, to a client that knows those in sent.
func (s *Server) send(stream api.Pods_WatchPodsServer, uid types.UID, sent map[types.UID]types.NamespacedName) error {
	name, known := sent[uid]
	pod, there := s.node.Pod(uid)
	event := &api.WatchPodsEvent{Type: api.EventType_ADDED}
	switch {
	case !there && !known:
		return nil
	case !there:
		event.Type = api.EventType_DELETED
		pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name.Name, Namespace: name.Namespace, UID: uid}}
		delete(sent, uid)
	case known:
		event.Type = api.EventType_MODIFIED
	default:
		sent[uid] = types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	}
	var err error
	if there {
		event.Pod, err = s.encode(pod)
	} else {
		event.Pod, err = pod.Marshal()
	}
	if err != nil {
		return err
	}
	return stream.Send(event)
}

func (s *Server) ready() error {
	if !s.node.Synced() {
		return status.Error(codes.FailedPrecondition, "Kubelet is initializing")
	}
	return nil
}

func (s *Server) sorted() []*v1.Pod {
	pods := s.node.Pods()
	slices.SortFunc(pods, func(a, b *v1.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return pods
}

// encode writes a pod. Nobody is told that one is ready before this process has seen it.
func (s *Server) encode(pod *v1.Pod) ([]byte, error) {
	if !s.node.Decided(pod.UID) {
		pod = pod.DeepCopy()
		pod.Status.Phase = cmp.Or(pod.Status.Phase, v1.PodPending)
		for i, c := range pod.Status.Conditions {
			if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
				c.Status, c.Reason, c.Message = v1.ConditionFalse, "ContainersNotReady", "Kubelet is initializing pod containers"
				pod.Status.Conditions[i] = c
			}
		}
	}
	data, err := pod.Marshal()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "failed to marshal pod: %v", err)
	}
	return data, nil
}
