// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Every plugin says what it has against a node, not only the first, and what would help.
func TestExplain(t *testing.T) {
	tainted := newNode("tainted", func(n *v1.Node) {
		n.Spec.Taints = []v1.Taint{{Key: "k", Value: "v", Effect: v1.TaintEffectNoSchedule}}
		n.Labels["disk"] = "ssd"
	})
	full := newNode("full", func(n *v1.Node) { n.Labels["disk"] = "ssd" })
	cordoned := newNode("cordoned", func(n *v1.Node) { n.Spec.Unschedulable = true; n.Labels["disk"] = "ssd" })
	inCluster(t, func(c *cluster) {
		c.create(newPod("other", cpu("3"), func(p *v1.Pod) { p.Spec.NodeName = "full" }))
		c.create(newPod("p", cpu("3500m"), func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
		c.wantNode("p", "")
		e := c.explain("p", http.StatusOK)
		want := map[string][]Objection{
			"cordoned": {{"NodeUnschedulable", "node(s) were unschedulable", "kubectl uncordon cordoned"}},
			"full":     {{"NodeResourcesFit", "Insufficient cpu", "request 1 instead of 3500m, or free 2500m"}},
			"plain":    {{"NodeAffinity", "node(s) didn't match Pod's node affinity/selector", "change the pod's nodeSelector, or kubectl label node plain disk=ssd"}, {"NodeResourcesFit", "Insufficient cpu", "request 2 instead of 3500m: the whole node has no more"}},
			"tainted":  {{"TaintToleration", "node(s) had untolerated taint(s)", "tolerate k=v:NoSchedule, or kubectl taint node tainted k:NoSchedule-"}},
		}
		if e.State != "unschedulable" || e.Attempts != 1 || e.Condition == "" || len(e.Nodes) != len(want) {
			t.Errorf("explanation is %+v", e)
		}
		for _, v := range e.Nodes {
			got, wanted := v.Objections, want[v.Node]
			if len(got) != len(wanted) {
				t.Errorf("node %s: %v, want %v", v.Node, got, wanted)
				continue
			}
			for i := range got {
				if got[i] != wanted[i] {
					t.Errorf("node %s: %+v, want %+v", v.Node, got[i], wanted[i])
				}
			}
		}
		c.create(newPod("gated", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}} }))
		if e := c.explain("gated", http.StatusOK); e.State != "gated" || len(e.Whole) != 1 || e.Whole[0].Plugin != "SchedulingGates" {
			t.Errorf("explanation of a gated pod is %+v", e)
		}
		if e := c.explain("other", http.StatusOK); e.Node != "full" {
			t.Errorf("explanation of a placed pod is %+v", e)
		}
		c.explain("none", http.StatusNotFound)
		if p := c.explain("p", http.StatusOK).Preemption; p == nil || p.Node != "" || !strings.Contains(p.Reason, "No preemption victims found") {
			t.Errorf("preemption for a pod of no priority is %+v", p)
		}
		c.create(newPod("never", cpu("3500m"), func(p *v1.Pod) {
			p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
			p.Spec.Priority, p.Spec.PreemptionPolicy = ptr.To[int32](10), ptr.To(v1.PreemptNever)
		}))
		if p := c.explain("never", http.StatusOK).Preemption; p == nil || p.Node != "" || p.Reason != "preemption: not eligible due to preemptionPolicy=Never." {
			t.Errorf("preemption for a pod that never preempts is %+v", p)
		}
	}, tainted, full, cordoned, newNode("plain", func(n *v1.Node) { n.Status.Allocatable = resources("2", "8Gi", "110") }))
}

