// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// twoMachines are a server without a node, and a node on another machine, which prepare may change before it starts.
func twoMachines(t *testing.T, prepare func(beta *node), flags ...string) *cluster {
	t.Helper()
	network := testhost.NewCluster(t, 0)
	c := &cluster{node: newHostOn(t, network, "alpha"), beta: newHostOn(t, network, "beta")}
	c.flags = []string{"--no-node"}
	c.run("server", c.flags...)
	c.eventually(time.Minute, "the API answers", func() error {
		_, err := c.try("get", "-n", "kube-public", "configmap", "cluster-info")
		return err
	})
	if prepare != nil {
		prepare(c.beta)
	}
	c.beta.run("agent", append(c.joinFlags(), flags...)...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.kubectl("create", "namespace", "demo")
	return c
}

// A node whose API server is away for minutes, here for one, goes on: pods run, probes restart those that hang, what ends
// starts again. When the server is back it learns all of it.
func TestServerAwayForLong(t *testing.T) {
	c := twoMachines(t, nil)
	c.runPod("steady", "sleep 3600", "")
	c.runPod("probed", "touch /scratch/well; sleep 3600", `    livenessProbe: {exec: {command: [test, -e, /scratch/well]}, periodSeconds: 1, failureThreshold: 2}`)
	c.runPod("ending", "while [ ! -e /scratch/end ]; do sleep 1; done; rm /scratch/end", "")
	for _, name := range []string{"steady", "probed", "ending"} {
		c.becomes(name, ".status.phase", "Running")
	}
	before := c.instance("steady")
	uids := map[string]string{}
	for _, name := range []string{"probed", "ending"} {
		uids[name] = c.kubectl("get", "pod", "-n", "demo", name, "-o", "jsonpath={.metadata.uid}")
	}
	c.end(c.node, syscall.SIGKILL)
	scratch := func(pod, file string) string {
		return c.beta.Path(filepath.Join("/var/lib/kubelet/pods", uids[pod], "volumes/kubernetes.io~empty-dir/scratch", file))
	}
	if err := errors.Join(os.Remove(scratch("probed", "well")), os.WriteFile(scratch("ending", "end"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	away := time.Now()
	for _, name := range []string{"probed", "ending"} {
		c.beta.eventually(time.Minute, "without a server, "+name+" is started again", func() error {
			if log, err := filepath.Glob(c.beta.Path("/var/log/pods") + "/demo_" + name + "_*/main/1.log"); err != nil || len(log) != 1 {
				return fmt.Errorf("its second log is %q, %w", log, err)
			}
			return nil
		})
	}
	time.Sleep(time.Until(away.Add(time.Minute))) // longer than a lease, and than the node is thought to be alive
	c.run("server", c.flags...)
	for _, name := range []string{"probed", "ending"} {
		c.becomes(name, ".status.containerStatuses[0].restartCount", "1")
		c.becomes(name, ".metadata.uid", uids[name])
	}
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.becomes("steady", `.status.conditions[?(@.type=="Ready")].status`, "True")
	if now := c.instance("steady"); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
}

// A node whose disk is full keeps what runs, ends what is to end, says why it cannot start more, and goes on when there is
// room again. Its data directory and the kubelet's lie on a small file system; nothing is evicted, so that it stays full.
func TestFullDisk(t *testing.T) {
	config := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(config, []byte(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard: {nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`), 0o644); err != nil {
		t.Fatal(err)
	}
	const disk = "/var/lib/skiff"
	c := twoMachines(t, func(beta *node) {
		beta.inside("sh", "-c", `set -e; mount -t tmpfs -o size=700m tmpfs /mnt; cp -a `+disk+`/. /mnt/; mount --bind /mnt `+disk+`
			mkdir -p `+disk+`/kubelet; mount --bind `+disk+`/kubelet /var/lib/kubelet`)
	}, "--kubelet-config", config)
	beta := c.beta
	c.runPod("steady", "sleep 3600", "")
	c.runPod("leaver", "sleep 3600", "")
	c.becomes("steady", ".status.phase", "Running")
	c.becomes("leaver", ".status.phase", "Running")
	before := c.instance("steady")
	fill := func() { // to the last byte
		beta.inside("sh", "-c", "for size in 1M 4k 1; do dd if=/dev/zero bs=$size of="+disk+"/filler-$size 2>/dev/null; done; true")
	}
	fill()
	if _, err := c.pipe(`
apiVersion: v1
kind: Pod
metadata: {name: comer, namespace: demo}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: settings, configMap: {name: settings}}]
  containers:
  - {name: main, image: "busybox:stable", imagePullPolicy: IfNotPresent, command: [sleep, "3600"], volumeMounts: [{name: settings, mountPath: /settings}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: demo}
data: {large: "`+strings.Repeat("x", 100000)+`"}
`, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	c.eventually(90*time.Second, "an event says why the pod cannot start", func() error {
		out, err := c.try("get", "events", "-n", "demo", "--field-selector=involvedObject.name=comer,type=Warning", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "no space left on device") {
			err = errors.New(out)
		}
		return err
	})
	c.kubectl("delete", "pod", "-n", "demo", "leaver", "--wait=false")
	c.eventually(90*time.Second, "the pod that is deleted has ended", func() error {
		for _, line := range beta.containers("demo") {
			if strings.HasPrefix(line, "sandbox leaver ") && strings.HasSuffix(line, "SANDBOX_READY") {
				return errors.New(line)
			}
		}
		return nil
	})
	if out := c.kubectl("exec", "-n", "demo", "steady", "--", "echo", "here"); out != "here\n" {
		t.Errorf("exec says %q", out)
	}
	// The agent dies on the full disk, and comes back when there is room.
	c.end(beta, syscall.SIGKILL)
	beta.inside("sh", "-c", "rm "+disk+"/filler-*")
	beta.run("agent", "--kubelet-config", config)
	c.kubectl("wait", "-n", "demo", "--for=delete", "pod/leaver", "--timeout=90s")
	c.becomes("comer", ".status.phase", "Running")
	if out := c.kubectl("exec", "-n", "demo", "comer", "--", "wc", "-c", "/settings/large"); !strings.HasPrefix(out, "100000 ") {
		t.Errorf("the file that did not fit has %s bytes", out)
	}
	if now := c.instance("steady"); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
	c.kubectl("delete", "namespace", "demo", "--timeout=120s")
	beta.nothingOf("demo")
}
