// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newSet(changes ...func(*appsv1.DaemonSetSpec)) *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent", UID: "set"},
		Spec: appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
			Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(1))},
		}},
	}
	for _, change := range changes {
		change(&set.Spec)
	}
	return set
}

func limits(unavailable, surge string) func(*appsv1.DaemonSetSpec) {
	return func(s *appsv1.DaemonSetSpec) {
		s.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.Parse(unavailable))
		s.UpdateStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.Parse(surge))
	}
}

func newNode(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Spec: corev1.NodeSpec{Taints: taints}}
}

// stateFor returns the state for nodes a, b, ... and pods as described: "a new ready, a old, b failed". A pod is named by
// its node and its place in the description: a0, a1, b2; the first is the oldest.
func stateFor(set *appsv1.DaemonSet, nodes, description string) *state {
	c := &controller{events: record.NewFakeRecorder(100), backoff: flowcontrol.NewBackOff(firstDelay, maxDelay)}
	var nodeList []*corev1.Node
	for _, name := range strings.Fields(nodes) {
		node := newNode(strings.TrimSuffix(name, "!"))
		if strings.HasSuffix(name, "!") {
			node.Spec.Taints = []corev1.Taint{{Key: "keep", Value: "out", Effect: corev1.TaintEffectNoSchedule}}
		}
		nodeList = append(nodeList, node)
	}
	var pods []*corev1.Pod
	for i, part := range strings.Split(description, ", ") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		has := func(word string) bool { return slices.Contains(words, word) }
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(words[0], i), Labels: map[string]string{hashLabel: "old"}, CreationTimestamp: metav1.Time{Time: now.Add(time.Duration(i-100) * time.Second)}},
			Spec:       corev1.PodSpec{NodeName: words[0]},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning},
		}
		switch {
		case has("failed"):
			pod.Status.Phase = corev1.PodFailed
		case has("succeeded"):
			pod.Status.Phase = corev1.PodSucceeded
		case has("ready"):
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-time.Minute)}}}
		}
		if has("new") {
			pod.Labels[hashLabel] = "new"
		}
		if has("terminating") {
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		}
		if has("unbound") {
			pod.Spec.Affinity, pod.Spec.NodeName = onlyOn(nil, words[0]), ""
		}
		pods = append(pods, pod)
	}
	s := c.stateOf(set, nodeList, pods, now)
	s.hash = "new"
	return s
}

// String is "+node" for what is created and "-pod" for what is deleted.
func (p plan) String() string {
	var words []string
	for _, node := range p.create {
		words = append(words, "+"+node)
	}
	for _, pod := range p.delete {
		words = append(words, "-"+pod.Name)
	}
	return strings.Join(words, " ")
}

func TestManage(t *testing.T) {
	surging := newSet(limits("0", "1"))
	for _, tc := range []struct {
		name  string
		set   *appsv1.DaemonSet
		nodes string
		pods  string
		want  string
	}{
		{"one for each node", newSet(), "a b", "b old", "+a"},
		{"not where it is not wanted", newSet(), "a!", "", ""},
		{"but it may stay there", newSet(), "a!", "a old ready", ""},
		{"one is enough", newSet(), "a", "a old, a new ready", "-a1"},
		{"one that waits is for its node", newSet(), "a", "a new unbound", ""},
		{"one that waits for a node that is gone", newSet(), "a", "a new, b new unbound, c new", "-b1"},
		{"one that is bound comes first", newSet(), "a", "a old unbound, a new", "-a0"},
		{"failed", newSet(), "a b", "a failed, b new", "-a0"},
		{"succeeded", newSet(), "a", "a succeeded", "-a0"},
		{"wait for one that ends", newSet(), "a", "a old terminating", ""},
		{"but not for one that has ended", newSet(), "a", "a failed terminating", "+a"},
		{"surge: do not wait for one that ends", surging, "a", "a old terminating", "+a"},
		{"surge: both run", surging, "a", "a old ready, a new", ""},
		{"surge: the new one serves", surging, "a", "a old ready, a new ready", "-a0"},
		{"surge: the old one does not", surging, "a", "a old, a new", "-a0"},
		{"surge: three are too many", surging, "a", "a old ready, a new, a old ready", "-a2"},
	} {
		if got := stateFor(tc.set, tc.nodes, tc.pods).manage().String(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// A pod that fails again and again is replaced later and later.
func TestFailedPodsAreReplacedLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stateFor(newSet(), "a", "a failed")
		for i, step := range []struct {
			wait time.Duration
			want string
		}{{0, "-a0"}, {900 * time.Millisecond, ""}, {200 * time.Millisecond, "-a0"}, {1900 * time.Millisecond, ""}, {200 * time.Millisecond, "-a0"}} {
			time.Sleep(step.wait)
			s.now = time.Now()
			if got := s.manage().String(); got != step.want {
				t.Errorf("step %d: %q, want %q", i, got, step.want)
			}
		}
		if s.again == 0 {
			t.Error("it is not looked at again")
		}
	})
}