// What would help names the pods, labels and taints that matter.
func TestHelp(t *testing.T) {
	web := []v1.PodAffinityTerm{{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	near := &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: web}}
	far := &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: web}}
	taints := func(taints ...v1.Taint) func(*v1.Node) { return func(n *v1.Node) { n.Spec.Taints = taints } }
	port := func(port int32, protocol v1.Protocol) v1.ContainerPort {
		return v1.ContainerPort{ContainerPort: 1, HostPort: port, Protocol: protocol}
	}
	here := func(change func(*v1.Pod)) *v1.Pod {
		return newPod("other", func(p *v1.Pod) { p.Spec.NodeName = "n1"; change(p) })
	}
	only := waitingClaim("only", "none")
	only.Spec.AccessModes, only.Spec.VolumeName = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}, "pv"
	only.Annotations = map[string]string{volume.AnnBindCompleted: "yes"}
	for want, test := range map[string]struct {
		node  func(*v1.Node)
		other *v1.Pod
		pod   func(*v1.Pod)
	}{
		"tolerate a=b:NoSchedule and c:NoExecute, or kubectl taint node n1 a:NoSchedule- c:NoExecute-": {
			node: taints(v1.Taint{Key: "a", Value: "b", Effect: v1.TaintEffectNoSchedule}, v1.Taint{Key: "c", Effect: v1.TaintEffectNoExecute}),
		},
		"tolerate node.kubernetes.io/not-ready:NoSchedule, or mend the node: kubectl describe node n1 tells what it suffers from": {
			node: taints(v1.Taint{Key: v1.TaintNodeNotReady, Effect: v1.TaintEffectNoSchedule}),
		},
		"tolerate node.kubernetes.io/unschedulable:NoSchedule, or kubectl uncordon n1": {
			node: taints(v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}),
		},
		"there has to be a pod with app=web where zone=a": {pod: func(p *v1.Pod) { p.Spec.Affinity = near }},
		"pod default/other is in the way: the pod does not want to be near it": {
			other: here(func(p *v1.Pod) { p.Labels = map[string]string{"app": "web"} }),
			pod:   func(p *v1.Pod) { p.Spec.Affinity = far },
		},
		"pod default/other is in the way: it does not want the pod near it": {
			other: here(func(p *v1.Pod) { p.Spec.Affinity = far }),
			pod:   func(p *v1.Pod) { p.Labels = map[string]string{"app": "web"} },
		},
		"label the node with the topologyKey rack": {pod: func(p *v1.Pod) {
			p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: v1.DoNotSchedule}}
		}},
		"the node has none: a device plugin there, or a DeviceClass, has to offer it": {
			pod: func(p *v1.Pod) {
				p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
			},
		},
		"free 3": {other: here(cpu("4")), pod: cpu("3")},
		"change the pod's node affinity, or the node's labels so that disk in (ssd) and zone notin (a), or rack": {pod: func(p *v1.Pod) {
			in, not := v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn
			p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
				{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "disk", Operator: in, Values: []string{"ssd"}}, {Key: "zone", Operator: not, Values: []string{"a"}}}},
				{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "rack", Operator: v1.NodeSelectorOpExists}}},
			}}}}
		}},
		"change the pod's nodeSelector, which wants disk=ssd and kubernetes.io/hostname=n2": {pod: func(p *v1.Pod) {
			p.Spec.NodeSelector = map[string]string{v1.LabelHostname: "n2", "disk": "ssd"}
		}},
		"port 80 of the node is taken by pod default/other: use another hostPort": {
			other: here(func(p *v1.Pod) { p.Spec.Containers[0].Ports = []v1.ContainerPort{port(80, v1.ProtocolTCP)} }),
			pod: func(p *v1.Pod) {
				p.Spec.Containers[0].Ports = []v1.ContainerPort{port(80, v1.ProtocolUDP), port(80, v1.ProtocolTCP)}
			},
		},
		"delete pod default/other, which uses the volume": {other: here(claim("only")), pod: claim("only")},
	} {
		node := newNode("n1", func(n *v1.Node) { n.Labels["zone"] = "a" })
		if test.node != nil {
			test.node(node)
		}
		inCluster(t, func(c *cluster) {
			if test.other != nil {
				c.create(test.other)
			}
			pod := newPod("p")
			if test.pod != nil {
				test.pod(pod)
			}
			c.create(pod)
			e := c.explain("p", http.StatusOK)
			if len(e.Nodes) != 1 || len(e.Nodes[0].Objections) != 1 || e.Nodes[0].Objections[0].Help != want {
				t.Errorf("explanation is %+v; want as help %q", e, want)
			}
		}, node, only.DeepCopy(), &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}})
	}
}

// A pod that ended before it got a node, and one on a node that is not there.
func TestExplainStrays(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("ended", func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }), newPod("lost", func(p *v1.Pod) { p.Spec.NodeName = "gone" }))
		if e := c.explain("ended", http.StatusOK); e.State != "ended" {
			t.Errorf("explanation of a pod that has ended is %+v", e)
		}
		if e := c.explain("lost", http.StatusOK); e.Node != "gone" || !e.NodeMissing {
			t.Errorf("explanation of a pod on a missing node is %+v", e)
		}
	}, newNode("n1"))
}

