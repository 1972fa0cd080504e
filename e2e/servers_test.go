// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// servers are three servers, of which the last is a node too, and a node that joined by the first.
type servers struct {
	t     *testing.T
	all   []*node // alpha, beta, gamma
	delta *node   // an agent

	written *int // how many ConfigMaps were acknowledged
}

func (s *servers) with(t *testing.T) *servers {
	clone := &servers{t: t, delta: s.delta.with(t), written: s.written}
	for _, n := range s.all {
		clone.all = append(clone.all, n.with(t))
	}
	return clone
}

// flagsOf are those of a server's later starts.
func flagsOf(n *node) []string {
	if n.Name() == "gamma" {
		return nil
	}
	return []string{"--no-node"}
}

// commandFlags are the flags of the command that skiff token create prints.
func commandFlags(n *node, what string, flags ...string) []string {
	n.t.Helper()
	command := strings.Fields(n.inside(n.binary, append([]string{"token", "create"}, flags...)...))
	if len(command) != 7 || !slices.Equal(command[:3], []string{"sudo", "skiff", what}) {
		n.t.Fatalf("token create = %q", command)
	}
	return command[3:]
}

// Three servers have one cluster. It goes on when one is killed, whichever it is, and nothing that was acknowledged is lost.
func TestServers(t *testing.T) {
	s := newServers(t)
	t.Run("every server reaches every node", func(t *testing.T) { s.with(t).reachNodes(s.all...) })
	for _, role := range []struct {
		name string
		of   func() *node
	}{
		{"the one that leads", s.leader},
		{"one that follows", s.follower},
		{"the one that the agent came by", func() *node { return s.all[0] }},
	} {
		t.Run("kill "+role.name, func(t *testing.T) { s.kill(t, role.of()) })
	}
	t.Run("no majority", func(t *testing.T) { s.with(t).noMajority() })
	t.Run("remove a server", func(t *testing.T) { s.with(t).remove() })
}

// form makes the cluster.
func (s *servers) form() {
	s.t.Helper()
	alpha := s.all[0]
	alpha.run("server", flagsOf(alpha)...)
	alpha.eventually(time.Minute, "the API is ready", func() error {
		_, err := alpha.try("get", "-n", "kube-public", "configmap/cluster-info")
		return err
	})
	if out := alpha.inside("ss", "-Hltn", "sport", "=", "2380"); out != "" {
		s.t.Errorf("a single server listens for others: %s", out)
	}
	if lease, err := alpha.try("get", "lease", "-n", "kube-system", "kube-scheduler"); err == nil {
		s.t.Errorf("a single server holds a Lease: %s", lease)
	}
	alpha.kubectl("create", "namespace", "demo")
	s.write(alpha, 3)
	agent := commandFlags(alpha, "agent")
	s.delta.run("agent", agent...)
	for _, n := range s.all[1:] {
		n.run("server", append(flagsOf(n), commandFlags(alpha, "server", "--server")...)...)
		n.eventually(2*time.Minute, n.Name()+" serves", func() error { return serves(n) })
	}
	s.complete()
	alpha.kubectl("wait", "--for=create", "node/gamma", "node/delta", "--timeout=60s")
	alpha.kubectl("wait", "--for=condition=Ready", "node/gamma", "node/delta", "--timeout=90s")
	manifest := `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web, namespace: demo}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: busybox:stable, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}]
`
	if out, err := alpha.pipe(manifest, "apply", "-f", "-"); err != nil {
		s.t.Fatal(out, err)
	}
	alpha.kubectl("rollout", "status", "-n", "demo", "daemonset/web", "--timeout=90s")
}

func serves(n *node) error {
	_, err := n.try("get", "--raw", "/readyz", "--request-timeout=5s")
	return err
}

