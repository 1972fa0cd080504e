// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The status of a quota says what there is of what it limits, and says less when something goes.
func TestResourceQuota(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.namespace("other")
	for _, ns := range []string{"ns", "other"} {
		for _, name := range []string{"a", "b"} {
			if _, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	hard := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{
		"pods", "requests.cpu", "count/pods", "services.nodeports", "secrets", "count/deployments.apps", "count/widgets.example.com",
	} {
		hard[name] = resource.MustParse("10")
	}
	if _, err := c.CoreV1().ResourceQuotas("ns").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := func(pods, cpu, allPods, ports, secrets, deployments string) {
		t.Helper()
		text := fmt.Sprintf("pods %s, cpu %s, all pods %s, node ports %s, secrets %s, deployments %s", pods, cpu, allPods, ports, secrets, deployments)
		c.eventually(text, func(ctx context.Context) error {
			q, err := c.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			used := func(name corev1.ResourceName) string { return ptr.To(q.Status.Used[name]).String() }
			got := fmt.Sprintf("pods %s, cpu %s, all pods %s, node ports %s, secrets %s, deployments %s", used("pods"), used("requests.cpu"),
				used("count/pods"), used("services.nodeports"), used("secrets"), used("count/deployments.apps"))
			if got != text || len(q.Status.Hard) != len(hard) {
				return fmt.Errorf("used is %s of %v", got, q.Status.Hard)
			}
			return nil
		})
	}
	want("0", "0", "0", "0", "2", "0")

	container := corev1.Container{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}}}
	pod, err := c.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{container}, TerminationGracePeriodSeconds: ptr.To[int64](0)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// What admission would charge. It shows when something makes the controller count again.
	if err := c.CoreV1().Secrets("ns").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("1", "250m", "1", "0", "1", "0")

	pod.Status.Phase = corev1.PodSucceeded // it is over, and costs no more than its name
	if _, err := c.CoreV1().Pods("ns").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("0", "0", "1", "0", "1", "0")
	if err := c.CoreV1().Pods("ns").Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("0", "0", "0", "0", "1", "0")

	delete(hard, "secrets")
	q, err := c.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Spec.Hard = hard
	if _, err := c.CoreV1().ResourceQuotas("ns").Update(ctx, q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("0", "0", "0", "0", "0", "0")
}

// A class that begins to offer an extended resource makes its claims count as that, too, and no more when it ceases to.
func TestResourceQuotaOfDevices(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	const gpus, offered = "requests.example.com/gpu", "requests.deviceclass.resource.kubernetes.io/gpu"
	hard := corev1.ResourceList{gpus: resource.MustParse("10"), offered: resource.MustParse("10")}
	if _, err := c.CoreV1().ResourceQuotas("ns").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := func(gpu, byClass string) {
		t.Helper()
		c.eventually(fmt.Sprintf("%s and %s devices are used", gpu, byClass), func(ctx context.Context) error {
			q, err := c.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if used := q.Status.Used; ptr.To(used[gpus]).String() != gpu || ptr.To(used[offered]).String() != byClass {
				return fmt.Errorf("used is %v", used)
			}
			return nil
		})
	}
	want("0", "0")
	if _, err := c.ResourceV1().ResourceClaims("ns").Create(ctx, &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "claim"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
		}}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	class, err := c.ResourceV1().DeviceClasses().Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want("0", "3")
	class.Spec.ExtendedResourceName = ptr.To("example.com/gpu")
	if _, err := c.ResourceV1().DeviceClasses().Update(ctx, class, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("3", "3")
	if err := c.ResourceV1().DeviceClasses().Delete(ctx, "gpu", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("0", "0")
}
