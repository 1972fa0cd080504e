// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// clocks are a server that is no node, and nodes on other machines, whose clocks are set.
type clocks struct {
	*cluster
	nodes []*node // the first is beta
}

// newClocks has nodes that have not joined yet.
func newClocks(t *testing.T, names ...string) *clocks {
	t.Helper()
	network := testhost.NewCluster(t, 0)
	c := &clocks{cluster: &cluster{node: newHostOn(t, network, "alpha")}}
	for _, name := range names {
		c.nodes = append(c.nodes, newHostOn(t, network, name))
	}
	c.beta = c.nodes[0]
	c.runAt(0, "server", "--no-node")
	c.apiAnswers()
	return c
}

// A machine whose clock is an hour off joins when that is set, and is told so. When the clock of a node is set wrong, and
// right again, nothing comes of it: its pods and its Leases go on, it starts others, and tokens are renewed.
func TestClockIsWrong(t *testing.T) {
	t.Parallel()
	c := newClocks(t, "beta", "gamma")
	gamma := c.nodes[1]
	c.joinLate(c.beta, gamma)
	c.kubectl("create", "namespace", "demo")
	for _, n := range c.nodes {
		c.runPodWithToken("steady-"+n.Name(), n)
		c.runPod("ending-"+n.Name(), endsWhenTold, "  nodeName: "+n.Name())
	}
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	before, ready := c.steady(), c.readySince()

	for i, hour := range []time.Duration{time.Hour, -time.Hour} {
		t.Logf("the clock of beta is set %s ahead, that of gamma as much behind", hour)
		c.beta.setClock(hour)
		gamma.setClock(-hour)
		c.renewsLease(c.beta, hour)
		c.renewsLease(gamma, -hour)
		for _, n := range c.nodes {
			n.said("What this node writes and reads about times is wrong")
			c.works(n, i+1)
			c.hasGoodToken("steady-" + n.Name())
		}
	}
	if now := c.readySince(); now != ready {
		t.Errorf("nodes are Ready since %s, were since %s", now, ready)
	}
	c.restartsWrong(c.beta, gamma)
	if now := c.steady(); now != before {
		t.Errorf("the pods that nobody touched are\n%s, were\n%s", now, before)
	}
}

// Servers may have the wrong time too. By one whose clock is behind no certificate is valid yet that it has issued lately: its nodes
// say so, and go on when the clock is set. One that is ahead is no harm.
func TestServerClockIsWrong(t *testing.T) {
	t.Parallel()
	c := newClocks(t, "beta")
	c.beta.run("agent", c.joinFlags()...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.kubectl("create", "namespace", "demo")
	c.runPodWithToken("steady-beta", c.beta)
	c.runPod("ending-beta", endsWhenTold, "  nodeName: beta")
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	before := c.steady()

	c.setClock(-time.Hour)
	c.beta.said("this machine's clock is 1h0m0s ahead of the server's")
	c.setClock(0)
	c.works(c.beta, 1)
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")

	ready := c.readySince()
	c.setClock(time.Hour)
	c.beta.said("this machine's clock is 1h0m0s behind the server's")
	c.works(c.beta, 2)
	if now := c.readySince(); now != ready {
		t.Errorf("the node is Ready since %s, was since %s", now, ready)
	}
	if now := c.steady(); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
}

// joinLate has machines join whose clocks are set right only then.
func (c *clocks) joinLate(behind, ahead *node) {
	c.t.Helper()
	flags := c.joinFlags()
	behind.runAt(-time.Hour, "agent", flags...)
	ahead.runAt(time.Hour, "agent", flags...)
	behind.said("this machine's clock is 1h0m0s behind the server's (set the time of one of them)")
	ahead.said("this machine's clock is 1h0m0s ahead of the server's (set the time of one of them)")
	if out := c.kubectl("get", "nodes", "-o", "name"); out != "" {
		c.t.Errorf("there are nodes already: %s", out)
	}
	for _, n := range c.nodes {
		n.said("waiting until one is set")
		n.setClock(0)
	}
	for _, n := range c.nodes {
		c.kubectl("wait", "--for=create", "node/"+n.Name(), "--timeout=60s")
	}
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "node/gamma", "--timeout=60s")
}