// complete waits until all servers are members, and endpoints; gamma at another address, if it has one.
func (s *servers) complete(moved ...string) {
	s.t.Helper()
	for _, n := range s.all {
		n.eventually(time.Minute, "three members, seen from "+n.Name(), func() error {
			out, err := n.Output(s.t.Context(), n.binary, "members", "list")
			if err == nil && strings.Count(out, " member ") != 2 || !strings.Contains(out, " leader ") {
				err = errors.New(out)
			}
			return err
		})
	}
	want := addresses(s.all)
	copy(want[len(want)-len(moved):], moved)
	s.endpointsAre(want, s.all...)
}

func addresses(nodes []*node) (all []string) {
	for _, n := range nodes {
		all = append(all, n.IP().String())
	}
	return all
}

// endpoints waits until the API is where these servers are, and nowhere else.
func (s *servers) endpoints(living ...*node) {
	s.t.Helper()
	s.endpointsAre(addresses(living), living...)
}

func (s *servers) endpointsAre(want []string, living ...*node) {
	s.t.Helper()
	slices.Sort(want)
	for _, n := range living {
		n.eventually(time.Minute, "the endpoints are those that live, seen from "+n.Name(), func() error {
			out, err := n.try("get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}")
			got := strings.Fields(out)
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("they are %v, want %v", got, want)
			}
			return err
		})
	}
}

// write writes ConfigMaps. Those that are acknowledged must never be lost.
func (s *servers) write(at *node, count int) {
	s.t.Helper()
	for range count {
		name := fmt.Sprintf("w%d", *s.written)
		at.eventually(time.Minute, "a write at "+at.Name(), func() error {
			_, err := at.try("create", "configmap", "-n", "demo", name, "--from-literal=k=v", "--request-timeout=10s")
			if err != nil && strings.Contains(err.Error(), "AlreadyExists") { // it was written, and the answer was lost
				return nil
			}
			return err
		})
		*s.written++
	}
}

// hasAll tells whether a server has all that was acknowledged.
func (s *servers) hasAll(n *node) {
	s.t.Helper()
	names := strings.Fields(n.kubectl("get", "configmaps", "-n", "demo", "-o", "jsonpath={.items[*].metadata.name}"))
	for i := range *s.written {
		if !slices.Contains(names, fmt.Sprintf("w%d", i)) {
			s.t.Errorf("%s has lost w%d", n.Name(), i)
		}
	}
}

// holder is whose controllers act.
func (s *servers) holder(seenFrom *node) *node {
	s.t.Helper()
	var found *node
	seenFrom.eventually(time.Minute, "somebody leads", func() error {
		id, err := seenFrom.try("get", "lease", "-n", "kube-system", "kube-controller-manager", "-o", "jsonpath={.spec.holderIdentity}")
		i := slices.IndexFunc(s.all, func(n *node) bool { return strings.HasPrefix(id, n.Name()+"_") })
		if err == nil && i < 0 {
			err = fmt.Errorf("it is %q", id)
		}
		if err == nil {
			found = s.all[i]
		}
		return err
	})
	return found
}

func (s *servers) leader() *node { return s.holder(s.all[0]) }

func (s *servers) follower() *node {
	leader := s.leader()
	return s.all[1+slices.IndexFunc(s.all[1:], func(n *node) bool { return n != leader })] // not the first, which has its turn
}

// reachNodes executes something on each node by each of these servers.
func (s *servers) reachNodes(by ...*node) {
	s.t.Helper()
	for _, n := range by {
		for _, pod := range strings.Fields(n.kubectl("get", "pods", "-n", "demo", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}")) {
			n.eventually(time.Minute, "exec in "+pod+" by "+n.Name(), func() error {
				out, err := n.try("exec", "-n", "demo", pod, "--", "echo", "here")
				if err == nil && out != "here\n" {
					err = fmt.Errorf("it says %q", out)
				}
				return err
			})
		}
	}
}

