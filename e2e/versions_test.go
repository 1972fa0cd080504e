// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// older is this Skiff as one of an older version of Kubernetes, by its own account. Of the build, only the last step is done again.
func older(t *testing.T, version string) string {
	t.Helper()
	binary := filepath.Join("bin", "skiff-"+version)
	out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", "..", "build", "KUBERNETES="+version, "BINARY="+binary).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", binary, err, out)
	}
	path, err := filepath.Abs(filepath.Join("..", binary))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Agents may be up to three minor versions older than servers. Such a node does what others do, and its pods do not notice how it
// becomes a newer one.
// https://kubernetes.io/releases/version-skew-policy/#kubelet
func TestOlderAgent(t *testing.T) {
	tooOld, old := older(t, "1.33.9"), older(t, "1.36.2") // before others run beside it
	t.Parallel()
	c := newServer(t, testhost.NewCluster(t, 0))
	flags := c.joinFlags()
	present := c.beta.binary

	c.beta.binary = tooOld
	if got := c.beta.agentFails(flags...); !strings.HasPrefix(got, "skiff: this agent (Kubernetes v1.33.9) is more than 3 minor versions older than the server") ||
		!strings.HasSuffix(got, "(upgrade the agent)") {
		t.Errorf("one that is too old says %q", got)
	}

	c.beta.binary = old
	c.beta.run("agent", flags...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/alpha", "node/beta", "--timeout=60s")
	c.kubeletIs("v1.36.2+skiff.")
	c.kubectl("create", "namespace", "demo")
	for _, name := range []string{"alpha", "beta"} {
		c.webOn(name)
	}
	c.kubectl("expose", "-n", "demo", "pod", "on-alpha", "--name=web", "--port=80", "--target-port=8080", "--selector=app=web")
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/on-alpha", "pod/on-beta", "--timeout=60s")
	c.podsReachEachOther()
	c.reachesBeta()
	before := c.started("on-beta")

	c.end(c.beta, syscall.SIGTERM)
	c.beta.binary = present
	c.beta.run("agent")
	c.kubeletIs("v1.37.2+skiff.")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.eventually(time.Minute, "exec works again", func() error {
		_, err := c.try("exec", "-n", "demo", "on-beta", "--", "true")
		return err
	})
	c.reachesBeta()
	if now := c.started("on-beta"); now != before {
		t.Errorf("the container is %s, was %s before the upgrade", now, before)
	}
}

// kubeletIs waits until beta is a node of some version.
func (c *cluster) kubeletIs(version string) {
	c.t.Helper()
	c.eventually(time.Minute, "beta is of "+version, func() error {
		got, err := c.try("get", "node", "beta", "-o", "jsonpath={.status.nodeInfo.kubeletVersion}")
		if err == nil && !strings.HasPrefix(got, version) {
			err = errors.New("it is of " + got)
		}
		return err
	})
}
