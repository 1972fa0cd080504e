// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func (c *cluster) budget(name string, selector *metav1.LabelSelector, maxUnavailable intstr.IntOrString) {
	c.t.Helper()
	if _, err := c.PolicyV1().PodDisruptionBudgets("ns").Create(c.t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: selector, MaxUnavailable: &maxUnavailable},
	}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// wantBudget waits until the budget's status is "allowed/healthy/desired/expected" and the reason of its condition.
func (c *cluster) wantBudget(name, want string) {
	c.t.Helper()
	c.eventually("PodDisruptionBudget "+want, func(ctx context.Context) error {
		budget, err := c.PolicyV1().PodDisruptionBudgets("ns").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := budget.Status
		reason := ""
		if condition := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition); condition != nil {
			reason = condition.Reason
		}
		got := fmt.Sprintf("%d/%d/%d/%d %s", s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, reason)
		observed := s.ObservedGeneration == budget.Generation || reason == policyv1.SyncFailedReason
		if got != want || !observed {
			return fmt.Errorf("%s, generation %d of %d", got, s.ObservedGeneration, budget.Generation)
		}
		return nil
	})
}

func TestPodDisruptionBudget(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.node("node", nil)
	c.budget("web", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, intstr.FromString("34%"))
	c.wantBudget("web", "0/0/0/0 InsufficientPods")
	c.wantEvent("PodDisruptionBudget", "NoPods", "No matching pods found")
	c.deployment("ns", "web", 3)
	c.wantPods("ns", 3)
	c.wantBudget("web", "0/0/1/3 InsufficientPods")
	c.wantComplete("ns", "web")
	c.wantBudget("web", "2/3/1/3 SufficientPods")

	// Two may go, a third may not.
	evict := func(pod corev1.Pod) error {
		return c.PolicyV1().Evictions("ns").Evict(ctx, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: pod.Name}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](3600)},
		})
	}
	pods, err := c.pods(ctx, "ns")
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods[:2] {
		if err := evict(pod); err != nil {
			t.Fatal(err)
		}
	}
	c.wantBudget("web", "0/1/1/3 InsufficientPods")
	if err := evict(pods[2]); !apierrors.IsTooManyRequests(err) {
		t.Errorf("the third eviction: %v", err)
	}
	c.eventually("the budget forgets pods that are deleted", func(ctx context.Context) error {
		budget, err := c.PolicyV1().PodDisruptionBudgets("ns").Get(ctx, "web", metav1.GetOptions{})
		if err == nil && len(budget.Status.DisruptedPods) > 0 {
			err = fmt.Errorf("disrupted are %v", budget.Status.DisruptedPods)
		}
		return err
	})

	// Pods whose controller has no scale cannot be counted, so none may go.
	c.job("sum", func(s *batchv1.JobSpec) {})
	c.budget("sum", &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.JobNameLabel: "sum"}}, intstr.FromInt32(1))
	c.wantBudget("sum", "0/0/0/0 SyncFailed")
	c.wantEvent("PodDisruptionBudget", "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: batch/v1 Job does not implement the scale subresource")
}
