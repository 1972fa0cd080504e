// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// makeGroup makes a cgroup in every hierarchy, with all that the kubelet limits. $1 is the host's own, below which it is.
const makeGroup = `
cd /sys/fs/cgroup
if [ -e cgroup.controllers ]; then
	for c in $(cat .$1/cgroup.controllers); do echo +$c > .$1/cgroup.subtree_control; done
	mkdir .$1/daemons
else
	for d in *; do mkdir ./$d$1/daemons; done
fi`

// A group of the operator is limited to what is reserved for it; without the group no node starts.
func TestReservedGroup(t *testing.T) {
	t.Parallel()
	n := newHost(t)
	group := n.CgroupRoot() + "/daemons"
	config := kubeletConfig + fmt.Sprintf("enforceNodeAllocatable: [pods, kube-reserved]\nkubeReservedCgroup: %s\nkubeReserved: {cpu: 250m, memory: 64Mi, pid: \"500\"}\n", group)
	if err := os.WriteFile(n.Path(kubeletFile), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	n.run("server")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := n.server.process.Wait(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("without the group the server ends with %v", err)
	}
	log, err := os.ReadFile(n.log)
	if want := fmt.Sprintf("Failed to enforce Kube Reserved Cgroup Limits on %q", group); err != nil || !strings.Contains(string(log), want) {
		t.Fatalf("without the group the server says\n%s\n(%v), want %s", tail(log, 4000), err, want)
	}
	n.inside("sh", "-c", makeGroup, "sh", n.CgroupRoot())
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	limits := []struct{ file, want string }{{"cpu.weight", "35"}, {"memory.max", "67108864"}, {"memory.min", "67108864"}, {"pids.max", "500"}}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		limits = []struct{ file, want string }{{"cpu.shares", "256"}, {"memory.limit_in_bytes", "67108864"}, {"pids.max", "500"}}
	}
	for _, limit := range limits {
		got := n.inside("sh", "-c", `cat /sys/fs/cgroup$1 2>/dev/null || cat /sys/fs/cgroup/${2%%.*}$1`, "sh", group+"/"+limit.file, limit.file)
		if strings.TrimSpace(got) != limit.want {
			t.Errorf("%s of the group is %q, want %s", limit.file, got, limit.want)
		}
	}
	n.eventually(30*time.Second, "an event tells of it", func() error {
		events, err := n.try("get", "events", "-o", "jsonpath={.items[?(@.reason=='NodeAllocatableEnforced')].message}")
		if err == nil && !strings.Contains(events, "Updated limits on kube reserved cgroup "+group) {
			err = fmt.Errorf("the events say %q", events)
		}
		return err
	})
}
