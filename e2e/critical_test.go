// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A critical pod that is bound to a full node comes in: of the others one ends for it that has requested nothing. A pod that is not
// critical does not.
func TestCriticalPods(t *testing.T) {
	t.Parallel()
	n := newHost(t)
	n.flags = []string{"--node-labels=example.com/rack=7,node.kubernetes.io/shape=small"}
	if err := os.WriteFile(n.Path(kubeletFile), []byte(kubeletConfig+"maxPods: 4\nnodeLeaseDurationSeconds: 20\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	t.Run("labels of the node", func(t *testing.T) { n.with(t).keepsLabels() })

	if got := n.kubectl("get", "lease", "-n", "kube-node-lease", "alpha", "-o", "jsonpath={.spec.leaseDurationSeconds}"); got != "20" {
		t.Errorf("the node's Lease lasts %s s", got)
	}
	n.kubectl("create", "namespace", "demo")
	for _, name := range []string{"first", "second", "third"} {
		n.runBound(name, "", "{requests: {memory: 16Mi}}")
	}
	n.runBound("least", "", "{}")
	for _, name := range []string{"first", "second", "third", "least"} {
		n.becomes(name, ".status.phase", "Running")
	}
	n.runBound("refused", "", "{}")
	n.becomes("refused", ".status.reason", "OutOfpods")
	n.runBound("critical", "system-node-critical", "{}")
	n.becomes("critical", ".status.phase", "Running")
	n.becomes("least", ".status.phase", "Failed")
	if got := n.kubectl("get", "pod", "-n", "demo", "least", "-o", `jsonpath={.status.reason}: {.status.message} {.status.conditions[?(@.type=="DisruptionTarget")].reason}`); got != "Preempting: Preempted in order to admit critical pod TerminationByKubelet" {
		t.Errorf("the pod that made room says %q", got)
	}
	for _, name := range []string{"first", "second", "third"} {
		n.becomes(name, ".status.containerStatuses[0].restartCount", "0")
		n.becomes(name, ".status.containerStatuses[0].ready", "true")
	}
	n.eventually(30*time.Second, "the event is there", func() error {
		out, err := n.try("get", "events", "-n", "demo", "--field-selector=reason=Preempting", "-o", "jsonpath={.items[*].involvedObject.name}")
		if err == nil && out != "least" {
			err = fmt.Errorf("it is about %q", out)
		}
		return err
	})
}

// runBound runs a pod that does nothing on the node, whatever the scheduler thinks.
func (n *node) runBound(name, priority, resources string) {
	n.t.Helper()
	n.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: demo}
spec:
  priorityClassName: %q
  nodeName: alpha
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox:stable, imagePullPolicy: IfNotPresent, command: [sleep, "3600"], resources: %s}]
`, name, priority, resources))
}

// keepsLabels: --node-labels gives them at each start, and does not take them away; others stay.
func (n *node) keepsLabels() {
	n.t.Helper()
	labels := func(rack, more string) {
		n.t.Helper()
		n.eventually(30*time.Second, "the node has its labels", func() error {
			got, err := n.try("get", "node", "alpha", "-o", `jsonpath={.metadata.labels.example\.com/rack} {.metadata.labels.node\.kubernetes\.io/shape} {.metadata.labels.by-hand}`)
			if want := rack + " small " + more; err == nil && strings.TrimSpace(got) != strings.TrimSpace(want) {
				err = errors.New(got)
			}
			return err
		})
	}
	labels("7", "")
	n.kubectl("label", "node", "alpha", "by-hand=yes", "example.com/rack=none", "--overwrite")
	labels("none", "yes")
	n.killServer()
	n.flags = []string{"--node-labels=example.com/rack=8"}
	n.start()
	labels("8", "yes")
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
}
