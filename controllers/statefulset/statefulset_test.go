// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/history"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/registry/podspec"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newSet(replicas int32, changes ...func(*appsv1.StatefulSetSpec)) *appsv1.StatefulSet {
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "set"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "dbs", RevisionHistoryLimit: ptr.To[int32](1),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
		},
	}
	for _, change := range changes {
		change(&set.Spec)
	}
	return set
}

func parallel(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = appsv1.ParallelPodManagement }

func partition(n int32) func(*appsv1.StatefulSetSpec) {
	return func(s *appsv1.StatefulSetSpec) { s.UpdateStrategy.RollingUpdate.Partition = &n }
}

func maxUnavailable(value string) func(*appsv1.StatefulSetSpec) {
	return func(s *appsv1.StatefulSetSpec) {
		s.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.Parse(value))
	}
}

func startAt(n int32) func(*appsv1.StatefulSetSpec) {
	return func(s *appsv1.StatefulSetSpec) { s.Ordinals = &appsv1.StatefulSetOrdinals{Start: n} }
}

// rolloutOf returns a rollout from revision "old" to "new" with pods as described: "0 old ready, 1 new".
func rolloutOf(set *appsv1.StatefulSet, description string) *rollout {
	r := &rollout{
		set: set, now: now,
		current: &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "old"}},
		update:  &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "new"}},
	}
	for part := range strings.SplitSeq(description, ", ") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-" + words[0], UID: types.UID("pod-" + words[0]), Labels: map[string]string{appsv1.StatefulSetRevisionLabel: words[1]}}}
		pod.Status.Phase = corev1.PodRunning
		if slices.Contains(words, "ready") {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-time.Minute)}}}
		}
		if slices.Contains(words, "terminating") {
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		}
		r.pods = append(r.pods, pod)
	}
	r.count(0)
	r.sort(&corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"from": "current"}}})
	return r
}

func names(pods []*corev1.Pod) string {
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	return strings.Join(names, " ")
}

func TestParseName(t *testing.T) {
	for name, want := range map[string]string{
		"db-0": "db 0", "my-db-12": "my-db 12", "db": " -1", "db-": " -1", "db-x": " -1", "db-1x": " -1", "db-99999999999": " -1", "db-+1": " -1",
	} {
		set, ordinal := parseName(name)
		if got := fmt.Sprintf("%s %d", set, ordinal); got != want {
			t.Errorf("parseName(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestSort(t *testing.T) {
	r := rolloutOf(newSet(3, startAt(2), partition(1)), "1 old ready, 3 new, 7 new ready, 6 new")
	if got := names(r.replicas); got != "db-2 db-3 db-4" {
		t.Errorf("replicas are %s", got)
	}
	if got := names(r.condemned); got != "db-7 db-6 db-1" {
		t.Errorf("condemned are %s", got)
	}
	if r.firstUnwell.Name != "db-2" {
		t.Errorf("the first pod that is not well is %s", r.firstUnwell.Name)
	}
	// The partition holds db-2 back; db-4 is made from the new template.
	if behind, ahead := r.replicas[0], r.replicas[2]; revisionOf(behind) != "old" || behind.Annotations["from"] != "current" || revisionOf(ahead) != "new" {
		t.Errorf("db-2 is at %s, db-4 at %s", revisionOf(behind), revisionOf(ahead))
	}
	pod := r.replicas[2]
	if pod.Spec.Hostname != "db-4" || pod.Spec.Subdomain != "dbs" || pod.Labels[appsv1.PodIndexLabel] != "4" || pod.Labels[appsv1.StatefulSetPodNameLabel] != "db-4" ||
		pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-db-4" {
		t.Errorf("db-4 is %+v", pod)
	}
	if s := r.status; s.Replicas != 4 || s.ReadyReplicas != 2 || s.CurrentReplicas != 1 || s.UpdatedReplicas != 3 {
		t.Errorf("status is %+v", s)
	}
}

func TestToUpdate(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  *appsv1.StatefulSet
		pods string
		want string
	}{
		{"highest first", newSet(3), "0 old ready, 1 old ready, 2 old ready", "db-2"},
		{"next", newSet(3), "0 old ready, 1 old ready, 2 new ready", "db-1"},
		{"waits for the last", newSet(3), "0 old ready, 1 old ready, 2 new", ""},
		{"waits for one that ends", newSet(3), "0 old ready, 1 old ready, 2 old ready terminating", ""},
		{"waits for one that is missing", newSet(3), "0 old ready, 1 old ready", ""},
		{"partition", newSet(3, partition(2)), "0 old ready, 1 old ready, 2 new ready", ""},
		{"all done", newSet(2), "0 new ready, 1 new ready", ""},
		{"partition beyond the last", newSet(2, partition(9)), "0 old ready, 1 old ready", ""},
		{"start ordinal", newSet(2, startAt(5)), "5 old ready, 6 old ready", "db-6"},
		{"two at once", newSet(4, maxUnavailable("2")), "0 old ready, 1 old ready, 2 old ready, 3 old ready", "db-3 db-2"},
		{"half at once", newSet(4, maxUnavailable("50%")), "0 old ready, 1 old ready, 2 old ready, 3 new", "db-2"},
		{"at least one at once", newSet(4, maxUnavailable("1%")), "0 old ready, 1 old ready, 2 old ready, 3 old ready", "db-3"},
		{"parallel: those that do not serve go at once", newSet(4, parallel), "0 old, 1 old, 2 old ready, 3 old ready", "db-1 db-0"},
		{"parallel: and some of the others", newSet(4, parallel, maxUnavailable("3")), "0 old, 1 old ready, 2 old ready, 3 old ready", "db-0 db-3 db-2"},
		{"parallel: but not below the partition", newSet(4, parallel, partition(1)), "0 old, 1 old ready, 2 old ready, 3 old ready", ""},
	} {
		pods, err := rolloutOf(tc.set, tc.pods).toUpdate()
		if got := names(pods); got != tc.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestClaimOwners(t *testing.T) {
	const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	set := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "set", Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)}
	pod := metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "db-1", UID: "pod-1", Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)}
	other := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "other"}
	boss := other
	boss.Controller = ptr.To(true)
	weak := set
	weak.Controller = nil
	oldSet, oldPod := set, pod
	oldSet.UID, oldPod.UID = "another", "another"
	refs := func(refs ...metav1.OwnerReference) []metav1.OwnerReference { return refs }
	for _, tc := range []struct {
		name            string
		scaled, deleted appsv1.PersistentVolumeClaimRetentionPolicyType
		replicas        int32
		have, want      []metav1.OwnerReference
		changed         bool
	}{
		{"retain", retain, retain, 2, nil, nil, false},
		{"retain now", retain, retain, 2, refs(set, other), refs(other), true},
		{"with the set", retain, remove, 2, refs(other), refs(other, set), true},
		{"with the set, still", retain, remove, 2, refs(set), refs(set), false},
		{"with the set, by a weak reference", retain, remove, 2, refs(weak), refs(set), true},
		{"with the set, though scaled", retain, remove, 1, refs(set), refs(set), false},
		{"with the pod, but wanted", remove, retain, 2, nil, nil, false},
		{"with the pod", remove, retain, 1, nil, refs(pod), true},
		{"wanted again", remove, retain, 2, refs(pod), nil, true},
		{"with both, wanted", remove, remove, 2, nil, refs(set), true},
		{"with both, scaled", remove, remove, 1, refs(set), refs(pod), true},
		{"somebody else's", remove, remove, 2, refs(boss), refs(boss), false},
		{"somebody else's now", remove, remove, 2, refs(boss, set), refs(boss), true},
		{"an earlier set's", retain, remove, 2, refs(oldSet), refs(oldSet), false},
		{"an earlier pod's", remove, remove, 2, refs(oldPod), refs(oldPod), false},
	} {
		s := newSet(tc.replicas)
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: tc.scaled, WhenDeleted: tc.deleted}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", UID: "pod-1"}}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: tc.have}}
		got, changed := claimOwners(claim, s, p)
		if changed != tc.changed || !apiequality.Semantic.DeepEqual(got, tc.want) {
			t.Errorf("%s: %v (changed: %t), want %v", tc.name, got, changed, tc.want)
		}
	}
}

