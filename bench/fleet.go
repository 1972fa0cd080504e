// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fleetSettle is until pods are at rest, in seconds: half a minute after its last call a shim collects its garbage, once.
const fleetSettle = 60

const containerdSocket = "/run/skiff/containerd/containerd.sock"

// node measures what the node costs: pods one after the other beside the bare calls of CRI, many at once, and many at rest.
func node(ctx context.Context, h *host, client kubernetes.Interface, r *results) error {
	bare, err := bareRuns(ctx, h)
	if err != nil {
		return fmt.Errorf("measure the runtime: %w", err)
	}
	var took []time.Duration
	for i := range h.options.singles {
		name := fmt.Sprintf("single-%d", i)
		begin := time.Now()
		if err := startPod(ctx, h, client, name, createPod); err != nil {
			return fmt.Errorf("start pod %s: %w", name, err)
		}
		took = append(took, time.Since(begin))
		if err := removePod(ctx, client, name); err != nil {
			return fmt.Errorf("remove pod %s: %w", name, err)
		}
	}
	milliseconds := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	r.add("pod-p50", fmt.Sprintf("create a pod until it is Ready, p50 of %d", len(took)), milliseconds(percentile(took, 50)), "ms", budget{later: 450})
	r.add("pod-p99", "  p99", milliseconds(percentile(took, 99)), "ms", budget{later: 1000})
	r.add("cri-p50", "  sandbox, create and start by CRI alone, p50", milliseconds(percentile(bare, 50)), "ms", noBudget)
	r.add("pod-share", "  what all else adds (API, scheduler, kubelet)", milliseconds(percentile(took, 50)-percentile(bare, 50)), "ms", budget{later: 60})
	if h.options.burst > 0 {
		if err := burst(ctx, h, client, r); err != nil {
			return err
		}
	}
	if h.options.fleet > 0 {
		return fleet(ctx, h, client, r)
	}
	return nil
}

func percentile(d []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// bareRuns makes the calls that a pod of one container takes, without a kubelet. They ask for what any kubelet asks for, since
// that costs the runtime time and not the kubelet: the default seccomp profile for the sandbox, which takes runc some 20 ms to
// load, and the paths of /proc and /sys that containers do not see or cannot write.
func bareRuns(ctx context.Context, h *host) ([]time.Duration, error) {
	conn, err := grpc.NewClient("passthrough:///cri", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return h.Dial(ctx, "unix", containerdSocket) }))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	var took []time.Duration
	for i := range h.options.singles {
		begin := time.Now()
		sandbox, err := bareRun(ctx, h, cri, i)
		took = append(took, time.Since(begin))
		if sandbox != "" {
			_, stopErr := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox})
			_, removeErr := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox})
			err = errors.Join(err, stopErr, removeErr)
		}
		if err != nil {
			return nil, err
		}
	}
	return took, nil
}

// What upstream's kubelet hides of a container that is not privileged.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func bareRun(ctx context.Context, h *host, cri runtimeapi.RuntimeServiceClient, i int) (string, error) {
	name := fmt.Sprintf("bare-%d", i)
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    h.CgroupRoot(),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}},
		},
	}
	sandbox, err := cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", err
	}
	container, err := cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: image}, Command: []string{"sleep", "3600"},
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
			}},
		},
	})
	if err != nil {
		return sandbox.PodSandboxId, err
	}
	_, err = cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: container.ContainerId})
	return sandbox.PodSandboxId, err
}

// The programs of Skiff on a node: all but what runs in the pods.
const (
	serverName = "skiff"
	shimName   = "containerd-shim"
)

// ownProcesses are the server and the shims, by name.
func ownProcesses(h *host) (map[string]process, error) {
	all := map[string]process{}
	for _, name := range []string{serverName, shimName} {
		p, _, err := total(h, name)
		if err != nil {
			return nil, err
		}
		all[name] = p
	}
	return all, nil
}

// ownMemory is what the server and the shims have resident.
func ownMemory(h *host) (float64, error) {
	all, err := ownProcesses(h)
	return all[serverName].resident() + all[shimName].resident(), err
}