// act has controllers and scheduler do something: a pod that comes to run on the node that is none of the servers.
func (s *servers) act(by *node, name string) {
	s.t.Helper()
	by.eventually(time.Minute, "a Deployment is made", func() error {
		_, err := by.pipe(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s, namespace: demo}
spec:
  selector: {matchLabels: {run: %[1]s}}
  template:
    metadata: {labels: {run: %[1]s}}
    spec:
      nodeSelector: {kubernetes.io/hostname: delta}
      terminationGracePeriodSeconds: 1
      containers: [{name: sleep, image: busybox:stable, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}]
`, name), "apply", "-f", "-")
		return err
	})
	by.kubectl("rollout", "status", "-n", "demo", "deployment/"+name, "--timeout=90s")
	by.kubectl("delete", "-n", "demo", "deployment", name)
}

// kill ends a server without a word. The others go on, and it does when it is back.
func (s *servers) kill(t *testing.T, victim *node) {
	s = s.with(t)
	victim = s.all[slices.IndexFunc(s.all, func(n *node) bool { return n.Name() == victim.Name() })]
	others := slices.DeleteFunc(slices.Clone(s.all), func(n *node) bool { return n == victim })
	t.Logf("it is %s", victim.Name())
	s.write(victim, 2)
	end(victim, syscall.SIGKILL)
	killed := time.Now()
	for _, n := range others {
		s.write(n, 3)
		t.Logf("%v after that %s has written", time.Since(killed).Round(100*time.Millisecond), n.Name())
	}
	for _, n := range others {
		s.hasAll(n)
	}
	s.act(others[0], "without-"+victim.Name())
	s.endpoints(others...)
	for _, n := range others { // only delta's for sure: the kubelet of gamma may be the one that is gone
		pod := n.kubectl("get", "pods", "-n", "demo", "-l", "app=web", "--field-selector=spec.nodeName=delta", "-o", "name")
		n.kubectl("exec", "-n", "demo", strings.TrimSpace(pod), "--", "true")
	}
	victim.run("server", flagsOf(victim)...)
	victim.eventually(time.Minute, "it serves again", func() error { return serves(victim) })
	s.hasAll(victim)
	s.complete()
	victim.kubectl("wait", "--for=condition=Ready", "node/gamma", "node/delta", "--timeout=90s")
	s.reachNodes(victim)
}

func end(n *node, sig syscall.Signal) { (&cluster{node: n}).end(n, sig) }

// noMajority kills two of three at once. The third says why it does not work, and nothing is lost.
func (s *servers) noMajority() {
	s.t.Helper()
	alpha := s.all[0]
	s.write(alpha, 2)
	for _, n := range s.all[1:] {
		end(n, syscall.SIGKILL)
	}
	alpha.eventually(time.Minute, "it says that there is no majority", func() error {
		out, err := alpha.try("get", "--raw", "/readyz?verbose", "--request-timeout=5s")
		if err == nil {
			return fmt.Errorf("it is ready: %s", out)
		}
		log, err := os.ReadFile(alpha.log)
		if err == nil && !strings.Contains(string(log), "no majority: of 3 servers 2 must run and reach each other") {
			err = errors.New("it has not said so yet")
		}
		return err
	})
	for _, n := range s.all[1:] {
		n.run("server", flagsOf(n)...)
	}
	for _, n := range s.all {
		n.eventually(2*time.Minute, n.Name()+" serves again", func() error { return serves(n) })
		s.hasAll(n)
	}
	s.complete()
	s.act(s.all[1], "again")
}

// remove takes the server out that leads the database. It ends, and says why it does not start; the others go on at once.
func (s *servers) remove() {
	s.t.Helper()
	removed := s.databaseLeader()
	others := slices.DeleteFunc(slices.Clone(s.all), func(n *node) bool { return n == removed })
	if out := others[0].inside(removed.binary, "members", "remove", removed.Name()); !strings.Contains(out, "removed server "+removed.Name()) {
		s.t.Errorf("it says %q", out)
	}
	began := time.Now()
	s.write(others[1], 1)
	if took := time.Since(began); took > 5*time.Second {
		s.t.Errorf("the others wrote nothing for %s", took)
	}
	removed.eventually(time.Minute, "it has ended", func() error {
		out, err := removed.Output(s.t.Context(), "ss", "-Hltn", "sport", "=", "6443")
		if err == nil && out != "" {
			err = errors.New("it listens")
		}
		return err
	})
	s.endpoints(others...)
	s.act(others[1], "two")
}
