// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var kind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

func pod(name, app, owner string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "uid-of-pod", Labels: map[string]string{"app": app}}}
	if owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: kind.Kind, Name: owner, UID: "uid-of-owner", Controller: &yes}}
		if owner != "me" {
			p.OwnerReferences[0].UID = "other"
		}
	}
	return p
}

func TestClaim(t *testing.T) {
	now := metav1.Now()
	me := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "me", Namespace: "ns", UID: "uid-of-owner"}}
	dying := me.DeepCopy()
	dying.DeletionTimestamp = &now
	ending := pod("ending", "web", "")
	ending.DeletionTimestamp = &now
	elsewhere := pod("elsewhere", "web", "")
	elsewhere.Namespace = "other"
	pods := []*corev1.Pod{pod("kept", "web", "me"), pod("orphan", "web", ""), pod("lost", "db", "me"), pod("theirs", "web", "someone"), pod("stranger", "db", ""), ending, elsewhere}
	for _, tc := range []struct {
		what        string
		owner, live *corev1.ReplicationController
		claimed     string
		patched     string
		fails       bool
	}{
		{"adopts and releases", me, me, "kept orphan", "adopt orphan, release lost", false},
		{"being deleted, leaves all as it is", dying, dying, "kept", "", false},
		{"just deleted, does not adopt", me, dying, "kept", "release lost", true},
	} {
		var patched []string
		claimer := Claimer[*corev1.Pod]{
			Owner: tc.owner, Kind: kind, Selector: labels.SelectorFromSet(labels.Set{"app": "web"}),
			Live: func(context.Context) (metav1.Object, error) { return tc.live, nil },
			Patch: func(_ context.Context, p *corev1.Pod, patch []byte) error {
				what := "adopt "
				if strings.Contains(string(patch), `"$patch":"delete"`) {
					what = "release "
				}
				if !strings.Contains(string(patch), `"uid":"uid-of-pod"`) {
					return errors.New("the patch could hit another pod of that name")
				}
				patched = append(patched, what+p.Name)
				return nil
			},
		}
		claimed, err := claimer.Claim(t.Context(), pods)
		var names []string
		for _, p := range claimed {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != tc.claimed || (err != nil) != tc.fails {
			t.Errorf("%s: claimed %q, %v; want %q", tc.what, got, err, tc.claimed)
		}
		if got := strings.Join(patched, ", "); got != tc.patched {
			t.Errorf("%s: patched %q, want %q", tc.what, got, tc.patched)
		}
	}
}
