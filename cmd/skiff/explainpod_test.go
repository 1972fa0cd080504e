// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/skiff-k8s/skiff/scheduler"
)

func TestPrintExplanation(t *testing.T) {
	var many []scheduler.Verdict
	for i := range 8 {
		many = append(many, scheduler.Verdict{Node: fmt.Sprint("n", i), Objections: []scheduler.Objection{{Plugin: "A", Reason: "one", Help: "this"}}})
	}
	many = append(many, scheduler.Verdict{Node: "n8"})
	for _, test := range []struct {
		e    scheduler.Explanation
		want string
	}{
		{scheduler.Explanation{Namespace: "ns", Name: "p", Node: "n1"}, "Pod ns/p is on node n1.\n"},
		{scheduler.Explanation{Namespace: "ns", Name: "p", Scheduler: "mine"}, "Pod ns/p has no node. Scheduler \"mine\", which it asks for, has not looked at it: if there is none of that name, change spec.schedulerName.\n"},
		{scheduler.Explanation{
			Namespace: "ns", Name: "p", State: "gated", Whole: []scheduler.Objection{{Plugin: "SchedulingGates", Reason: "waiting for scheduling gates: [g]", Help: "remove the pod's spec.schedulingGates"}},
		}, `Pod ns/p has no node. It is held back and not tried.

Whatever the node:
  waiting for scheduling gates: [g] (SchedulingGates); to help: remove the pod's spec.schedulingGates
`},
		{scheduler.Explanation{
			Namespace: "ns", Name: "p", State: "unschedulable", Attempts: 2, Condition: "0/2 nodes are available.",
			Nodes: []scheduler.Verdict{
				{Node: "n1", Objections: []scheduler.Objection{{Plugin: "A", Reason: "one", Help: "this"}, {Plugin: "B", Reason: "two"}}},
				{Node: "n2"},
			},
		}, `Pod ns/p has no node. It was tried 2 times. It waits for a change in the cluster that may help.
The last attempt ended with: 0/2 nodes are available.

NODE  PLUGIN  REASON             WHAT WOULD HELP
n1    A       one                this
      B       two                
n2    -       the pod would fit  
`},
		{scheduler.Explanation{Namespace: "ns", Name: "p", State: "active"}, "Pod ns/p has no node. It is about to be tried.\n"},
		{scheduler.Explanation{Namespace: "ns", Name: "p", State: "ended"}, "Pod ns/p has no node. It has ended, so it is not tried.\n"},
		{scheduler.Explanation{Namespace: "ns", Name: "p", Node: "n1", NodeMissing: true}, "Pod ns/p is bound to node n1, and there is no such node.\n"},
		{scheduler.Explanation{
			Namespace: "ns", Name: "p", State: "unschedulable", Attempts: 1, Nominated: "n1", Nodes: []scheduler.Verdict{{Node: "n1", Objections: []scheduler.Objection{{Plugin: "A", Reason: "one"}}}},
			Preemption: &scheduler.Preemption{Node: "n1", Victims: []string{"ns/v"}, Leaving: true},
		}, `Pod ns/p has no node. It was tried once. It waits for a change in the cluster that may help.
Room is kept for it on node n1.

NODE  PLUGIN  REASON  WHAT WOULD HELP
n1    A       one     

It waits for these to be gone from n1: ns/v
`},
		{scheduler.Explanation{
			Namespace: "ns", Name: "p", State: "unschedulable", Attempts: 1, Nodes: []scheduler.Verdict{{Node: "n1", Objections: []scheduler.Objection{{Plugin: "A", Reason: "one"}}}},
			Preemption: &scheduler.Preemption{Reason: "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		}, `Pod ns/p has no node. It was tried once. It waits for a change in the cluster that may help.

NODE  PLUGIN  REASON  WHAT WOULD HELP
n1    A       one     

It cannot make room for itself: 1 No preemption victims found for incoming pod.
`},
		{scheduler.Explanation{Namespace: "ns", Name: "p", State: "elsewhere"}, "Pod ns/p has no node. The scheduler of another server looks after it.\n"},
		{scheduler.Explanation{Namespace: "ns", Name: "p", State: "deleted"}, "Pod ns/p has no node. It is being deleted, so it is not tried.\n"},
		{scheduler.Explanation{Namespace: "ns", Name: "p", State: "binding", Binding: "n1"}, "Pod ns/p has no node. It is going to be bound to node n1, once its volumes and devices are ready.\n"},
		{scheduler.Explanation{Namespace: "ns", Name: "p", State: "in flight", Nodes: many}, `Pod ns/p has no node. It is being tried just now.

NODE           PLUGIN  REASON             WHAT WOULD HELP
n0             A       one                this
n1             A       one                this
n2             A       one                this
n3             A       one                this
n4 and 3 more  A       one                this
n8             -       the pod would fit  
`},
	} {
		var out bytes.Buffer
		printExplanation(&out, &test.e)
		if out.String() != test.want {
			t.Errorf("%+v is shown as\n%s\nwant\n%s", test.e, out.String(), test.want)
		}
	}
}
