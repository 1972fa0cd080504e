// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// twoMachines are a server without a node, and a node on another machine.
func twoMachines(t *testing.T) *cluster {
	t.Helper()
	network := testhost.NewCluster(t, 0)
	c := &cluster{node: newHostOn(t, network, "alpha"), beta: newHostOn(t, network, "beta")}
	c.flags = []string{"--no-node"}
	c.run("server", c.flags...)
	c.apiAnswers()
	c.beta.run("agent", c.joinFlags()...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.kubectl("create", "namespace", "demo")
	return c
}

// awayVariable is for how long the server is away, such as "10m".
const awayVariable = "E2E_AWAY"

// awayFor is longer than a lease, and than the node is thought to be alive.
func awayFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(awayVariable)
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", awayVariable, err)
	}
	return d
}

// A node whose API server is away for minutes, in CI for one, goes on: pods run, probes restart those that hang, what ends
// starts again or stays ended. When the server is back it learns all of it, and gives the node work again.
func TestServerAwayForLong(t *testing.T) {
	t.Parallel()
	c := twoMachines(t)
	c.runPod("steady", "sleep 3600", "")
	c.runPod("probed", "touch /scratch/well; sleep 3600", `    livenessProbe: {exec: {command: [test, -e, /scratch/well]}, periodSeconds: 1, failureThreshold: 2}`)
	c.runPod("ending", "while [ ! -e /scratch/end ]; do sleep 1; done; rm /scratch/end", "")
	c.runPod("finishing", "while [ ! -e /scratch/end ]; do sleep 1; done; echo -n over > /dev/termination-log", "  restartPolicy: Never")
	for _, name := range []string{"steady", "probed", "ending", "finishing"} {
		c.becomes(name, ".status.phase", "Running")
	}
	before := c.instance("steady")
	uids := map[string]string{}
	for _, name := range []string{"probed", "ending", "finishing"} {
		uids[name] = c.kubectl("get", "pod", "-n", "demo", name, "-o", "jsonpath={.metadata.uid}")
	}
	c.end(c.node, syscall.SIGKILL)
	scratch := func(pod, file string) string {
		return c.beta.Path(filepath.Join("/var/lib/kubelet/pods", uids[pod], "volumes/kubernetes.io~empty-dir/scratch", file))
	}
	if err := errors.Join(os.Remove(scratch("probed", "well")), os.WriteFile(scratch("ending", "end"), nil, 0o644), os.WriteFile(scratch("finishing", "end"), nil, 0o644)); err != nil {
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
	time.Sleep(time.Until(away.Add(awayFor(t))))
	c.run("server", c.flags...)
	for _, name := range []string{"probed", "ending"} {
		c.becomes(name, ".status.containerStatuses[0].restartCount", "1")
		c.becomes(name, ".metadata.uid", uids[name])
	}
	c.becomes("finishing", ".status.phase", "Succeeded")
	c.becomes("finishing", ".status.containerStatuses[0].state.terminated.message", "over")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.runPod("later", "sleep 3600", "")
	c.becomes("later", ".status.phase", "Running")
	c.becomes("steady", `.status.conditions[?(@.type=="Ready")].status`, "True")
	if now := c.instance("steady"); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
}
