// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skiff-k8s/skiff/testhost"
)

// A host that is gone leaves nothing; a process that is still in its namespaces, a mount or a cgroup is named.
func TestRemains(t *testing.T) {
	before, err := look()
	if err != nil {
		t.Fatal(err)
	}
	h := testhost.New(t, testhost.Options{Name: "alpha"})
	inside, cgroup := namespacesOf(h), h.CgroupRoot()
	if len(inside) < 5 {
		t.Errorf("namespaces of a host: %v, want five of its own", inside)
	}
	said := remains(before, inside, cgroup)
	for _, want := range []string{"process ", "cgroup /sys/fs/cgroup/"} {
		if said == nil || !strings.Contains(said.Error(), want) {
			t.Errorf("while a host is there, what remains is %v, want a line with %q", said, want)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := remains(before, inside, cgroup); err != nil {
		t.Error(err)
	}
}

// A mount on the machine itself is named.
func TestRemainsNamesMounts(t *testing.T) {
	before, err := look()
	if err != nil {
		t.Fatal(err)
	}
	without := slices.DeleteFunc(slices.Clone(before), func(line string) bool { return line == "mount /proc" })
	if err := remains(without, nil, "/none"); err == nil || !strings.Contains(err.Error(), "mount /proc") {
		t.Errorf("with one more mount than before, what remains is %v", err)
	}
}

// Rules count, and chains that somebody made; counters and what every table has do not.
func TestRules(t *testing.T) {
	saved := "# a comment\n*nat\n:PREROUTING ACCEPT [5:300]\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
	if got, want := rules(saved), []string{"iptables :KUBE-SERVICES -", "iptables -A PREROUTING -j KUBE-SERVICES"}; !slices.Equal(got, want) {
		t.Errorf("rules = %q, want %q", got, want)
	}
}

// A process of this machine that joined a host's network is found after the host's end.
func TestRemainsFindsStrays(t *testing.T) {
	h := testhost.New(t, testhost.Options{Name: "alpha"})
	before, err := look()
	if err != nil {
		t.Fatal(err)
	}
	inside, cgroup := namespacesOf(h), h.CgroupRoot()
	var stray *exec.Cmd
	err = h.Do(func() error { // in the network, and in nothing else of the host
		stray = exec.Command("sleep", "60")
		stray.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return stray.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { stray.Process.Kill(); stray.Wait() }()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := remains(before, inside, cgroup); err == nil || !strings.Contains(err.Error(), "sleep") {
		t.Errorf("with a stray process, what remains is %v", err)
	}
}
