// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/skiff-k8s/skiff/kubelet/csi/csitest"
)

const driverDir = "/var/lib/csi-driver"

func runCSIDriver(ctx context.Context) error {
	driver := &csitest.Driver{Name: "x.io", NodeID: "alpha", Dir: driverDir, Can: []csipb.NodeServiceCapability_RPC_Type{
		csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	}}
	stop, err := driver.Serve("/var/lib/kubelet/plugins_registry")
	if err != nil {
		return err
	}
	defer stop()
	<-ctx.Done()
	return nil
}

const counters = `
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: counter
spec:
  serviceName: counter
  replicas: 2
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      containers:
        - name: main
          image: busybox:stable
          imagePullPolicy: IfNotPresent
          command: [sh, -c, "echo $HOSTNAME started >> /data/log; exec sleep 3600"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata:
  name: scratch
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: busybox:stable
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "echo scratched > /data/file; exec sleep 3600"]
      volumeMounts: [{name: data, mountPath: /data, subPath: deep}]
  volumes:
    - name: data
      ephemeral:
        volumeClaimTemplate:
          spec:
            accessModes: [ReadWriteOncePod]
            resources: {requests: {storage: 1Mi}}
`

const driven = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: x.io}
spec: {attachRequired: false, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: driven}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  csi: {driver: x.io, volumeHandle: one}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: driven}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  volumeName: driven
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: driven}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: busybox:stable
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "echo kept >> /data/file; exec sleep 3600"]
      volumeMounts: [{name: data, mountPath: /data}, {name: inline, mountPath: /inline}]
  volumes:
    - {name: data, persistentVolumeClaim: {claimName: driven}}
    - {name: inline, csi: {driver: x.io}}
`

// Volumes of the default class keep a pod's data and go with its claim; those of a CSI driver come and go with pods,
// whatever becomes of the server meanwhile.
func TestStorage(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	t.Run("local-path", func(t *testing.T) { n.with(t).keepsData() })
	t.Run("CSI", func(t *testing.T) { n.with(t).usesDriver() })
}

func (n *node) apply(manifests string) {
	n.t.Helper()
	if out, err := n.pipe(manifests, "apply", "-f", "-"); err != nil {
		n.t.Fatalf("apply: %v\n%s", err, out)
	}
}

// directories lists those of local-path volumes.
func (n *node) directories() []string {
	n.t.Helper()
	entries, err := os.ReadDir(n.Path("/var/lib/skiff/storage"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (n *node) wantDirectories(count int) {
	n.t.Helper()
	n.eventually(60*time.Second, fmt.Sprintf("%d directories of volumes", count), func() error {
		if have := n.directories(); len(have) != count {
			return fmt.Errorf("there are %q", have)
		}
		return nil
	})
}

func (n *node) keepsData() {
	n.t.Helper()
	n.apply(counters)
	n.kubectl("rollout", "status", "statefulset/counter", "--timeout=120s")
	n.kubectl("wait", "--for=condition=Ready", "pod/scratch", "--timeout=60s")
	if out := n.kubectl("exec", "scratch", "--", "cat", "/data/file"); out != "scratched\n" {
		n.t.Errorf("ephemeral volume has %q", out)
	}
	n.wantDirectories(3)
	n.kubectl("delete", "pod", "counter-1", "scratch", "--timeout=60s")
	n.wantDirectories(2)
	n.kubectl("rollout", "status", "statefulset/counter", "--timeout=60s")
	n.kubectl("wait", "--for=condition=Ready", "pod/counter-1", "--timeout=60s")
	if out := n.kubectl("exec", "counter-1", "--", "cat", "/data/log"); out != "counter-1 started\ncounter-1 started\n" {
		n.t.Errorf("volume of counter-1 has %q", out)
	}
	if out := n.kubectl("exec", "counter-1", "--", "stat", "-c", "%g", "/data/log"); out != "2000\n" {
		n.t.Errorf("file's group is %q", out)
	}
	n.kubectl("patch", "pvc", "data-counter-1", "--type=merge", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	n.kubectl("wait", "--for=jsonpath={.status.capacity.storage}=2Gi", "pvc/data-counter-1", "--timeout=30s")
	n.kubectl("delete", "statefulset", "counter", "--timeout=60s")
	n.kubectl("delete", "pvc", "--all", "--timeout=60s")
	n.wantDirectories(0)
	n.eventually(30*time.Second, "volumes are gone", func() error {
		if out, err := n.try("get", "pv", "-o", "name"); err != nil || out != "" {
			return fmt.Errorf("there is %q, %w", out, err)
		}
		return nil
	})
}

func (n *node) usesDriver() {
	n.t.Helper()
	if err := os.MkdirAll(n.Path(driverDir), 0o755); err != nil {
		n.t.Fatal(err)
	}
	n.play("csi driver")
	n.apply(driven)
	n.eventually(30*time.Second, "the driver is published", func() error {
		out, err := n.try("get", "csinode", "alpha", "-o", "jsonpath={.spec.drivers[*].name}")
		if err == nil && out != "x.io" {
			err = fmt.Errorf("drivers are %q", out)
		}
		return err
	})
	n.kubectl("wait", "--for=condition=Ready", "pod/driven", "--timeout=60s")
	data := n.Path(filepath.Join(driverDir, "one", "file"))
	if content, err := os.ReadFile(data); err != nil || string(content) != "kept\n" {
		n.t.Errorf("volume has %q, %v", content, err)
	}
	if err := n.server.process.Kill(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.eventually(30*time.Second, "exec works again", func() error {
		if out, err := n.try("exec", "driven", "--", "cat", "/data/file"); err != nil || out != "kept\n" {
			return fmt.Errorf("volume has %q, %w", out, err)
		}
		return nil
	})
	n.kubectl("delete", "pod", "driven", "--timeout=60s")
	if out := n.inside("cat", "/proc/mounts"); strings.Contains(out, "kubernetes.io~csi") || strings.Contains(out, "globalmount") {
		n.t.Errorf("mounts are left:\n%s", out)
	}
	if content, err := os.ReadFile(data); err != nil || string(content) != "kept\n" {
		n.t.Errorf("volume has %q in the end, %v", content, err)
	}
}

const dataOnBeta = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: far}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: far}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: beta}
  containers:
    - name: main
      image: busybox:stable
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "echo far > /data/file; exec sleep 3600"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: far}}]
`

// keepsDataOnBeta has a volume made and removed on another machine.
func (c *cluster) keepsDataOnBeta() {
	c.t.Helper()
	c.apply(dataOnBeta)
	c.kubectl("wait", "--for=condition=Ready", "pod/far", "--timeout=60s")
	c.beta.wantDirectories(1)
	if have := c.node.directories(); len(have) > 0 {
		c.t.Errorf("directories on alpha are %q", have)
	}
	if content, err := os.ReadFile(c.beta.Path(filepath.Join("/var/lib/skiff/storage", c.beta.directories()[0], "file"))); err != nil || string(content) != "far\n" {
		c.t.Errorf("volume has %q, %v", content, err)
	}
	c.kubectl("delete", "pod/far", "pvc/far", "--timeout=60s")
	c.beta.wantDirectories(0)
}
