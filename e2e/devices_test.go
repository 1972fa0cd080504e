// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Pods get the devices of a device plugin and of a DRA driver, keep them while plugins and servers restart, and give them back.
func TestDevices(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.kubectl("create", "namespace", "demo")
	t.Run("a device plugin", func(t *testing.T) { n.with(t).usesDevicePlugin() })
	t.Run("a DRA driver", func(t *testing.T) { n.with(t).usesDRADriver() })
}

func (n *node) usesDevicePlugin() {
	t := n.t
	const wants = "    resources: {limits: {example.com/null: 1}}"
	allocatable := func(want string) {
		t.Helper()
		n.eventually(60*time.Second, want+" devices are allocatable", func() error {
			got, err := n.try("get", "node", "alpha", "-o", `jsonpath={.status.allocatable.example\.com/null}`)
			if err == nil && got != want {
				err = fmt.Errorf("%q are", got)
			}
			return err
		})
	}
	plugin := n.play("device plugin")
	allocatable("2")
	n.runPod("one", "until [ -e /scratch/end ]; do sleep 1; done; rm /scratch/end", wants)
	n.runPod("two", "sleep 3600", wants)
	n.becomes("one", ".status.phase", "Running")
	n.becomes("two", ".status.phase", "Running")
	say := func(pod string) string {
		t.Helper()
		return n.kubectl("exec", "-n", "demo", pod, "--", "sh", "-c", `echo $PLUGGED $CDI_SAYS; stat -c "%F %t:%T" /dev/plugged; echo x >/dev/plugged && cat /plugged-files/id; touch /plugged-files/x 2>&1 | grep -o "Read-only file system"`)
	}
	got := []string{say("one"), say("two")}
	slices.Sort(got)
	for i := range got {
		if want := fmt.Sprintf("null-%d hello\ncharacter special file 1:3\nmounted\nRead-only file system\n", i); got[i] != want {
			t.Errorf("a container has\n%s, want\n%s", got[i], want)
		}
	}
	n.runPod("three", "sleep 3600", wants)
	n.becomes("three", `.status.conditions[?(@.type=="PodScheduled")].reason`, "Unschedulable")
	before := n.instance("one")
	device := strings.Fields(say("one"))[0]
	if has := n.resourcesOf("one"); has != device {
		t.Errorf("pod one has %s by the pod resources API, want %s", has, device)
	}

	// The server dies and comes back: the plugin registers again, and who had what is known.
	n.kill(n.server.process)
	n.start()
	allocatable("2")
	if now := n.instance("one"); now != before {
		t.Errorf("after a restart the pod is %s, was %s", now, before)
	}
	n.eventually(30*time.Second, "the pod resources API knows it again", func() error {
		if has := n.resourcesOf("one"); has != device {
			return fmt.Errorf("pod one has %q, want %s", has, device)
		}
		return nil
	})

	// The plugin dies: nothing is left to give, but who has a device keeps it, also a container that starts again.
	n.kill(plugin)
	allocatable("0")
	n.kubectl("exec", "-n", "demo", "one", "--", "touch", "/scratch/end")
	n.becomes("one", ".status.containerStatuses[0].restartCount", "1")
	n.becomes("one", ".status.containerStatuses[0].ready", "true")
	if now := strings.Fields(say("one"))[0]; now != device {
		t.Errorf("after its own restart the container has %s, want %s", now, device)
	}
	n.kubectl("delete", "pod", "-n", "demo", "two", "--timeout=60s")
	n.play("device plugin")
	allocatable("2")
	n.becomes("three", ".status.phase", "Running")
	if three := strings.Fields(say("three"))[0]; three == device {
		t.Errorf("pods one and three both have %s", device)
	}
	n.kubectl("delete", "pod", "-n", "demo", "one", "--timeout=60s")
	n.runPod("four", "sleep 3600", wants)
	n.becomes("four", ".status.phase", "Running")
	if four := strings.Fields(say("four"))[0]; four != device {
		t.Errorf("pod four has %s, want what pod one gave back", four)
	}
}

