// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/cri"
)

// otherRuntime is where a container runtime of somebody else's has its state.
const otherRuntime = "/run/other"

func runOtherRuntime(ctx context.Context) error {
	const data = "/var/lib/containerd"
	runtime, err := cri.New(cri.Config{
		Root: data + "/root", State: otherRuntime, BinDir: data + "/bin", ImageDir: "/var/lib/skiff/agent/images",
		CNIBinDirs: []string{"/opt/cni/bin"}, CNIConfDir: "/etc/cni/net.d",
	})
	if err != nil {
		return err
	}
	return runtime.Run(ctx)
}

// With --container-runtime-endpoint, pods run in the runtime that listens there, and no other is started.
func TestOtherContainerRuntime(t *testing.T) {
	n := newHost(t)
	n.play("containerd")
	socket := otherRuntime + "/containerd.sock"
	n.eventually(time.Minute, "the other runtime listens", func() error { _, err := os.Stat(n.Path(socket)); return err })
	n.flags = []string{"--container-runtime-endpoint=unix://" + socket}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.kubectl("run", "client", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--", "sleep", "3600")
	n.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
	if out := n.kubectl("exec", "client", "--", "echo", "inside"); out != "inside\n" {
		t.Errorf("exec = %q", out)
	}
	if _, err := os.Stat(n.Path("/run/skiff/containerd")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a containerd of Skiff's own: %v", err)
	}
	if got := n.kubectl("get", "node", "alpha", "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"); !strings.HasPrefix(got, "containerd://") {
		t.Errorf("container runtime = %q", got)
	}
	if out, err := n.skiff("uninstall", "--yes"); err != nil {
		t.Errorf("uninstall = %q, %v", out, err)
	}
	if left := n.leftovers(); slices.ContainsFunc(left, func(line string) bool { return !strings.Contains(line, "e2e") && !strings.Contains(line, otherRuntime) }) {
		t.Errorf("after uninstall there is %q, want the other runtime alone", left)
	}
	if plugins, err := os.ReadDir(n.Path("/opt/cni/bin")); err == nil && slices.ContainsFunc(plugins, func(e os.DirEntry) bool { return e.Name() == "thincni" }) {
		t.Error("after uninstall the CNI plugin is still there")
	}
}
