// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/podnet"
)

// host tells the containers package what a pod takes from this node.
type host struct{ k *Kubelet }

func (h host) CgroupParent(pod *v1.Pod) string { return h.k.tree.Parent(pod) }

func (h host) DNS(pod *v1.Pod) (*runtimeapi.DNSConfig, error) {
	config, warnings, err := h.k.cfg.DNS.Config(pod)
	for _, w := range warnings {
		h.k.events.Event(pod, v1.EventTypeWarning, "DNSConfigForming", w)
	}
	return config, err
}

func (h host) Hostname(pod *v1.Pod) (name, domain string, err error) {
	name, domain = podnet.Hostname(pod, h.k.cfg.DNS.Domain)
	return name, domain, nil
}

// RuntimeHandler looks the pod's RuntimeClass up. Few pods have one, so no informer is kept for it.
func (h host) RuntimeHandler(pod *v1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(h.k.context(), 10*time.Second)
	defer cancel()
	class, err := h.k.client.NodeV1().RuntimeClasses().Get(ctx, *pod.Spec.RuntimeClassName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("get RuntimeClass %q: %w", *pod.Spec.RuntimeClassName, err)
	}
	return class.Handler, nil
}

func (h host) UserNamespace(pod *v1.Pod) (*runtimeapi.UserNamespace, error) {
	handler, err := h.RuntimeHandler(pod)
	if err != nil {
		return nil, err
	}
	if !h.k.handlerHas(handler, func(f *v1.NodeRuntimeHandlerFeatures) *bool { return f.UserNamespaces }) {
		if handler != "" {
			return nil, fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", handler)
		}
		return nil, errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	}
	return h.k.users.Of(pod.UID)
}

func (h host) Environ(ctx context.Context, pod *v1.Pod, c *v1.Container, podIP string, podIPs []string) ([]*runtimeapi.KeyValue, error) {
	if pod.Spec.HostNetwork && podIP == "" && len(h.k.cfg.Node.IPs) > 0 {
		podIP, podIPs = h.k.cfg.Node.IPs[0], h.k.cfg.Node.IPs
	}
	return h.k.env.Environ(ctx, pod, c, podIP, podIPs)
}

func (h host) Devices(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]*runtimeapi.Device, error) {
	return h.k.volumes.Devices(ctx, pod, c)
}

func (h host) PodLimits(pod *v1.Pod) (have, want cgroups.Limits, memory int64, err error) {
	have, memory, err = h.k.tree.Limits(pod)
	return have, h.k.tree.PodLimits(pod), memory, err
}

func (h host) SetPodLimits(pod *v1.Pod, limits cgroups.Limits) error {
	return errors.Join(h.k.tree.SetLimits(pod, limits), h.k.shareOut())
}

// Mounts are the container's volumes and the pod's /etc/hosts, unless the container mounts one of its own.
func (h host) Mounts(ctx context.Context, pod *v1.Pod, c *v1.Container, podIPs []string) ([]*runtimeapi.Mount, error) {
	mounts, err := h.k.volumes.Mounts(ctx, pod, c, podIPs)
	if err != nil {
		return nil, err
	}
	for _, m := range c.VolumeMounts {
		if filepath.Clean(m.MountPath) == "/etc/hosts" {
			return mounts, nil
		}
	}
	if len(podIPs) == 0 && !pod.Spec.HostNetwork {
		return mounts, nil
	}
	path, err := h.writeHosts(pod, podIPs)
	if err != nil {
		return nil, err
	}
	return append(mounts, &runtimeapi.Mount{HostPath: path, ContainerPath: "/etc/hosts", SelinuxRelabel: true}), nil
}

func (h host) writeHosts(pod *v1.Pod, podIPs []string) (string, error) {
	var own []byte
	if pod.Spec.HostNetwork && h.k.cfg.HostsFile != "" {
		data, err := os.ReadFile(h.k.cfg.HostsFile)
		if err != nil {
			return "", fmt.Errorf("read the node's hosts file: %w", err)
		}
		own = data
	}
	name, domain := podnet.Hostname(pod, h.k.cfg.DNS.Domain)
	path := filepath.Join(h.k.runtime.PodDir(pod.UID), "etc-hosts")
	if err := os.WriteFile(path, podnet.HostsFile(pod, podIPs, name, domain, own), 0o644); err != nil {
		return "", fmt.Errorf("write hosts file of pod: %w", err)
	}
	return path, os.Chmod(path, 0o644) // whatever our umask is
}

// context is that of Run.
func (k *Kubelet) context() context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ctx
}

// secrets reads pull secrets from the API, one at a time: they are asked for only when an image is pulled.
type secrets struct{ client kubernetes.Interface }

func (s secrets) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	return s.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

// execer runs the commands of probes.
type execer struct {
	cri runtimeapi.RuntimeServiceClient
}

func (e execer) Exec(ctx context.Context, containerID string, command []string, timeout time.Duration) (string, int32, error) {
	resp, err := e.cri.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: containerID, Cmd: command, Timeout: int64(timeout / time.Second)})
	if err != nil {
		return "", 0, err
	}
	return string(resp.GetStdout()) + string(resp.GetStderr()), resp.GetExitCode(), nil
}