// A pod that waits for its volume, one that waits for a claim, one whose room is kept for another, and one that is being deleted.
func TestExplainWaiting(t *testing.T) {
	binding, objects := waiting("binding")
	inCluster(t, func(c *cluster) {
		c.create(binding)
		if e := c.explain("binding", http.StatusOK); e.State != "binding" || e.Binding != "n1" {
			t.Errorf("explanation of a pod that waits for its volume is %+v", e)
		}
		c.create(newPod("claimless", claim("none")))
		if e := c.explain("claimless", http.StatusOK); len(e.Whole) != 1 || e.Whole[0].Help != "create it" {
			t.Errorf("explanation of a pod without its claim is %+v", e)
		}
		c.create(newPod("kept", cpu("3"), priority(5), func(p *v1.Pod) {
			p.Status.NominatedNodeName = "n2"
			p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}}
		}))
		c.create(newPod("p", cpu("2")))
		e := c.explain("p", http.StatusOK)
		i := slices.IndexFunc(e.Nodes, func(v Verdict) bool { return v.Node == "n2" })
		if i < 0 || len(e.Nodes[i].Objections) != 1 || e.Nodes[i].Objections[0] != (Objection{"NodeResourcesFit", "Insufficient cpu", "wait: the node is kept for default/kept"}) {
			t.Errorf("explanation of a pod whose room is kept for another is %+v", e.Nodes)
		}
		c.create(newPod("leaving", cpu("9"), func(p *v1.Pod) {
			p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: time.Now()}, []string{"example.com/f"}
		}))
		if e := c.explain("leaving", http.StatusOK); e.State != "deleted" {
			t.Errorf("explanation of a pod that is being deleted is %+v", e)
		}
	}, append(objects, newNode("n1"), newNode("n2", func(n *v1.Node) { n.Status.Allocatable = resources("3500m", "8Gi", "110") }))...)
}

// The answer names the pods that would have to go, and they stay.
func TestExplainPreemption(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("victim", cpu("3"), func(p *v1.Pod) { p.Spec.NodeName = "n1" }))
		c.create(newPod("other", cpu("500m"), func(p *v1.Pod) { p.Spec.NodeName = "n1" }))
		pod := newPod("p", cpu("3"), func(p *v1.Pod) {
			p.Spec.Priority, p.Spec.SchedulingGates = ptr.To[int32](10), []v1.PodSchedulingGate{{Name: "g"}}
		})
		c.create(pod)
		// Without its gate the pod would preempt at once: so the question is asked before.
		ungated := pod.DeepCopy()
		ungated.Spec.SchedulingGates = nil
		e := &Explanation{}
		cycle := framework.NewCycle(c.scheduler.profileOf(pod), framework.NewPodInfo(ungated), c.scheduler.cache.Snapshot(), c.scheduler.queue.Nominated)
		if err := c.scheduler.explainNodes(c.Context(), e, cycle); err != nil {
			t.Fatal(err)
		}
		if p := e.Preemption; p == nil || p.Node != "n1" || len(p.Victims) != 1 || p.Victims[0] != "default/victim" {
			t.Errorf("preemption is %+v", p)
		}
		c.wantNode("victim", "n1")
	}, newNode("n1"))
}

// Once its victims are on their way out, the pod waits for them; and who comes after it does not get their room.
func TestExplainPreempting(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("victim", cpu("3"), func(p *v1.Pod) {
			p.Spec.NodeName, p.Finalizers = "n1", []string{"example.com/f"}
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}))
		c.create(newPod("p", cpu("3"), priority(10), func(p *v1.Pod) {
			p.Status.NominatedNodeName = "n1"
			p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}}
		}))
		pod := c.pod("p").DeepCopy()
		pod.Spec.SchedulingGates = nil
		e := &Explanation{Nominated: "n1"}
		cycle := framework.NewCycle(c.scheduler.profileOf(pod), framework.NewPodInfo(pod), c.scheduler.cache.Snapshot(), c.scheduler.queue.Nominated)
		if err := c.scheduler.explainNodes(c.Context(), e, cycle); err != nil {
			t.Fatal(err)
		}
		if p := e.Preemption; p == nil || !p.Leaving || p.Node != "n1" || len(p.Victims) != 1 || p.Victims[0] != "default/victim" {
			t.Errorf("preemption is %+v", p)
		}
		c.create(newPod("late", cpu("2")))
		e = c.explain("late", http.StatusOK)
		if len(e.Nodes) != 1 || len(e.Nodes[0].Objections) != 1 || e.Nodes[0].Objections[0].Help != "request 1 instead of 2, or free 1; besides, room is kept there for default/p" {
			t.Errorf("explanation of who comes later is %+v", e.Nodes)
		}
	}, newNode("n1"))
}

func (c *cluster) explain(name string, code int) *Explanation {
	c.Helper()
	w := httptest.NewRecorder()
	c.scheduler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, ExplainPath+"default/"+name, nil).WithContext(c.Context()))
	if w.Code != code {
		c.Fatalf("GET of %s answers %d: %s", name, w.Code, w.Body)
	}
	e := &Explanation{}
	if code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), e); err != nil {
			c.Fatal(err)
		}
	}
	return e
}
