// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What people do to several servers: nothing that was acknowledged is lost by it, and the nodes hardly notice.
func TestServersMaintenance(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	t.Run("restart one after another", func(t *testing.T) { s.with(t).restartEach() })
	t.Run("simulated nodes are of one server", func(t *testing.T) { s.with(t).simulatedNodes() })
	t.Run("a server has another address", func(t *testing.T) { s.with(t).moves() })
	t.Run("all but one are gone for good", func(t *testing.T) { s.with(t).reset() })
}

// restart ends a server in good order and starts it as an upgrade does.
func (s *servers) restart(n *node, flags ...string) {
	s.t.Helper()
	end(n, syscall.SIGTERM)
	n.run("server", append(flagsOf(n), flags...)...)
	n.eventually(time.Minute, n.Name()+" serves again", func() error { return serves(n) })
}

// writing writes at whichever server takes it, until it is told to end. It returns what the longest pause was between two writes.
func (s *servers) writing() (end func() time.Duration) {
	var longest time.Duration
	var work sync.WaitGroup
	ended := make(chan struct{})
	work.Go(func() {
		last := time.Now()
		for try := 0; ; try++ {
			select {
			case <-ended:
				return
			default:
			}
			_, err := s.all[try%len(s.all)].try("create", "configmap", "-n", "demo", fmt.Sprintf("w%d", *s.written), "--from-literal=k=v", "--request-timeout=10s")
			if err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
				continue
			}
			*s.written++
			longest, last = max(longest, time.Since(last)), time.Now()
		}
	})
	return func() time.Duration {
		close(ended)
		work.Wait()
		return longest
	}
}

// restartEach restarts one server after another, as an upgrade does, while somebody writes.
func (s *servers) restartEach() {
	s.t.Helper()
	before := s.readySince("delta", s.all[0])
	first := *s.written
	end := s.writing()
	for _, n := range s.all {
		s.restart(n)
	}
	longest := end()
	s.t.Logf("%d writes, the longest pause was %s", *s.written-first, longest)
	if longest > 30*time.Second {
		s.t.Errorf("nothing could be written for %s", longest)
	}
	for _, n := range s.all {
		s.hasAll(n)
	}
	s.complete()
	if now := s.readySince("delta", s.all[0]); now != before {
		s.t.Errorf("delta is Ready since %q, was since %q", now, before)
	}
	s.act(s.all[0], "restarted")
}

