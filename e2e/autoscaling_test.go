// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// load is a Deployment that uses as much CPU as it may, which is twice what it requests, and its autoscaler.
const load = `apiVersion: apps/v1
kind: Deployment
metadata: {name: load}
spec:
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: spin
        image: busybox:stable
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 20m, memory: 8Mi}, limits: {cpu: 40m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: load}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: load}
  maxReplicas: 3
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
`

// A manifest in the data directory is applied, kubectl top tells what its pods use, and its autoscaler acts on that:
// whoever leads, which here is decided as where there are several servers.
func TestAddOnAutoscaling(t *testing.T) {
	t.Parallel()
	n := newHost(t)
	dir := n.Path("/var/lib/skiff/server/manifests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "load.yaml"), []byte(load), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.eventually(time.Minute, "the add-on is applied", func() error {
		_, err := n.try("get", "deployment", "load")
		return err
	})
	n.kubectl("rollout", "status", "deployment/load", "--timeout=120s")
	n.eventually(time.Minute, "kubectl top knows the node", func() error {
		out, err := n.try("top", "nodes")
		if err == nil && !strings.Contains(out, "alpha") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	n.eventually(time.Minute, "kubectl top knows the pod", func() error {
		out, err := n.try("top", "pods", "--containers")
		if err == nil && !strings.Contains(out, "spin") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	n.eventually(5*time.Minute, "the autoscaler has scaled up to three pods", func() error {
		out, err := n.try("get", "hpa", "load", "-o", "jsonpath={.spec.scaleTargetRef.name} {.status.currentReplicas} {.status.conditions}")
		if err == nil && !strings.HasPrefix(out, "load 3 ") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	if err := os.Remove(filepath.Join(dir, "load.yaml")); err != nil {
		t.Fatal(err)
	}
	n.kubectl("wait", "--for=delete", "deployment/load", "--timeout=60s")
}