// said waits until the log has a text.
func (n *node) said(text string) {
	n.t.Helper()
	n.eventually(time.Minute, fmt.Sprintf("%s has said %q", n.Name(), text), func() error {
		log, err := os.ReadFile(n.log)
		if err == nil && !strings.Contains(string(log), text) {
			err = errors.New("it has not")
		}
		return err
	})
}

// runPodWithToken runs a pod with a token of the shortest life that there is.
func (c *clocks) runPodWithToken(name string, on *node) {
	c.t.Helper()
	c.runWith(name, "busybox:stable", `[sleep, "3600"]`, "token, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 600}}]}", `
    livenessProbe: {exec: {command: [test, -s, /token/token]}, periodSeconds: 1}
    readinessProbe: {exec: {command: [test, -s, /token/token]}, initialDelaySeconds: 1, periodSeconds: 1}
  nodeName: `+on.Name())
}

// steady is which containers run in the pods that nobody touches, and how often they were started again.
func (c *clocks) steady() string {
	c.t.Helper()
	var all []string
	for _, n := range c.nodes {
		all = append(all, c.started("steady-"+n.Name()))
	}
	return strings.Join(all, "\n")
}

func (c *clocks) readySince() string {
	c.t.Helper()
	return c.kubectl("get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime} {end}`)
}

// renewsLease waits until a node has renewed its Lease by a clock that is ahead.
func (c *clocks) renewsLease(n *node, ahead time.Duration) {
	c.t.Helper()
	c.eventually(time.Minute, "the Lease is renewed by the new clock", func() error {
		text, err := c.try("get", "lease", "-n", "kube-node-lease", n.Name(), "-o", "jsonpath={.spec.renewTime}")
		if err != nil {
			return err
		}
		at, err := time.Parse(time.RFC3339, text)
		if off := time.Until(at) - ahead; err == nil && off.Abs() > 5*time.Minute {
			err = fmt.Errorf("it was renewed at %s", text)
		}
		return err
	})
}

const endsWhenTold = "while [ ! -e /scratch/end ]; do sleep 0.2; done; rm /scratch/end"

// works has a node do what nodes do: end pods, start and restart them, and reach into them.
func (c *clocks) works(n *node, restarts int) {
	c.t.Helper()
	ending, fresh := "ending-"+n.Name(), fmt.Sprintf("fresh-%d-%s", restarts, n.Name())
	c.eventually(time.Minute, "exec works", func() error {
		_, err := c.try("exec", "-n", "demo", ending, "--", "touch", "/scratch/end")
		return err
	})
	c.runPodWithToken(fresh, n)
	c.becomes(ending, ".status.containerStatuses[0].restartCount", fmt.Sprint(restarts))
	c.becomes(ending, `.status.conditions[?(@.type=="Ready")].status`, "True")
	c.becomes(fresh, `.status.conditions[?(@.type=="Ready")].status`, "True")
	c.hasGoodToken(fresh)
	c.kubectl("delete", "pod", "-n", "demo", fresh, "--wait=true", "--timeout=60s")
}

func (c *clocks) hasGoodToken(pod string) {
	c.t.Helper()
	token := c.kubectl("exec", "-n", "demo", pod, "--", "cat", "/token/token")
	review := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q}}`, token)
	if out, err := c.pipe(review, "create", "-f", "-", "-o", "jsonpath={.status.authenticated}"); err != nil || out != "true" {
		c.t.Errorf("the token of %s is good: %q, %v", pod, out, err)
	}
}

// restartsWrong restarts agents with clocks that are wrong, one so much that it takes no server's certificate.
func (c *clocks) restartsWrong(much, less *node) {
	c.t.Helper()
	for n, ahead := range map[*node]time.Duration{much: -2 * time.Hour, less: time.Hour} {
		c.end(n, syscall.SIGTERM)
		n.runAt(ahead, "agent")
	}
	much.said("the server's certificate is not valid at this machine's time")
	much.setClock(0)
	for _, n := range c.nodes {
		c.eventually(time.Minute, "exec works again", func() error {
			_, err := c.try("exec", "-n", "demo", "steady-"+n.Name(), "--", "true")
			return err
		})
	}
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "node/gamma", "--timeout=60s")
}
