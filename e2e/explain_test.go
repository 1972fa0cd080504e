// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The running scheduler says why a pod has no node and what would help; that done, the pod runs, and that is said, too.
func TestExplainPod(t *testing.T) {
	n := newNode(t)
	n.kubectl("run", "choosy", "--image=busybox:stable", "--image-pull-policy=IfNotPresent",
		`--overrides={"spec":{"nodeSelector":{"disk":"ssd"},"terminationGracePeriodSeconds":1}}`, "--", "sleep", "3600")
	explain := func(args string) string {
		return n.says(n.binary+" explain-pod", args)
	}
	n.eventually(time.Minute, "the scheduler has tried", func() error {
		if out := explain("choosy"); !strings.Contains(out, "NodeAffinity") {
			return fmt.Errorf("explain-pod said %q", out)
		}
		return nil
	})
	out := explain("choosy -n default")
	for _, want := range []string{"default/choosy", "alpha", "node(s) didn't match Pod's node affinity/selector", "kubectl label node alpha disk=ssd"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain-pod said %q; want %q in it", out, want)
		}
	}
	n.kubectl("label", "node", "alpha", "disk=ssd")
	n.kubectl("wait", "--for=condition=Ready", "pod/choosy", "--timeout=60s")
	if out := explain("choosy"); !strings.Contains(out, "Pod default/choosy is on node alpha.") {
		t.Errorf("of a pod that runs, explain-pod said %q", out)
	}
	if out := explain("none"); !strings.Contains(out, "none") || !strings.Contains(out, "not found") {
		t.Errorf("of a pod that is not there, explain-pod said %q", out)
	}
}
