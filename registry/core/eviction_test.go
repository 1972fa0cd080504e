// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/testenv"
)

// runPod makes a pod that runs on a node, ready or not.
func runPod(t *testing.T, env *testenv.Env, name string, ready corev1.ConditionStatus) {
	t.Helper()
	pods := env.Client.CoreV1().Pods("default")
	pod, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{NodeName: "n", ServiceAccountName: "default", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	if _, err := pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// evict asks once: the client would try again by itself as long as it is told to come back.
func evict(t *testing.T, env *testenv.Env, name string) error {
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(30))}}
	return env.Client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(name).SubResource("eviction").
		MaxRetries(0).Body(eviction).Do(t.Context()).Error()
}

func TestEvictionSpendsTheBudget(t *testing.T) {
	env := testenv.Start(t)
	budgets := env.Client.PolicyV1().PodDisruptionBudgets("default")
	for _, name := range []string{"a", "b", "c"} {
		runPod(t, env, name, corev1.ConditionTrue)
	}
	b, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "pdb"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Nobody has looked at the budget yet: come back later.
	err = evict(t, env, "a")
	if seconds, ok := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !ok || seconds != 10 {
		t.Errorf("evict = %v (retry after %d s), want 429 and 10 s", err, seconds)
	}
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 3}
	if _, err := budgets.UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(t, env, "a"); err != nil {
		t.Fatalf("evict within the budget: %v", err)
	}
	pod, err := env.Client.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || pod.DeletionTimestamp == nil {
		t.Fatalf("evicted pod = %v, %v; want it to be deleted gracefully", pod, err)
	}
	if c := pod.Status.Conditions[len(pod.Status.Conditions)-1]; c.Type != corev1.DisruptionTarget || c.Reason != "EvictionByEvictionAPI" {
		t.Errorf("last condition = %+v, want DisruptionTarget", c)
	}
	if b, err = budgets.Get(t.Context(), "pdb", metav1.GetOptions{}); err != nil || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 1 {
		t.Errorf("budget = %+v, %v; want it spent", b.Status, err)
	}
	err = evict(t, env, "b")
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Code != 429 || !strings.Contains(status.Status().Details.Causes[0].Message, "The disruption budget pdb needs 2 healthy pods and has 2 currently") {
		t.Errorf("evict beyond the budget = %v, want 429 with the cause", err)
	}
}

// A pod that does not run is nobody's loss, and one that is not ready may go while enough others are.
func TestEvictionOfPodsThatDoNotCount(t *testing.T) {
	env := testenv.Start(t)
	runPod(t, env, "unready", corev1.ConditionFalse)
	b, err := env.Client.PolicyV1().PodDisruptionBudgets("default").Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "pdb"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 2}
	if _, err := env.Client.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(t, env, "unready"); err != nil {
		t.Errorf("evict an unready pod: %v", err)
	}
	if _, err := env.Client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pending"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(t, env, "pending"); err != nil {
		t.Errorf("evict a pending pod: %v", err)
	}
	if err := evict(t, env, "none"); !apierrors.IsNotFound(err) {
		t.Errorf("evict nobody = %v, want NotFound", err)
	}
}
