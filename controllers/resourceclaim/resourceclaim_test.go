// SPDX-License-Identifier: Apache-2.0

package resourceclaim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

// newPod has a claim of the template gpu for each name.
func newPod(change func(*corev1.Pod), claims ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "pod-uid"}}
	for _, name := range claims {
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, corev1.PodResourceClaim{Name: name, ResourceClaimTemplateName: ptr.To("gpu")})
	}
	if change != nil {
		change(pod)
	}
	return pod
}

// says is a pod whose status names claims, as in "a=claim-a".
func says(statuses ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, s := range statuses {
			name, claim, _ := strings.Cut(s, "=")
			pod.Status.ResourceClaimStatuses = append(pod.Status.ResourceClaimStatuses, corev1.PodResourceClaimStatus{Name: name, ResourceClaimName: &claim})
		}
	}
}

func newTemplate() *resourcev1.ResourceClaimTemplate {
	return &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "gpu"}}
}

// made is a claim that was made for a claim of the pod with that UID.
func made(name, forClaim string, uid types.UID, change ...func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
	owner := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod", UID: uid}}
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, Annotations: map[string]string{resourcev1.PodResourceClaimAnnotation: forClaim},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("Pod"))},
	}}
	for _, c := range change {
		c(claim)
	}
	return claim
}

// reserved is an allocated claim that these are the users of: pods by UID, or others by resource.
func reserved(users ...string) func(*resourcev1.ResourceClaim) {
	return func(claim *resourcev1.ResourceClaim) {
		claim.Finalizers = []string{resourcev1.Finalizer}
		claim.Status.Allocation = &resourcev1.AllocationResult{}
		for _, user := range users {
			ref := resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "pod", UID: types.UID(user)}
			if resource, other := strings.CutPrefix(user, "other:"); other {
				ref = resourcev1.ResourceClaimConsumerReference{APIGroup: "example.com", Resource: resource, Name: "x"}
			}
			claim.Status.ReservedFor = append(claim.Status.ReservedFor, ref)
		}
	}
}

func succeeded(pod *corev1.Pod) { pod.Status.Phase = corev1.PodSucceeded }

func bound(then func(*corev1.Pod)) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.NodeName = "node"
		then(pod)
	}
}

// The cases are those of upstream's controller, as far as they are about GA features.
func TestClaimsOfPods(t *testing.T) {
	name := "pod-a-" + suffix("pod-uid", "a")
	for _, test := range []struct {
		name     string
		objects  []runtime.Object
		claims   string // afterwards: names, with what they are reserved for, and whether they are allocated
		statuses string // of the pod afterwards
		event    string
	}{
		{"made", []runtime.Object{newPod(nil, "a"), newTemplate()}, name, "a=" + name, ""},
		{"made again", []runtime.Object{newPod(says("a=gone"), "a"), newTemplate()}, name, "a=" + name, ""},
		{"there", []runtime.Object{newPod(says("a=x"), "a"), newTemplate(), made("x", "a", "pod-uid")}, "x", "a=x", ""},
		{"there, not written down", []runtime.Object{newPod(nil, "a"), newTemplate(), made("x", "a", "pod-uid")}, "x", "a=x", ""},
		{"there, and the template is gone", []runtime.Object{newPod(nil, "a"), made("x", "a", "pod-uid")}, "x", "a=x", ""},
		{"there for another claim", []runtime.Object{newPod(nil, "a"), newTemplate(), made("x", "b", "pod-uid")}, name + " x", "a=" + name, ""},
		{"there for an earlier pod", []runtime.Object{newPod(says("a=x"), "a"), newTemplate(), made("x", "a", "old-uid", func(c *resourcev1.ResourceClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) })}, name + " x", "a=" + name, ""},
		{"one of two", []runtime.Object{newPod(says("b=x"), "a", "b"), newTemplate(), made("x", "b", "pod-uid")}, name + " x", "a=" + name + " b=x", ""},
		{"no template", []runtime.Object{newPod(nil, "a")}, "", "", `Warning FailedResourceClaimCreation PodResourceClaim a: resource claim template "gpu": resourceclaimtemplate.resource.k8s.io "gpu" not found`},
		{"in the way", []runtime.Object{newPod(nil, "a"), newTemplate(), made(name, "a", "old-uid", func(c *resourcev1.ResourceClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) })}, name, "",
			"Warning FailedResourceClaimCreation PodResourceClaim a: create ResourceClaim " + name},
		{"not for a pod that has ended", []runtime.Object{newPod(succeeded, "a"), newTemplate()}, "", "", ""},
		{"not for a pod that goes", []runtime.Object{newPod(func(pod *corev1.Pod) { pod.DeletionTimestamp = ptr.To(metav1.Now()) }, "a"), newTemplate()}, "", "", ""},
		{"reserved for a pod without a scheduler", []runtime.Object{newPod(bound(says("a=x")), "a"), made("x", "a", "pod-uid", reserved())}, "x[pod-uid]+", "a=x", ""},
		{"not reserved twice", []runtime.Object{newPod(bound(says("a=x")), "a"), made("x", "a", "pod-uid", reserved("pod-uid"))}, "x[pod-uid]+", "a=x", ""},
		{"given back by a pod that is gone", []runtime.Object{made("x", "a", "old-uid", reserved("old-uid"))}, "x", "", ""},
		{"given back, but for what is no pod", []runtime.Object{made("x", "a", "old-uid", reserved("old-uid", "other:things"))}, "x[things]+", "", ""},
		{"given back when its pod has ended", []runtime.Object{newPod(bound(func(pod *corev1.Pod) {
			succeeded(pod)
			says("a=x")(pod)
		}), "a"), made("x", "a", "pod-uid", reserved("pod-uid"))}, "", "a=x", ""},
		{"kept by one that nobody has used yet", []runtime.Object{newPod(says("a=x"), "a"), made("x", "a", "pod-uid", reserved())}, "x+", "a=x", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := controllertest.New(t, test.objects...)
				pods, err := NewForPods(c, c.Factory, c.Events)
				if err != nil {
					t.Fatal(err)
				}
				c.Run(pods, New(c, c.Factory))
				synctest.Wait()
				if got := claimsOf(t, c); got != test.claims {
					t.Errorf("claims are %q, want %q", got, test.claims)
				}
				if got := statusesOf(c); got != test.statuses {
					t.Errorf("the pod says %q, want %q", got, test.statuses)
				}
				select {
				case event := <-c.Events.Events:
					if test.event == "" || !strings.HasPrefix(event, test.event) {
						t.Errorf("event %q, want %q", event, test.event)
					}
				default:
					if test.event != "" {
						t.Errorf("no event, want %q", test.event)
					}
				}
			})
		})
	}
}

