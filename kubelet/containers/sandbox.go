// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxHostname is what the kernel takes (HOST_NAME_MAX).
const maxHostname = 64

func (r *Runtime) runSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) (id string, err error) {
	config, err := r.sandboxConfig(pod, attempt)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(config.GetLogDirectory(), 0o755); err != nil {
		return "", fmt.Errorf("create log directory: %w", err)
	}
	handler, err := r.host.RuntimeHandler(pod)
	if err != nil {
		return "", err
	}
	done, err := r.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	ctx, cancel := whole(ctx)
	defer cancel()
	began := time.Now()
	resp, err := r.cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	r.metrics.SandboxStart.WithLabelValues(handler).Observe(time.Since(began).Seconds())
	if err != nil {
		r.metrics.SandboxErrors.WithLabelValues(handler).Inc()
		return "", err
	}
	return resp.GetPodSandboxId(), nil
}

// turnPatience is how long a sandbox waits for others that are being made: one that hangs must not keep all others waiting.
const turnPatience = 5 * time.Second

// turn waits until few enough sandboxes are being made. They take processor time more than anything else, so that of many
// pods at once the first are ready soon, instead of all at the end.
func (r *Runtime) turn(ctx context.Context) (done func(), err error) {
	timer := time.NewTimer(turnPatience)
	defer timer.Stop()
	select {
	case r.turns <- struct{}{}:
		return func() { <-r.turns }, nil
	case <-timer.C:
		return func() {}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Runtime) sandboxConfig(pod *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := r.host.DNS(pod)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Labels:       podLabels(pod),
		Annotations:  pod.Annotations,
		DnsConfig:    dns,
		LogDirectory: r.LogDir(pod),
		PortMappings: portMappings(pod),
	}
	if !pod.Spec.HostNetwork {
		if config.Hostname, err = r.hostname(pod); err != nil {
			return nil, err
		}
	}
	security, err := r.sandboxSecurity(pod)
	if err != nil {
		return nil, err
	}
	config.Linux = &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent:    r.host.CgroupParent(pod),
		SecurityContext: security,
		Sysctls:         sysctls(pod),
		Resources:       r.podResources(pod),
		Overhead:        r.overhead(pod),
	}
	return config, nil
}

func (r *Runtime) hostname(pod *v1.Pod) (string, error) {
	name, domain, err := r.host.Hostname(pod)
	if err != nil {
		return "", err
	}
	if fqdn := pod.Spec.SetHostnameAsFQDN; fqdn != nil && *fqdn && domain != "" {
		name += "." + domain
		if len(name) > maxHostname {
			return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
				name, maxHostname, len(name))
		}
	}
	return name, nil
}

func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	seen := map[string]bool{}
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			key := fmt.Sprintf("%s/%s/%d/%d", p.Protocol, p.HostIP, p.HostPort, p.ContainerPort)
			if p.Name == "" && seen[key] {
				continue
			}
			seen[key] = true
			mappings = append(mappings, &runtimeapi.PortMapping{
				Protocol: protocol(p.Protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	for i := range pod.Spec.InitContainers {
		if IsSidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return mappings
}

func protocol(p v1.Protocol) runtimeapi.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return runtimeapi.Protocol_UDP
	case v1.ProtocolSCTP:
		return runtimeapi.Protocol_SCTP
	}
	return runtimeapi.Protocol_TCP
}

func sysctls(pod *v1.Pod) map[string]string {
	set := map[string]string{}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			set[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
		}
	}
	return set
}

func (r *Runtime) sandboxSecurity(pod *v1.Pod) (*runtimeapi.LinuxSandboxSecurityContext, error) {
	namespaces, err := r.namespaceOptions(pod)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxSandboxSecurityContext{
		Privileged:       anyPrivileged(pod),
		NamespaceOptions: namespaces,
		// The sandbox's own process needs nothing, so it gets the tightest profile whatever its containers have.
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out, nil
	}
	out.RunAsUser, out.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
	out.SelinuxOptions = selinux(sc.SELinuxOptions)
	out.SupplementalGroups = supplementalGroups(sc)
	out.SupplementalGroupsPolicy, err = groupsPolicy(sc)
	return out, err
}

func (r *Runtime) namespaceOptions(pod *v1.Pod) (*runtimeapi.NamespaceOption, error) {
	options := &runtimeapi.NamespaceOption{
		Network:       networkMode(pod),
		Ipc:           runtimeapi.NamespaceMode_POD,
		Pid:           runtimeapi.NamespaceMode_CONTAINER,
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE},
	}
	if users := pod.Spec.HostUsers; users != nil && !*users {
		var err error
		if options.UsernsOptions, err = r.host.UserNamespace(pod); err != nil {
			return nil, err
		}
	}
	if pod.Spec.HostIPC {
		options.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		options.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	return options, nil
}

func anyPrivileged(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
				return true
			}
		}
	}
	return false
}

func (r *Runtime) podResources(pod *v1.Pod) *runtimeapi.LinuxContainerResources {
	options := resource.PodResourcesOptions{ExcludeOverhead: true}
	return r.linuxResources(resource.PodRequests(pod, options), resource.PodLimits(pod, options))
}

func (r *Runtime) overhead(pod *v1.Pod) *runtimeapi.LinuxContainerResources {
	if pod.Spec.Overhead == nil {
		return &runtimeapi.LinuxContainerResources{}
	}
	return r.linuxResources(pod.Spec.Overhead, pod.Spec.Overhead)
}
