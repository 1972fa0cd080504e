// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	wire "encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hungMount is a file system whose server has gone silent, as an NFS mount of a machine that is away: whoever touches it
// waits, and cannot be killed with certainty.
const hungMount = "/run/far/hung"

// The messages of FUSE's protocol that there are here.
const (
	fuseInit       = 26
	fuseHeaderSize = 40 // of a request
	fuseAnswerSize = 16
)

// runHungMount mounts it, and never answers after the first message. When it ends, those that wait get an error.
func runHungMount(ctx context.Context) error {
	if err := os.MkdirAll(hungMount, 0o755); err != nil {
		return err
	}
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	defer unix.Close(device)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device)
	if err := unix.Mount("hung", hungMount, "fuse", 0, options); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	request := make([]byte, 1<<17)
	if _, err := unix.Read(device, request); err != nil {
		return fmt.Errorf("read the first message: %w", err)
	}
	if op := wire.LittleEndian.Uint32(request[4:]); op != fuseInit {
		return fmt.Errorf("the first message is %d", op)
	}
	answer := make([]byte, fuseAnswerSize+64)
	wire.LittleEndian.PutUint32(answer, uint32(len(answer)))
	copy(answer[8:16], request[8:16])                                // which request
	copy(answer[16:24], request[fuseHeaderSize:fuseHeaderSize+8])    // the kernel's version
	copy(answer[24:28], request[fuseHeaderSize+8:fuseHeaderSize+12]) // as much read-ahead as it likes
	wire.LittleEndian.PutUint32(answer[36:], 1<<12)                  // at most so much in one write
	if _, err := unix.Write(device, answer); err != nil {
		return fmt.Errorf("answer the first message: %w", err)
	}
	if err := os.WriteFile(hungMount+".ready", nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return unix.Unmount(hungMount, unix.MNT_DETACH)
}

const hungPods = `
apiVersion: v1
kind: Pod
metadata: {name: stuck, namespace: demo}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: far, hostPath: {path: /run/far/hung/data, type: Directory}}]
  containers:
  - {name: main, image: "busybox:stable", imagePullPolicy: IfNotPresent, command: [sleep, "3600"], volumeMounts: [{name: far, mountPath: /far}]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: far}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  local: {path: /run/far/hung/disk}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [alpha]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: far, namespace: demo}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: far, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: claims, namespace: demo}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: far, persistentVolumeClaim: {claimName: far}}]
  containers:
  - {name: main, image: "busybox:stable", imagePullPolicy: IfNotPresent, command: [sleep, "3600"], volumeMounts: [{name: far, mountPath: /far}]}
---
apiVersion: v1
kind: Pod
metadata: {name: walker, namespace: demo}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: far, hostPath: {path: /run/far}}]
  containers:
  - name: main
    image: busybox:stable
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    volumeMounts: [{name: far, mountPath: /far, mountPropagation: HostToContainer}]
    livenessProbe: {exec: {command: [ls, /far/hung]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 2}
`

// A mount that hangs holds up who uses it and nobody else; when it is over, all goes on.
func TestHungMount(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.kubectl("create", "namespace", "demo")
	n.runPod("neighbour", "sleep 3600", "")
	n.becomes("neighbour", ".status.phase", "Running")
	fs := n.play("hung mount")
	n.eventually(30*time.Second, "the mount is there", func() error { _, err := os.Stat(n.Path(hungMount + ".ready")); return err })
	n.apply(hungPods)
	// The pod whose probe hangs is Running, then restarted again and again.
	n.eventually(90*time.Second, "a probe that hangs on it fails", func() error {
		out, err := n.try("get", "events", "-n", "demo", "--field-selector=reason=Unhealthy", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "timed out") {
			err = errors.New(out)
		}
		return err
	})
	// Others are not held up: pods start, exec works, figures are told, the node is Ready for longer than a lease.
	until := time.Now().Add(45 * time.Second)
	for i := 0; time.Now().Before(until) || i < 3; i++ {
		name := fmt.Sprintf("passer-%d", i)
		began := time.Now()
		n.runPod(name, "sleep 3600", "")
		n.becomes(name, ".status.phase", "Running")
		n.kubectl("delete", "pod", "-n", "demo", name, "--timeout=30s")
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("pod %s took %v", name, took)
		}
		if out := n.kubectl("get", "--raw", "/api/v1/nodes/alpha/proxy/stats/summary", "--request-timeout=20s"); !strings.Contains(out, "neighbour") {
			t.Errorf("the summary has no pod neighbour")
		}
	}
	n.kubectl("get", "--raw", "/api/v1/nodes/alpha/proxy/metrics", "--request-timeout=20s")
	n.kubectl("get", "--raw", "/api/v1/nodes/alpha/proxy/metrics/cadvisor", "--request-timeout=20s")
	if ready := n.kubectl("get", "node", "alpha", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); ready != "True" {
		t.Errorf("the node is Ready: %s", ready)
	}
	n.becomes("neighbour", ".status.containerStatuses[0].restartCount", "0")
	// The server ends and starts again all the same.
	if out, err := n.skiff("stop", "--keep-pods"); err != nil {
		t.Logf("stop: %q, %v", out, err)
	}
	ended, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.server.process.Wait(ended); ended.Err() != nil {
		t.Errorf("the server does not end: %v", err)
		n.kill(n.server.process)
	}
	n.start()
	n.runPod("later", "sleep 3600", "")
	n.becomes("later", ".status.phase", "Running")
	n.becomes("neighbour", ".status.containerStatuses[0].restartCount", "0")
	n.kubectl("delete", "pod", "-n", "demo", "stuck", "claims", "walker", "--wait=false")
	n.kill(fs) // those who waited get an error
	n.inside("umount", "-l", hungMount)
	n.kubectl("delete", "namespace", "demo", "--timeout=120s")
	n.nothingOf("demo")
}