// podResources connects to the pod resources API.
func (n *node) podResources() (podresources.PodResourcesListerClient, func()) {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///podresources", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return n.Dial(ctx, "unix", "/var/lib/kubelet/pod-resources/kubelet.sock")
		}))
	if err != nil {
		n.t.Fatal(err)
	}
	return podresources.NewPodResourcesListerClient(conn), func() { conn.Close() }
}

// resourcesOf are the devices of a pod's first container, of plugins and of claims.
func (n *node) resourcesOf(pod string) string {
	n.t.Helper()
	client, stop := n.podResources()
	defer stop()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	list, err := client.List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return err.Error()
	}
	for _, p := range list.PodResources {
		if p.Name != pod || len(p.Containers) == 0 {
			continue
		}
		var ids []string
		for _, d := range p.Containers[0].Devices {
			ids = append(ids, d.DeviceIds...)
		}
		for _, claim := range p.Containers[0].DynamicResources {
			for _, d := range claim.ClaimResources {
				ids = append(ids, d.DeviceName)
			}
		}
		return strings.Join(ids, " ")
	}
	return "no such pod"
}

const gizmoPod = `
apiVersion: v1
kind: Pod
metadata: {name: tinker, namespace: demo}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: gizmo, resourceClaimTemplateName: gizmo}]
  containers:
  - name: main
    image: busybox:stable
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "trap 'exit 0' TERM; sleep 3600 & wait"]
    resources: {claims: [{name: gizmo}]}
`

func (n *node) usesDRADriver() {
	t := n.t
	driver := n.play("DRA driver")
	n.apply(`
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gizmo}
spec: {selectors: [{cel: {expression: 'device.driver == "dra.example.com"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gizmo, namespace: demo}
spec: {spec: {devices: {requests: [{name: one, exactly: {deviceClassName: gizmo}}]}}}
---` + gizmoPod)
	n.becomes("tinker", ".status.phase", "Running")
	say := func() (device string) {
		t.Helper()
		out := n.kubectl("exec", "-n", "demo", "tinker", "--", "sh", "-c", `echo $GIZMO; stat -c "%F %t:%T" /dev/gizmo; head -c 4 /dev/gizmo | wc -c`)
		device, rest, _ := strings.Cut(out, "\n")
		if !strings.HasPrefix(device, "gizmo-") || rest != "character special file 1:5\n4\n" {
			t.Errorf("the container has\n%s", out)
		}
		return device
	}
	device := say()
	if has := n.resourcesOf("tinker"); has != device {
		t.Errorf("by the pod resources API it has %s, want %s", has, device)
	}
	calls := func() string { log, _ := os.ReadFile(n.Path(draLog)); return string(log) }
	if got := calls(); strings.Count(got, "prepare") != 1 {
		t.Errorf("the driver was asked\n%s", got)
	}
	before := n.instance("tinker")
	n.kill(n.server.process)
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	if now := n.instance("tinker"); now != before {
		t.Errorf("after a restart the pod is %s, was %s", now, before)
	}
	n.eventually(30*time.Second, "the pod resources API knows it again", func() error {
		if has := n.resourcesOf("tinker"); has != device {
			return fmt.Errorf("it has %q, want %s", has, device)
		}
		return nil
	})
	// Without its driver a pod does not end; with a new one it does, and the next gets the device.
	if err := driver.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-driver.Done()
	n.kubectl("delete", "pod", "-n", "demo", "tinker", "--wait=false")
	time.Sleep(3 * time.Second) // longer than its grace
	if _, err := n.try("get", "pod", "-n", "demo", "tinker"); err != nil {
		t.Errorf("the pod went before its claim was unprepared: %v", err)
	}
	n.play("DRA driver")
	n.kubectl("wait", "-n", "demo", "--for=delete", "pod/tinker", "--timeout=90s")
	if got := calls(); strings.Count(got, "unprepare") < 1 {
		t.Errorf("the driver was asked\n%s", got)
	}
	n.apply(gizmoPod)
	n.becomes("tinker", ".status.phase", "Running")
	say()
	n.kubectl("delete", "pod", "-n", "demo", "tinker", "--timeout=60s")
	n.eventually(30*time.Second, "all claims are unprepared and gone", func() error {
		if out, err := n.try("get", "resourceclaims", "-n", "demo", "-o", "name"); err != nil || out != "" {
			return fmt.Errorf("there is %q, %w", out, err)
		}
		if specs, err := os.ReadDir(n.Path(cdiDir)); err != nil || slices.ContainsFunc(specs, func(e os.DirEntry) bool { return e.Name() != "null.json" }) {
			return fmt.Errorf("there is %v, %w", specs, err)
		}
		return nil
	})
}