func TestUpdate(t *testing.T) {
	for _, tc := range []struct {
		name  string
		set   *appsv1.DaemonSet
		nodes string
		pods  string
		want  string
	}{
		{"one at a time", newSet(), "a b c", "a old ready, b old ready, c old ready", "-a0"},
		{"wait for the new one", newSet(), "a b c", "a new, b old ready, c old ready", ""},
		{"wait for a missing one", newSet(), "a b c", "b old ready, c old ready", ""},
		{"the next", newSet(), "a b c", "a new ready, b old ready, c old ready", "-b1"},
		{"those that do not serve go at once", newSet(), "a b c", "a old, b old, c old ready", "-a0 -b1"},
		{"half of them", newSet(limits("50%", "0")), "a b c", "a old ready, b old ready, c old ready", "-a0 -b1"},
		{"at least one", newSet(limits("0", "0")), "a b", "a old ready, b old ready", "-a0"},
		{"a share of no nodes is none", newSet(limits("10%", "0")), "a!", "a old ready", ""},
		{"all done", newSet(), "a b", "a new ready, b new ready", ""},
		{"surge: one at a time", newSet(limits("0", "1")), "a b c", "a old ready, b old ready, c old ready", "+a"},
		{"surge: half of them", newSet(limits("0", "50%")), "a b c", "a old ready, b old ready, c old ready", "+a +b"},
		{"surge: wait for the new one", newSet(limits("0", "1")), "a b", "a old ready, a new, b old ready", ""},
		{"surge: the new one serves", newSet(limits("0", "1")), "a b", "a old ready, a new ready, b old ready", "+b -a0"},
		{"surge: where none serves, at once", newSet(limits("0", "1")), "a b c", "a old, b old, c old ready", "+a +b +c"},
		{"surge: a node that is not wanted, in time", newSet(limits("0", "1")), "a! b", "a old ready, b new", ""},
		{"surge: a node that is not wanted", newSet(limits("0", "1")), "a! b", "a old ready, b new ready", "-a0"},
		{"surge: a node that is not wanted, nor serves", newSet(limits("0", "1")), "a! b", "a old, b new", "-a0"},
	} {
		got, err := stateFor(tc.set, tc.nodes, tc.pods).update()
		if err != nil || got.String() != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestStatus(t *testing.T) {
	s := stateFor(newSet(), "a b c d! e", "a new ready, a old, b old ready, c new, d old ready").newStatus()
	want := appsv1.DaemonSetStatus{
		DesiredNumberScheduled: 4, CurrentNumberScheduled: 3, NumberMisscheduled: 1,
		NumberReady: 2, NumberAvailable: 2, NumberUnavailable: 2, UpdatedNumberScheduled: 2,
	}
	if fmt.Sprint(s) != fmt.Sprint(want) {
		t.Errorf("status is %+v, want %+v", s, want)
	}
}

func TestPlacement(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) corev1.Taint {
		return corev1.Taint{Key: key, Effect: effect}
	}
	hostNetwork := func(s *appsv1.DaemonSetSpec) { s.Template.Spec.HostNetwork = true }
	for _, tc := range []struct {
		name      string
		set       *appsv1.DaemonSet
		node      *corev1.Node
		run, stay bool
	}{
		{"any", newSet(), newNode("a"), true, true},
		{"that node", newSet(func(s *appsv1.DaemonSetSpec) { s.Template.Spec.NodeName = "a" }), newNode("a"), true, true},
		{"other node", newSet(func(s *appsv1.DaemonSetSpec) { s.Template.Spec.NodeName = "b" }), newNode("a"), false, false},
		{"other label", newSet(func(s *appsv1.DaemonSetSpec) { s.Template.Spec.NodeSelector = map[string]string{"name": "b"} }), newNode("a"), false, false},
		{"other by affinity", newSet(func(s *appsv1.DaemonSetSpec) { s.Template.Spec.Affinity = onlyOn(nil, "b") }), newNode("a"), false, false},
		{"NoSchedule", newSet(), newNode("a", taint("x", "NoSchedule")), false, true},
		{"NoExecute", newSet(), newNode("a", taint("x", "NoExecute")), false, false},
		{"PreferNoSchedule", newSet(), newNode("a", taint("x", "PreferNoSchedule")), true, true},
		{"unschedulable", newSet(), newNode("a", taint(corev1.TaintNodeUnschedulable, "NoSchedule")), true, true},
		{"not ready", newSet(), newNode("a", taint(corev1.TaintNodeNotReady, "NoExecute")), true, true},
		{"not ready yet", newSet(), newNode("a", taint(corev1.TaintNodeNotReady, "NoSchedule")), false, true},
		{"no network", newSet(), newNode("a", taint(corev1.TaintNodeNetworkUnavailable, "NoSchedule")), false, true},
		{"needs no network", newSet(hostNetwork), newNode("a", taint(corev1.TaintNodeNetworkUnavailable, "NoSchedule")), true, true},
	} {
		if run, stay := newPlacement(tc.set).on(tc.node); run != tc.run || stay != tc.stay {
			t.Errorf("%s: run %t, stay %t; want %t, %t", tc.name, run, stay, tc.run, tc.stay)
		}
	}
}

func TestTolerations(t *testing.T) {
	mine := []corev1.Toleration{
		{Key: "mine", Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](5)},
	}
	got := tolerations(&corev1.PodSpec{Tolerations: mine})
	if len(got) != 7 || got[0].Key != "mine" || got[1].TolerationSeconds != nil || mine[1].TolerationSeconds == nil {
		t.Errorf("tolerations are %+v", got)
	}
}

