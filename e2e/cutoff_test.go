// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// newServers makes hosts for three servers and an agent, and has them form one cluster.
func newServers(t *testing.T) *servers {
	t.Helper()
	network := testhost.NewCluster(t, 0)
	s := &servers{t: t, written: new(int), delta: newHostOn(t, network, "delta")}
	for _, name := range []string{"alpha", "beta", "gamma"} {
		s.all = append(s.all, newHostOn(t, network, name))
	}
	s.form()
	return s
}

// A server that no packet of the others reaches, and that goes on running, does no harm: it writes nothing, tells nothing that is not so any
// more, and has nobody act. Who talks to it goes to another one, and when the packets pass again it catches up by itself.
func TestServersCutOff(t *testing.T) {
	t.Parallel()
	s := newServers(t)
	alpha := s.all[0] // which leads all that can be led, and which the agent came by
	if leader := s.databaseLeader(); leader != alpha {
		t.Fatalf("%s leads the database", leader.Name())
	}
	t.Run("both ways", func(t *testing.T) { s.with(t).cutOff("alpha", "INPUT", "OUTPUT") })
	t.Run("only what comes in", func(t *testing.T) { s := s.with(t); s.cutOff(s.databaseLeader().Name(), "INPUT") })
}

// databaseLeader is the server whose etcd leads.
func (s *servers) databaseLeader() *node {
	s.t.Helper()
	var found *node
	s.all[0].eventually(time.Minute, "a server leads the database", func() error {
		out, err := s.all[0].Output(s.t.Context(), s.all[0].binary, "members", "list")
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) == 4 && fields[2] == "leader" {
				found = s.all[slices.IndexFunc(s.all, func(n *node) bool { return n.Name() == fields[0] })]
				return nil
			}
		}
		return errors.Join(err, errors.New(out))
	})
	return found
}

// cutOff drops the packets between a server and the others, of these chains, but not those of the agent.
func (s *servers) cutOff(name string, chains ...string) {
	s.t.Helper()
	victim := s.all[slices.IndexFunc(s.all, func(n *node) bool { return n.Name() == name })]
	others := slices.DeleteFunc(slices.Clone(s.all), func(n *node) bool { return n == victim })
	s.t.Logf("it is %s", name)
	s.write(victim, 2)
	ready := s.readySince("delta", others[0])
	said, err := os.ReadFile(victim.log)
	if err != nil {
		s.t.Fatal(err)
	}
	packets := func(change string) {
		for _, n := range others {
			for _, chain := range chains {
				which := map[string]string{"INPUT": "-s", "OUTPUT": "-d"}[chain]
				victim.inside("iptables", change, chain, which, n.IP().String(), "-j", "DROP")
			}
		}
	}
	packets("-I")
	began := time.Now()
	s.tellsNothingOld(victim, others[0])
	s.refusesWrites(victim)
	s.t.Logf("it refuses writes %s after the cut", time.Since(began))
	for _, n := range others {
		s.write(n, 2)
	}
	if leader := s.holder(others[0]); leader == victim {
		others[0].eventually(time.Minute, "another server's controllers act", func() error {
			if s.holder(others[0]) == victim {
				return errors.New("still those of " + name)
			}
			return nil
		})
	}
	s.act(others[0], "without-"+name)
	s.endpoints(others...)
	s.tellsNothingOld(victim, others[1])
	// The agent has not been missed, though its server was.
	time.Sleep(time.Until(began.Add(time.Minute)))
	if now := s.readySince("delta", others[0]); now != ready {
		s.t.Errorf("delta is Ready since %q, was since %q: it has been given up meanwhile", now, ready)
	}
	s.act(others[1], "still-without-"+name)
	packets("-D")
	victim.eventually(2*time.Minute, "it serves again", func() error { return serves(victim) })
	s.hasAll(victim)
	s.complete()
	s.write(victim, 2)
	s.act(victim, "with-"+name)
	others[0].kubectl("wait", "--for=condition=Ready", "node/gamma", "node/delta", "--timeout=90s")
	s.reachNodes(victim)
	log, err := os.ReadFile(victim.log)
	if err != nil {
		s.t.Fatal(err)
	}
	if now := string(log[len(said):]); !strings.Contains(now, "no majority: of 3 servers 2 must run and reach each other") && !strings.Contains(now, "waiting for other servers") {
		s.t.Errorf("%s has not said what is wrong:\n%s", name, tail([]byte(now), 4000))
	}
}

// readySince is since when a node is Ready, seen from a server; empty if it is not.
func (s *servers) readySince(name string, from *node) string {
	s.t.Helper()
	return from.kubectl("get", "node", name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}`)
}

// tellsNothingOld asks a server that is cut off for what is written elsewhere meanwhile. It may have no answer, but not an old one.
func (s *servers) tellsNothingOld(victim, other *node) {
	s.t.Helper()
	for range 5 {
		name := fmt.Sprintf("w%d", *s.written)
		s.write(other, 1)
		for _, args := range [][]string{
			{"get", "configmap", "-n", "demo", name},
			{"get", "configmaps", "-n", "demo", "-o", "name"},
		} {
			out, err := victim.try(append(args, "--request-timeout=3s")...)
			if err == nil && !strings.Contains(out, name) || err != nil && strings.Contains(err.Error(), "NotFound") {
				s.t.Errorf("%s does not know of %s, which was written before it was asked: %v\n%s", victim.Name(), name, err, out)
			}
		}
	}
}

// refusesWrites wants to be told that there is no majority.
func (s *servers) refusesWrites(victim *node) {
	s.t.Helper()
	victim.eventually(time.Minute, "it says why it writes nothing", func() error {
		_, err := victim.try("create", "configmap", "-n", "demo", "lost", "--request-timeout=30s")
		switch {
		case err == nil || strings.Contains(err.Error(), "AlreadyExists"):
			s.t.Fatal("it takes a write that the others have not")
		case strings.Contains(err.Error(), "no majority: of 3 servers 2 must run and reach each other"):
			return nil
		}
		return err
	})
}
