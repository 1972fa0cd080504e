// SPDX-License-Identifier: Apache-2.0

package devicetainteviction

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func noExecute(key string) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: key, Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: ptr.To(metav1.Now())}
}

func slice(name string, generation int64, taints ...resourcev1.DeviceTaint) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example.com", Pool: resourcev1.ResourcePool{Name: "n", Generation: generation}, Devices: []resourcev1.Device{{Name: "d", Taints: taints}},
	}}
}

func claim(tolerations ...resourcev1.DeviceToleration) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Status: resourcev1.ResourceClaimStatus{
		Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Driver: "gpu.example.com", Pool: "n", Device: "d", Tolerations: tolerations},
		}}},
		ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "p-uid"}},
	}}
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "p-uid"},
		Spec:       corev1.PodSpec{NodeName: "n", ResourceClaims: []corev1.PodResourceClaim{{Name: "x", ResourceClaimName: ptr.To("c")}}},
	}
}

func rule(effect resourcev1.DeviceTaintEffect) *resourcev1.DeviceTaintRule {
	t := noExecute("broken")
	t.Effect = effect
	return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "r-uid"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: ptr.To("gpu.example.com")}, Taint: t,
	}}
}

func tolerate(key string, seconds *int64) resourcev1.DeviceToleration {
	return resourcev1.DeviceToleration{Key: key, Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute, TolerationSeconds: seconds}
}

func TestEvictionOf(t *testing.T) {
	unbound, other := pod(), pod()
	unbound.Spec.NodeName, other.UID = "", "another"
	otherDevice := rule(resourcev1.DeviceTaintEffectNoExecute)
	otherDevice.Spec.DeviceSelector.Device = ptr.To("e")
	for _, test := range []struct {
		name   string
		pod    *corev1.Pod
		slices []*resourcev1.ResourceSlice
		rules  []*resourcev1.DeviceTaintRule
		claim  *resourcev1.ResourceClaim
		after  time.Duration // since the taint; -1 for never
	}{
		{name: "no taint", slices: []*resourcev1.ResourceSlice{slice("s", 1)}, after: -1},
		{name: "the driver's taint", slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad"))}},
		{name: "only NoSchedule", slices: []*resourcev1.ResourceSlice{slice("s", 1, resourcev1.DeviceTaint{Key: "k", Effect: resourcev1.DeviceTaintEffectNoSchedule})}, after: -1},
		{name: "in an outdated slice", slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad")), slice("t", 2)}, after: -1},
		{name: "a rule", rules: []*resourcev1.DeviceTaintRule{rule(resourcev1.DeviceTaintEffectNoExecute)}},
		{name: "a rule without effect", rules: []*resourcev1.DeviceTaintRule{rule(resourcev1.DeviceTaintEffectNone)}, after: -1},
		{name: "a rule for another device", rules: []*resourcev1.DeviceTaintRule{otherDevice}, after: -1},
		{name: "tolerated", slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad"))}, claim: claim(tolerate("bad", nil)), after: -1},
		{name: "tolerated for a while", slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad"))}, claim: claim(tolerate("bad", ptr.To[int64](60)), tolerate("", ptr.To[int64](30))), after: 30 * time.Second},
		{name: "another is tolerated", slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad"))}, claim: claim(tolerate("worse", nil))},
		{name: "not bound", pod: unbound, slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad"))}, after: -1},
		{name: "reserved for another", pod: other, slices: []*resourcev1.ResourceSlice{slice("s", 1, noExecute("bad"))}, after: -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, c := test.pod, test.claim
			if p == nil {
				p = pod()
			}
			if c == nil {
				c = claim()
			}
			w := newWorld(test.slices, test.rules, func(string, string) *resourcev1.ResourceClaim { return c })
			found := w.evictionOf(p)
			if (found == nil) != (test.after < 0) {
				t.Fatalf("evictionOf = %+v, want one: %v", found, test.after >= 0)
			}
			if found != nil && (time.Until(found.at.Add(-test.after)).Abs() > time.Minute || len(found.rules) != len(test.rules)) {
				t.Errorf("evictionOf = %+v, want %s after the taint, and %d rules", found, test.after, len(test.rules))
			}
		})
	}
}

func run(t *testing.T, objects ...runtime.Object) *controllertest.Cluster {
	t.Helper()
	c := controllertest.New(t, objects...)
	controller, err := New(c, c.Factory, c.Events, metrics.New().Devices)
	if err != nil {
		t.Fatal(err)
	}
	c.Run(controller)
	return c
}

func exists(t *testing.T, c *controllertest.Cluster) bool {
	t.Helper()
	_, err := c.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// A rule evicts, and says so.
func TestRuleEvicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, slice("s", 1), claim(), pod())
		if !exists(t, c) {
			t.Fatal("gone without a reason")
		}
		if _, err := c.ResourceV1().DeviceTaintRules().Create(t.Context(), rule(resourcev1.DeviceTaintEffectNoExecute), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if exists(t, c) {
			t.Fatal("still there")
		}
		if got := <-c.Events.Events; got != "Normal DeviceTaintManagerEviction Marking for deletion" {
			t.Errorf("event is %q", got)
		}
		time.Sleep(time.Minute)
		wantCondition(t, c, "Completed", "1 pod evicted since starting the controller.")
	})
}

// A taint that goes in time costs no pod.
func TestTaintGoesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, slice("s", 1, noExecute("bad")), claim(tolerate("bad", ptr.To[int64](60))), pod())
		time.Sleep(30 * time.Second)
		if _, err := c.ResourceV1().ResourceSlices().Update(t.Context(), slice("s", 2), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if !exists(t, c) {
			t.Error("gone")
		}
		if got := <-c.Events.Events; got != "Normal DeviceTaintManagerEviction Cancelling deletion" {
			t.Errorf("event is %q", got)
		}
	})
}

func TestRulesSayWhatTheyWouldDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, slice("s", 1), claim(), pod(), rule(resourcev1.DeviceTaintEffectNone))
		wantCondition(t, c, "NoEffect", "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute.")
		if !exists(t, c) {
			t.Error("gone")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := run(t, slice("s", 1), claim(tolerate("", ptr.To[int64](60))), pod(), rule(resourcev1.DeviceTaintEffectNoExecute))
		wantCondition(t, c, "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace.")
	})
}

func wantCondition(t *testing.T, c *controllertest.Cluster, reason, message string) {
	t.Helper()
	synctest.Wait()
	r, err := c.ResourceV1().DeviceTaintRules().Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := meta.FindStatusCondition(r.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	if got == nil || got.Reason != reason || !strings.HasPrefix(got.Message, message) {
		t.Errorf("condition is %+v, want %s: %s", got, reason, message)
	}
}