// simulatedNodes are those of one of the servers that were told to have them, and of another one of these when it is away.
func (s *servers) simulatedNodes() {
	s.t.Helper()
	alpha, beta, gamma := s.all[0], s.all[1], s.all[2]
	for _, n := range []*node{alpha, beta} {
		s.restart(n, "--simulated-nodes=2")
	}
	holder := func(not string) (found *node) {
		s.t.Helper()
		gamma.eventually(2*time.Minute, "another server than "+not+" has the simulated nodes", func() error {
			id, err := gamma.try("get", "lease", "-n", "kube-system", "skiff-simulated-nodes", "-o", "jsonpath={.spec.holderIdentity}")
			name, _, _ := strings.Cut(id, "_")
			i := slices.IndexFunc(s.all, func(n *node) bool { return n.Name() == name })
			if err == nil && (i < 0 || name == not) {
				err = fmt.Errorf("it is %q", id)
			}
			if err == nil {
				found = s.all[i]
			}
			return err
		})
		return found
	}
	runs := func(pod string) (ip string) {
		s.t.Helper()
		manifest := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": "demo"}, "spec": {"nodeName": "simulated-0",
  "containers": [{"name": "c", "image": "none"}]}}`, pod)
		gamma.eventually(time.Minute, pod+" is made", func() error {
			_, err := gamma.pipe(manifest, "apply", "-f", "-")
			return err
		})
		gamma.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/"+pod, "--timeout=60s")
		return gamma.kubectl("get", "pod", "-n", "demo", pod, "-o", "jsonpath={.status.podIP}")
	}
	gamma.kubectl("wait", "--for=create", "node/simulated-0", "node/simulated-1", "--timeout=60s")
	first := holder("")
	if first == gamma {
		s.t.Error("gamma has the simulated nodes, which was not told to")
	}
	one := runs("one")
	end(first, syscall.SIGKILL)
	second := holder(first.Name())
	if two := runs("two"); second == gamma || one == two {
		s.t.Errorf("%s has the simulated nodes, and their pods the addresses %s and %s", second.Name(), one, two)
	}
	first.run("server", flagsOf(first)...)
	first.eventually(time.Minute, first.Name()+" serves again", func() error { return serves(first) })
	s.restart(second)
	s.complete()
	gamma.kubectl("delete", "pod", "-n", "demo", "one", "two", "--force", "--grace-period=0")
	gamma.kubectl("delete", "node", "simulated-0", "simulated-1")
	for _, name := range []string{"simulated-0", "simulated-1"} { // the DaemonSet's, which would stay for a minute
		gamma.kubectl("delete", "pod", "-n", "demo", "-l", "app=web", "--field-selector=spec.nodeName="+name, "--force", "--grace-period=0")
	}
}

// moves gives a server, which is a node too, another address. The others and the agent learn it.
func (s *servers) moves() {
	s.t.Helper()
	alpha, gamma := s.all[0], s.all[2]
	const address = "192.168.231.99"
	end(gamma, syscall.SIGTERM)
	s.write(alpha, 2)
	gamma.inside("sh", "-ec", "ip address delete "+gamma.IP().String()+"/24 dev eth0; ip address add "+address+"/24 dev eth0; ip route replace default via 192.168.231.1")
	gamma.run("server", "--node-ip="+address)
	gamma.eventually(time.Minute, "it serves at its new address", func() error {
		_, err := gamma.try("--server=https://"+address+":6443", "get", "--raw", "/readyz", "--request-timeout=5s")
		return err
	})
	s.write(gamma, 2)
	s.hasAll(gamma)
	s.complete(address)
	if out := alpha.inside(alpha.binary, "members", "list"); !strings.Contains(out, "https://"+address+":2380") || strings.Contains(out, gamma.IP().String()+":") {
		s.t.Errorf("the others know\n%s", out)
	}
	alpha.kubectl("wait", "--for=jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}="+address, "node/gamma", "--timeout=60s")
	alpha.kubectl("wait", "--for=condition=Ready", "node/gamma", "node/delta", "--timeout=90s")
	s.delta.eventually(time.Minute, "the agent knows the new address", func() error {
		out, err := s.delta.Output(s.t.Context(), "cat", "/var/lib/skiff/agent/node/servers.json")
		if err == nil && !strings.Contains(out, address) {
			err = errors.New(out)
		}
		return err
	})
	s.reachNodes(alpha, gamma)
}

// reset makes a cluster of the one server that is left. The others join it anew, and the agent has never left.
func (s *servers) reset() {
	s.t.Helper()
	alpha, beta, gamma := s.all[0], s.all[1], s.all[2]
	s.write(alpha, 2)
	for _, n := range []*node{gamma, beta} {
		end(n, syscall.SIGKILL)
	}
	end(alpha, syscall.SIGTERM)
	if out, err := alpha.Output(s.t.Context(), alpha.binary, "members", "reset", "--yes"); err != nil || !strings.Contains(out, "this server is the only one now") {
		s.t.Fatalf("members reset = %q, %v", out, err)
	}
	alpha.run("server", flagsOf(alpha)...)
	alpha.eventually(time.Minute, "it serves alone", func() error { return serves(alpha) })
	s.hasAll(alpha)
	s.write(alpha, 2)
	s.endpoints(alpha)
	alpha.kubectl("wait", "--for=condition=Ready", "node/delta", "--timeout=90s")
	s.act(alpha, "alone")
	beta.inside(beta.binary, "uninstall", "--yes")
	beta.run("server", append(flagsOf(beta), commandFlags(alpha, "server", "--server")...)...)
	beta.eventually(2*time.Minute, "beta has joined anew", func() error { return serves(beta) })
	s.hasAll(beta)
	s.endpoints(alpha, beta)
	s.act(beta, "two-again")
}
