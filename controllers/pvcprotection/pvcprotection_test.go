// SPDX-License-Identifier: Apache-2.0

package pvcprotection

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

func newClaim(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "claim", Finalizers: []string{finalizer}},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	for _, c := range change {
		c(claim)
	}
	return claim
}

func unprotected(claim *corev1.PersistentVolumeClaim) { claim.Finalizers = nil }
func pending(claim *corev1.PersistentVolumeClaim)     { claim.Status.Phase = corev1.ClaimPending }
func deleted(claim *corev1.PersistentVolumeClaim)     { claim.DeletionTimestamp = ptr.To(metav1.Now()) }

func says(used corev1.ConditionStatus) func(*corev1.PersistentVolumeClaim) {
	return func(claim *corev1.PersistentVolumeClaim) {
		condition := unused(used == corev1.ConditionTrue)
		condition.LastTransitionTime = metav1.NewTime(time.Unix(1, 0))
		claim.Status.Conditions = append(claim.Status.Conditions, condition)
	}
}

// newPod is a pod on a node that uses the claim.
func newPod(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod"}, Spec: corev1.PodSpec{NodeName: "node", Volumes: []corev1.Volume{{
		Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}},
	}}}}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func waiting(pod *corev1.Pod) { pod.Spec.NodeName = "" }
func ended(pod *corev1.Pod)   { pod.Status.Phase = corev1.PodSucceeded }
func failed(pod *corev1.Pod)  { pod.Status.Phase = corev1.PodFailed }
func other(pod *corev1.Pod)   { pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName = "other" }

// The cases are those of upstream's controller.
func TestProtection(t *testing.T) {
	for _, test := range []struct {
		name      string
		claim     *corev1.PersistentVolumeClaim
		pod       *corev1.Pod
		uncached  bool // the pod is in the API only
		protected bool
		unused    string // the condition; "" for none
	}{
		{name: "a new claim is protected", claim: newClaim(pending, unprotected), protected: true},
		{name: "a protected one stays so", claim: newClaim(pending), protected: true},
		{name: "deleted, of nobody", claim: newClaim(pending, deleted)},
		{name: "deleted, of a pod on a node", claim: newClaim(pending, deleted), pod: newPod(), protected: true},
		{name: "deleted, of a pod that has ended", claim: newClaim(pending, deleted), pod: newPod(ended), protected: true},
		{name: "deleted, of a pod that waits", claim: newClaim(pending, deleted), pod: newPod(waiting)},
		{name: "deleted, of a pod with another claim", claim: newClaim(pending, deleted), pod: newPod(other)},
		{name: "deleted, of a pod that is not in the cache yet", claim: newClaim(pending, deleted), pod: newPod(), uncached: true, protected: true},
		{name: "bound, of nobody", claim: newClaim(), protected: true, unused: "True NoPodsUsingPVC"},
		{name: "bound, known to be of nobody", claim: newClaim(says(corev1.ConditionTrue)), protected: true, unused: "True NoPodsUsingPVC, as before"},
		{name: "bound, of a pod", claim: newClaim(), pod: newPod(), protected: true, unused: "False PodUsingPVC"},
		{name: "bound, of a pod by now", claim: newClaim(says(corev1.ConditionTrue)), pod: newPod(), protected: true, unused: "False PodUsingPVC"},
		{name: "bound, of a pod that waits", claim: newClaim(), pod: newPod(waiting), protected: true, unused: "False PodUsingPVC"},
		{name: "bound, of a pod that has ended", claim: newClaim(), pod: newPod(ended), protected: true, unused: "True NoPodsUsingPVC"},
		{name: "bound, of a pod that has failed", claim: newClaim(says(corev1.ConditionFalse)), pod: newPod(failed), protected: true, unused: "True NoPodsUsingPVC"},
		{name: "bound, of a pod that is not in the cache yet", claim: newClaim(), pod: newPod(), uncached: true, protected: true, unused: "False PodUsingPVC"},
		{name: "bound and not protected", claim: newClaim(unprotected), protected: true, unused: "True NoPodsUsingPVC"},
		{name: "bound and deleted", claim: newClaim(deleted, says(corev1.ConditionTrue)), pod: newPod(), protected: true, unused: "True NoPodsUsingPVC, as before"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				objects := []runtime.Object{test.claim}
				if test.pod != nil && !test.uncached {
					objects = append(objects, test.pod)
				}
				cluster := controllertest.New(t, objects...)
				c, err := New(cluster, cluster.Factory)
				if err != nil {
					t.Fatal(err)
				}
				if test.uncached {
					cluster.Factory.Start(t.Context().Done())
					cluster.Factory.WaitForCacheSync(t.Context().Done())
					cluster.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
						return true, &corev1.PodList{Items: []corev1.Pod{*test.pod}}, nil
					})
				}
				cluster.Run(c)
				synctest.Wait()
				claim, err := cluster.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "data", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if protected := slices.Contains(claim.Finalizers, finalizer); protected != test.protected {
					t.Errorf("protected is %v, want %v", protected, test.protected)
				}
				got := ""
				for _, condition := range claim.Status.Conditions {
					got += fmt.Sprintf("%s %s", condition.Status, condition.Reason)
					if condition.LastTransitionTime.Unix() == 1 {
						got += ", as before"
					}
				}
				if got != test.unused {
					t.Errorf("Unused is %q, want %q", got, test.unused)
				}
			})
		})
	}
}
