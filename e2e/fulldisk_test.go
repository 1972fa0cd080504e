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
)

// A server and node whose disk is full says so, ends what fills it, answers all the time, loses nothing that it acknowledged,
// and goes on when there is room. All of its data, and the kubelet's, lie on a small file system of their own.
func TestFullDisk(t *testing.T) {
	config := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(config, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nevictionPressureTransitionPeriod: 5s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newHost(t)
	n.flags = []string{"--kubelet-config", config}
	n.inside("sh", "-c", `set -e; mount -t tmpfs -o size=800m tmpfs /mnt; cp -a `+fullDisk+`/. /mnt/; mount --bind /mnt `+fullDisk+`
		mkdir -p `+fullDisk+`/kubelet /var/lib/kubelet; mount --bind `+fullDisk+`/kubelet /var/lib/kubelet`)
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.kubectl("create", "namespace", "demo")
	n.runPod("steady", "sleep 3600", "  priorityClassName: system-node-critical") // which is never evicted
	n.becomes("steady", ".status.phase", "Running")
	before := n.instance("steady")
	records := 0
	record := func() { // what is acknowledged must be there in the end
		if _, err := n.try("create", "configmap", "-n", "demo", fmt.Sprintf("record-%d", records), "--from-literal=key=value"); err != nil {
			n.t.Errorf("the API on a full disk: %v", err)
			return
		}
		records++
	}
	t.Run("a pod fills the disk", func(t *testing.T) {
		n := n.with(t)
		n.runPod("hog", "dd if=/dev/zero of=/file bs=1M; sleep 3600", "")
		n.conditionIs("DiskPressure", "True")
		record()
		n.becomes("hog", ".status.reason", "Evicted")
		if message := n.kubectl("get", "pod", "-n", "demo", "hog", "-o", "jsonpath={.status.message}"); !strings.Contains(message, "The node was low on resource: ephemeral-storage.") {
			t.Errorf("it was evicted with the message %q", message)
		}
		n.conditionIs("DiskPressure", "False")
		record()
		n.kubectl("delete", "pod", "-n", "demo", "hog", "--timeout=60s")
	})
	t.Run("somebody else fills it", func(t *testing.T) {
		n := n.with(t)
		n.runPod("leaver", "sleep 3600", "  priorityClassName: system-node-critical")
		n.runPod("victim", "sleep 3600", "")
		n.becomes("leaver", ".status.phase", "Running")
		n.becomes("victim", ".status.phase", "Running")
		n.fillDisk()
		n.conditionIs("DiskPressure", "True")
		for range 20 {
			record()
		}
		// Both end, and containerd, which has no room to note it, is given some.
		n.becomes("victim", ".status.reason", "Evicted")
		n.kubectl("delete", "pod", "-n", "demo", "leaver", "--timeout=120s")
		if out := n.kubectl("exec", "-n", "demo", "steady", "--", "echo", "here"); out != "here\n" {
			t.Errorf("exec says %q", out)
		}
		// A server that dies on the full disk comes back when there is room.
		n.fillDisk()
		n.kill(n.server.process)
		n.inside("sh", "-c", "rm "+fullDisk+"/filler-*")
		n.start()
		n.conditionIs("DiskPressure", "False")
		n.eventually(time.Minute, "the reserve is there again", func() error { _, err := os.Stat(n.Path(fullDisk + "/agent/reserve")); return err })
	})
	n.runPod("later", "sleep 3600", "")
	n.becomes("later", ".status.phase", "Running")
	if now := n.instance("steady"); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
	if there := strings.Count(n.kubectl("get", "configmaps", "-n", "demo", "-o", "name"), "record-"); there != records || records == 0 {
		t.Errorf("of %d acknowledged objects %d are there", records, there)
	}
	n.kubectl("delete", "namespace", "demo", "--timeout=120s")
	n.nothingOf("demo")
}

// fullDisk is what lies on the small file system.
const fullDisk = "/var/lib/skiff"

// fillDisk takes all of the disk, to the last byte.
func (n *node) fillDisk() {
	n.t.Helper()
	n.inside("sh", "-c", "for size in 1M 4k 1; do dd if=/dev/zero bs=$size >>"+fullDisk+"/filler-$size 2>/dev/null; done; true")
	var fs syscall.Statfs_t
	if err := syscall.Statfs(n.Path(fullDisk), &fs); err != nil || fs.Bavail > 2 {
		n.t.Fatalf("%d blocks are left on the disk, %v", fs.Bavail, err)
	}
}

// conditionIs waits until the node has a condition, or has it no more.
func (n *node) conditionIs(name, want string) {
	n.t.Helper()
	n.eventually(90*time.Second, name+" of the node is "+want, func() error {
		got, err := n.try("get", "node", "alpha", "-o", `jsonpath={.status.conditions[?(@.type=="`+name+`")].status}`)
		if err == nil && got != want {
			err = errors.New(got)
		}
		return err
	})
}