// A Guaranteed pod gets CPUs of its own and memory on one NUMA node; others use what is left, and all of it when it has gone.
func TestAlignment(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(config, []byte(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
kubeReserved: {cpu: 500m, memory: 100Mi}
evictionHard: {memory.available: 100Mi}
cpuManagerPolicy: static
memoryManagerPolicy: Static
reservedMemory: [{numaNode: 0, limits: {memory: 200Mi}}]
topologyManagerPolicy: single-numa-node
topologyManagerScope: pod
`), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, "--kubelet-config", config)
	n.kubectl("create", "namespace", "demo")
	allowed := func(pod string) string {
		t.Helper()
		return n.kubectl("exec", "-n", "demo", pod, "--", "sh", "-c", "sed -n 's/^Cpus_allowed_list:.//p; s/^Mems_allowed_list:.//p' /proc/self/status | xargs echo")
	}
	n.runPod("shared", "sleep 3600", "")
	n.becomes("shared", ".status.phase", "Running")
	all := allowed("shared")
	n.runPod("own", "sleep 3600", "    resources: {requests: {cpu: 1, memory: 64Mi}, limits: {cpu: 1, memory: 64Mi}}")
	n.becomes("own", ".status.phase", "Running")
	own := allowed("own")
	if fields := strings.Fields(own); len(fields) != 2 || strings.ContainsAny(fields[0], "-,") || fields[0] == "0" || fields[1] != "0" {
		t.Errorf("the pod has CPUs and NUMA nodes %q, want one CPU that is not reserved, and node 0", own)
	}
	n.eventually(30*time.Second, "the other pod has lost that CPU", func() error {
		if now := allowed("shared"); now == all || slices.Contains(strings.Split(strings.Fields(now)[0], ","), strings.Fields(own)[0]) {
			return fmt.Errorf("it has %q", now)
		}
		return nil
	})
	client, stop := n.podResources()
	defer stop()
	got, err := client.Get(t.Context(), &podresources.GetPodResourcesRequest{PodName: "own", PodNamespace: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	if c := got.PodResources.Containers[0]; len(c.CpuIds) != 1 || fmt.Sprint(c.CpuIds[0]) != strings.Fields(own)[0] || len(c.Memory) != 1 || c.Memory[0].Size != 64<<20 || c.Memory[0].Topology.Nodes[0].ID != 0 {
		t.Errorf("by the pod resources API it has %v", c)
	}
	before := n.instance("own")
	n.kill(n.server.process)
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	if now := n.instance("own"); now != before || allowed("own") != own {
		t.Errorf("after a restart the pod is %s with %q, was %s with %q", now, allowed("own"), before, own)
	}
	n.kubectl("delete", "pod", "-n", "demo", "own", "--timeout=60s")
	n.eventually(30*time.Second, "the other pod has all CPUs again", func() error {
		if now := allowed("shared"); now != all {
			return fmt.Errorf("it has %q, had %q", now, all)
		}
		return nil
	})
}