func TestSurplusRevisions(t *testing.T) {
	var revisions []*appsv1.ControllerRevision
	for _, name := range []string{"a", "b", "used", "c", "old", "new"} {
		revisions = append(revisions, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	got := rolloutOf(newSet(1), "0 used ready").surplusRevisions(revisions)
	if len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" {
		t.Errorf("surplus are %v", got)
	}
}

// A revision is known by the bytes of its template; the last one also if only the bytes differ.
func TestRevision(t *testing.T) {
	set := newSet(1)
	data, err := history.Data(&set.Spec.Template)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"db"}},"spec":{"containers":null}}}}`; string(data) != want {
		t.Errorf("data is %s", data)
	}
	revision := newRevision(set, data, 3, 0)
	if revision.Revision != 3 || revision.Labels["app"] != "db" || revision.Name != "db-"+revision.Labels[hashLabel] || !metav1.IsControlledBy(revision, set) {
		t.Errorf("revision is %+v", revision)
	}
	if hashOf(data, 0) == hashOf(data, 1) {
		t.Error("the number of collisions does not change the hash")
	}
	podspec.DefaultTemplate(&set.Spec.Template) // by an API server that knows more defaults than the one before
	if data, err = history.Data(&set.Spec.Template); err != nil {
		t.Fatal(err)
	}
	revision.Data.Raw = []byte(`{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"db"}},"spec":{"containers":[]}}}}`)
	if !sameTemplate(set, data, revision) {
		t.Error("a revision that was written differently is taken for another")
	}
	set.Spec.Template.Labels["app"] = "other"
	if sameTemplate(set, data, &appsv1.ControllerRevision{Data: revision.Data}) {
		t.Error("another template is taken for the same")
	}
}

// A pod that waits until the claim of its predecessor is gone is made then, though no pod and no set changes.
func TestClaimOfPredecessorGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(1, func(s *appsv1.StatefulSetSpec) {
			s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
			}
		})
		predecessor := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", UID: "predecessor"}}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "data-db-0", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(predecessor, podKind)},
		}}
		cluster := controllertest.New(t, set, claim)
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Stateful)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Run(c)
		time.Sleep(time.Hour)
		synctest.Wait()
		if pods := cluster.Pods(); len(pods) > 0 {
			t.Fatalf("there are %d pods, though the claim of an earlier one is still there", len(pods))
		}
		if err := cluster.CoreV1().PersistentVolumeClaims("ns").Delete(t.Context(), claim.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if pods := cluster.Pods(); len(pods) != 1 {
			t.Errorf("there are %d pods after the claim has gone, want 1", len(pods))
		}
	})
}

func TestIsClaimOf(t *testing.T) {
	set := newSet(1, func(s *appsv1.StatefulSetSpec) {
		s.VolumeClaimTemplates = append(s.VolumeClaimTemplates, corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "log"}})
	})
	for name, want := range map[string]bool{
		"data-db-0": true, "log-db-12": true, "data-db": false, "data-other-db-0": false, "db-0": false, "tmp-db-0": false, "data-db-x": false,
	} {
		if got := isClaimOf(set, name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}