// What happens to pods and claims while the controllers run.
func TestClaimsWhileRunning(t *testing.T) {
	run := func(t *testing.T, objects ...runtime.Object) *controllertest.Cluster {
		c := controllertest.New(t, objects...)
		pods, err := NewForPods(c, c.Factory, c.Events)
		if err != nil {
			t.Fatal(err)
		}
		c.Run(pods, New(c, c.Factory))
		return c
	}
	want := func(t *testing.T, c *controllertest.Cluster, when, want string) {
		t.Helper()
		synctest.Wait()
		if got := claimsOf(t, c); got != want {
			t.Errorf("%s: claims are %q, want %q", when, got, want)
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a claim that a person makes for a pod without a scheduler", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := run(t, newPod(bound(func(pod *corev1.Pod) {
				pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a", ResourceClaimName: ptr.To("x")}}
			})))
			claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}}
			claim, err := c.ResourceV1().ResourceClaims("ns").Create(t.Context(), claim, metav1.CreateOptions{})
			must(t, err)
			want(t, c, "not allocated", "x")
			// Others have it, as many as can.
			reserved()(claim)
			for i := range resourcev1.ResourceClaimReservedForMaxSize {
				claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{APIGroup: "example.com", Resource: "things", Name: fmt.Sprint(i)})
			}
			claim, err = c.ResourceV1().ResourceClaims("ns").UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
			must(t, err)
			synctest.Wait()
			claim.Status.ReservedFor = claim.Status.ReservedFor[:1]
			_, err = c.ResourceV1().ResourceClaims("ns").UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
			must(t, err)
			want(t, c, "there is room", "x[things pod-uid]+")
		})
	})
	t.Run("a claim of the right name that is not the pod's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := run(t, newPod(bound(says("a=x")), "a"), made("x", "a", "old-uid", reserved("other:things")))
			want(t, c, "never reserved", "x[things]+")
		})
	})
	t.Run("the claim for extended resources of a pod that ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pod := newPod(bound(func(pod *corev1.Pod) {
				pod.Status.Phase = corev1.PodRunning
				pod.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "x"}
			}))
			c := run(t, pod, made("x", "", "pod-uid", reserved("pod-uid")))
			want(t, c, "in use", "x[pod-uid]+")
			pod = c.Pods()[0].DeepCopy()
			succeeded(pod)
			_, err := c.CoreV1().Pods("ns").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
			must(t, err)
			want(t, c, "ended", "")
		})
	})
}

func claimsOf(t *testing.T, c *controllertest.Cluster) string {
	t.Helper()
	list, err := c.ResourceV1().ResourceClaims("ns").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, claim := range list.Items {
		text := claim.Name
		var users []string
		for _, user := range claim.Status.ReservedFor {
			if user.Resource != "pods" {
				users = append(users, user.Resource)
			} else {
				users = append(users, string(user.UID))
			}
		}
		if len(users) > 0 {
			text += fmt.Sprint(users)
		}
		if claim.Status.Allocation != nil {
			text += "+"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func statusesOf(c *controllertest.Cluster) string {
	var out []string
	for _, pod := range c.Pods() {
		for _, s := range pod.Status.ResourceClaimStatuses {
			out = append(out, s.Name+"="+ptr.Deref(s.ResourceClaimName, ""))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Names that are too long are cut, each in proportion.
func TestNamePrefix(t *testing.T) {
	long := strings.Repeat("x", 60)
	for _, test := range []struct{ pod, claim, want string }{
		{"web", "gpu", "web-gpu-"},
		{long, long, strings.Repeat("x", 28) + "-" + strings.Repeat("x", 28)},
		{long, "gpu", strings.Repeat("x", 52) + "-gp"},
	} {
		if got := namePrefix(test.pod, test.claim); got != test.want || len(got) > maxPrefix+1 {
			t.Errorf("namePrefix(%s, %s) = %s (%d), want %s", test.pod, test.claim, got, len(got), test.want)
		}
	}
}