// burst creates many pods at once, and looks when each is Ready; then it deletes them all.
func burst(ctx context.Context, h *host, client kubernetes.Interface, r *results) error {
	before, err := ownMemory(h)
	if err != nil {
		return err
	}
	ready, err := many(ctx, h, client, h.options.burst)
	if err != nil {
		return fmt.Errorf("start %d pods: %w", h.options.burst, err)
	}
	r.add("burst", fmt.Sprintf("%d pods at once, until all are Ready", len(ready)), slices.Max(ready).Seconds(), "s", budget{later: 12})
	r.add("burst-first", "  the first", slices.Min(ready).Seconds(), "s", noBudget)
	r.add("burst-median", "  half of them", percentile(ready, 50).Seconds(), "s", noBudget)
	after, err := ownMemory(h)
	if err != nil {
		return err
	}
	r.add("pod-memory", "resident memory per pod, without what runs in it", (after-before)/mega/float64(len(ready)), "MB", budget{later: 15})
	gone, err := removeAll(ctx, client)
	if err != nil {
		return err
	}
	r.add("burst-gone", "  all deleted, until they are gone", gone.Seconds(), "s", noBudget)
	return nil
}

// many creates pods at once and returns how long after the first call each was Ready.
func many(ctx context.Context, h *host, client kubernetes.Interface, count int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	w, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	begin := time.Now()
	for i := range count {
		if err := createPod(ctx, h, client, fmt.Sprintf("many-%d", i)); err != nil {
			return nil, err
		}
	}
	ready := map[string]time.Duration{}
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok || event.Type == watch.Deleted || !podIsReady(event) {
			continue
		}
		if _, seen := ready[pod.Name]; !seen {
			ready[pod.Name] = time.Since(begin)
		}
		if len(ready) == count {
			return slices.Collect(maps.Values(ready)), nil
		}
	}
	return nil, fmt.Errorf("%d of %d pods became Ready; %s", len(ready), count, unready(context.WithoutCancel(ctx), client))
}

// unready tells of the pods that are not Ready what their status says.
func unready(ctx context.Context, client kubernetes.Interface) string {
	pods, err := client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var text []string
	for _, pod := range pods.Items {
		if status, err := json.Marshal(pod.Status); err == nil && !podIsReady(watch.Event{Type: watch.Modified, Object: &pod}) {
			text = append(text, fmt.Sprintf("%s on %q: %s", pod.Name, pod.Spec.NodeName, status))
		}
	}
	return strings.Join(text, "\n")
}

// removeAll deletes all pods and returns how long it took until they were gone.
func removeAll(ctx context.Context, client kubernetes.Interface) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	begin := time.Now()
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		left, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return 0, err
		}
		if len(left.Items) == 0 {
			return time.Since(begin), nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return 0, errors.New("pods were left after the deletion")
}

// allStay fails if not so many pods are Ready: a node that runs short of something is not at rest.
func allStay(ctx context.Context, client kubernetes.Interface, count int) error {
	pods, err := client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	left := 0
	for i := range pods.Items {
		if podIsReady(watch.Event{Type: watch.Modified, Object: &pods.Items[i]}) {
			left++
		}
	}
	if left != count {
		return fmt.Errorf("of %d pods %d are still Ready: does the node evict? A tenth of the disk must be free", count, left)
	}
	return nil
}

// fleet watches a server with many pods at rest.
func fleet(ctx context.Context, h *host, client kubernetes.Interface, r *results) error {
	ready, err := many(ctx, h, client, h.options.fleet)
	if err != nil {
		return fmt.Errorf("start %d pods: %w", h.options.fleet, err)
	}
	if err := wait(ctx, max(h.options.settle, fleetSettle)); err != nil {
		return err
	}
	if err := h.profileAnew(); err != nil {
		return err
	}
	before, err := ownProcesses(h)
	if err != nil {
		return err
	}
	if err := wait(ctx, h.options.seconds); err != nil {
		return err
	}
	after, err := ownProcesses(h)
	if err != nil {
		return err
	}
	if err := h.profileAnew(); err != nil {
		return err
	}
	if err := allStay(ctx, client, len(ready)); err != nil {
		return err
	}
	share := func(prefixes ...string) (percent float64) {
		for _, p := range prefixes {
			percent += 100 * (after[p].cpu - before[p].cpu).Seconds() / float64(h.options.seconds)
		}
		return percent
	}
	r.add("fleet-cpu", fmt.Sprintf("CPU of the server and shims with %d pods at rest, over %d s", len(ready), h.options.seconds), share(serverName, shimName), "% of a core", budget{later: 1})
	r.add("fleet-cpu-server", "  of the server", share(serverName), "% of a core", noBudget)
	r.add("fleet-cpu-shims", "  of the shims", share(shimName), "% of a core", noBudget)
	_, err = removeAll(ctx, client)
	return err
}