func TestNewPod(t *testing.T) {
	set := newSet(func(s *appsv1.DaemonSetSpec) { s.Template.Spec.Affinity = onlyOn(nil, "somewhere") })
	set.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "3"}
	pod := stateFor(set, "", "").newPod("a")
	if nodeOf(pod) != "a" || pod.Labels[hashLabel] != "new" || pod.Labels[templateGenerationLabel] != "3" || pod.GenerateName != "agent-" || !metav1.IsControlledBy(pod, set) {
		t.Errorf("pod is %+v", pod)
	}
	if nodeOf(&corev1.Pod{Spec: set.Spec.Template.Spec}) != "somewhere" {
		t.Error("the template was changed")
	}
}

func TestSurplusRevisions(t *testing.T) {
	s := stateFor(newSet(func(s *appsv1.DaemonSetSpec) { s.RevisionHistoryLimit = ptr.To[int32](1) }), "a", "a old ready")
	for i, hash := range []string{"1", "old", "2", "3"} {
		s.old = append(s.old, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: hash, Labels: map[string]string{hashLabel: hash}}, Revision: int64(i)})
	}
	got := s.surplusRevisions()
	if len(got) != 3 || got[0].Name != "1" || got[1].Name != "2" || got[2].Name != "3" {
		t.Errorf("surplus are %v", got)
	}
}

// A revision without an owner that somebody puts there is the DaemonSet's as soon as it is seen.
func TestAdoptsRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		labels := map[string]string{"app": "agent"}
		set := newSet(func(s *appsv1.DaemonSetSpec) {
			s.Selector = &metav1.LabelSelector{MatchLabels: labels}
			s.Template.Labels = labels
		})
		cluster := controllertest.New(t, set)
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Daemons)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Run(c)
		time.Sleep(time.Second)
		revisions := cluster.AppsV1().ControllerRevisions("ns")
		orphan := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "kept", Namespace: "ns", Labels: map[string]string{"app": "agent", hashLabel: "kept"}}, Revision: 1}
		if _, err := revisions.Create(t.Context(), orphan, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		adopted, err := revisions.Get(t.Context(), "kept", metav1.GetOptions{})
		if err != nil || !metav1.IsControlledBy(adopted, set) {
			t.Errorf("the revision is %+v, %v; want it owned by the DaemonSet", adopted, err)
		}
	})
}
