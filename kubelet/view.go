// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/dra"
)

// Pods lists the pods of this node, each with the status that was last decided here. They must not be changed.
func (k *Kubelet) Pods() []*v1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	pods := make([]*v1.Pod, 0, len(k.workers))
	for _, w := range k.workers {
		pods = append(pods, k.withStatus(w))
	}
	return pods
}

// PodByName finds a pod of this node.
func (k *Kubelet) PodByName(namespace, name string) (*v1.Pod, bool) {
	for _, pod := range k.Pods() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

// PodByUID finds a pod of this node.
func (k *Kubelet) PodByUID(uid types.UID) (*v1.Pod, bool) {
	k.mu.Lock()
	w := k.workers[uid]
	k.mu.Unlock()
	if w == nil {
		return nil, false
	}
	return k.withStatus(w), true
}

// hasSynced says whether all pods of this node are known.
func (k *Kubelet) hasSynced() bool {
	return !slices.ContainsFunc(k.synced, func(synced cache.InformerSynced) bool { return !synced() })
}

// decidedStatus says whether a pod's status was decided by this process.
func (k *Kubelet) decidedStatus(uid types.UID) bool {
	_, decided := k.status.Get(uid)
	return decided
}

func (k *Kubelet) withStatus(w *worker) *v1.Pod {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	now, known := k.status.Get(pod.UID)
	if !known {
		return pod
	}
	c := *pod // shallow: only the status differs
	c.Status = now
	return &c
}

// Container finds the newest container of that name, or with previous the one before it, as the runtime has it now.
func (k *Kubelet) Container(ctx context.Context, uid types.UID, name string, previous bool) (*containers.Container, error) {
	have, err := k.runtime.Status(ctx, uid)
	if err != nil {
		return nil, err
	}
	skip := previous
	for _, c := range have.Containers {
		if c.Name != name {
			continue
		}
		if skip {
			skip = false
			continue
		}
		return c, nil
	}
	if previous {
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, uid)
	}
	return nil, fmt.Errorf("container %q in pod %q is not available", name, uid)
}

// ContainerID is Container for callers that need no more.
func (k *Kubelet) ContainerID(ctx context.Context, uid types.UID, name string, previous bool) (string, error) {
	c, err := k.Container(ctx, uid, name, previous)
	if err != nil {
		return "", err
	}
	return c.ID, nil
}

// SandboxID is the pod's ready sandbox, where a port-forward goes.
func (k *Kubelet) SandboxID(ctx context.Context, uid types.UID) (string, error) {
	have, err := k.runtime.Status(ctx, uid)
	if err != nil {
		return "", err
	}
	if len(have.Sandboxes) == 0 {
		return "", fmt.Errorf("failed to find sandboxID for pod %q", uid)
	}
	return have.Sandboxes[0].GetId(), nil
}

// Drivers are those of dynamic resource allocation, for the watcher of plugins.
func (k *Kubelet) Drivers() *dra.Manager { return k.claims }

// Cgroups are where pods live.
func (k *Kubelet) Cgroups() *cgroups.Tree { return k.tree }

// Node is the Node object as last known; nil before it is registered.
func (k *Kubelet) Node() *v1.Node { return k.agent.Node() }

// Wake makes the pod be looked at again: call it when something that its volumes are made of has changed.
func (k *Kubelet) Wake(uid types.UID) {
	k.mu.Lock()
	w := k.workers[uid]
	k.mu.Unlock()
	if w != nil {
		signal(w.news)
	}
}

// Event sends one about a pod or what it has, as of the kubelet.
func (k *Kubelet) Event(about runtime.Object, kind, reason, message string) {
	k.events.Event(about, kind, reason, message)
}

// EnsureImage pulls the image of an image volume, as that of a container is pulled.
func (k *Kubelet) EnsureImage(ctx context.Context, pod *v1.Pod, image *v1.ImageVolumeSource) (*runtimeapi.ImageSpec, error) {
	handler, err := host{k}.RuntimeHandler(pod)
	if err != nil {
		return nil, err
	}
	as := &v1.Container{Image: image.Reference, ImagePullPolicy: image.PullPolicy}
	have, failed := k.puller.Ensure(ctx, pod, as, nil, handler)
	if failed != nil {
		return nil, failed
	}
	return &runtimeapi.ImageSpec{Image: have.GetId(), UserSpecifiedImage: image.Reference, RuntimeHandler: handler}, nil
}

// RecursiveReadOnly says whether a runtime handler can make mounts read-only with all that is mounted below them.
func (k *Kubelet) RecursiveReadOnly(handler string) bool {
	return k.handlerHas(handler, func(f *v1.NodeRuntimeHandlerFeatures) *bool { return f.RecursiveReadOnlyMounts })
}

// handlerHas says whether the node has reported a feature of a runtime handler.
func (k *Kubelet) handlerHas(handler string, feature func(*v1.NodeRuntimeHandlerFeatures) *bool) bool {
	n := k.agent.Node()
	if n == nil {
		return false
	}
	for _, h := range n.Status.RuntimeHandlers {
		if h.Name == handler && h.Features != nil {
			yes := feature(h.Features)
			return yes != nil && *yes
		}
	}
	return false
}
