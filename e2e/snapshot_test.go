// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// A cluster whose server is lost is there again from a snapshot: as it was then, with the same keys, and its pods run again.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.kubectl("run", "client", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--", "sleep", "3600")
	n.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
	n.kubectl("create", "configmap", "before")
	const file, credentials = "/root/cluster.tar.zst", "/root/old.yaml"
	n.inside("mkdir", "-p", "/root")
	n.inside("cp", "/etc/skiff/skiff.yaml", credentials)
	if out := n.inside(n.binary, "snapshot", "save", file); !strings.HasPrefix(out, "saved the cluster in "+file+" (") {
		t.Errorf("snapshot save says %q", out)
	}
	if info, err := os.Stat(n.Path(file)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v, and has the cluster's keys", info, err)
	}
	n.kubectl("create", "configmap", "after")
	n.kubectl("create", "clusterrolebinding", "eve", "--clusterrole=cluster-admin", "--user=eve")
	if out, err := n.try("get", "--raw=/skiff/v1/snapshot", "--as=eve"); err == nil || !strings.Contains(out+err.Error(), "only members of system:masters") {
		t.Errorf("a user with all roles gets %.100q, %v", out, err)
	}
	if out, err := n.skiff("snapshot", "restore", file); err == nil || !strings.Contains(out+err.Error(), "skiff: ") {
		t.Errorf("restored beside a server that runs: %q, %v", out, err)
	}

	if out, err := n.skiff("stop"); err != nil {
		t.Fatalf("skiff stop = %q, %v", out, err)
	}
	n.awaitServerEnd()
	if out, err := n.skiff("snapshot", "restore", file); err == nil || !strings.Contains(out+err.Error(), "there is a server's data already") {
		t.Errorf("restored over the data of a server: %q, %v", out, err)
	}
	if err := os.RemoveAll(n.Path("/var/lib/skiff/server")); err != nil {
		t.Fatal(err)
	}
	if out, err := n.skiff("snapshot", "restore", file); err != nil || !strings.Contains(out, "restored the cluster") {
		t.Fatalf("snapshot restore = %q, %v", out, err)
	}
	n.start()
	n.eventually(time.Minute, "the pod runs again", func() error {
		_, err := n.try("exec", "client", "--", "true")
		return err
	})
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.kubectl("--kubeconfig="+credentials, "get", "configmap", "before")
	if out, err := n.try("get", "configmap", "after"); err == nil || !strings.Contains(errors.Join(err, errors.New(out)).Error(), "not found") {
		t.Errorf("what came after the snapshot is %q, %v", out, err)
	}
}
