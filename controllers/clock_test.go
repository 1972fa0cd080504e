// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/cronjob"
	"github.com/skiff-k8s/skiff/controllers/csrcleaner"
	"github.com/skiff-k8s/skiff/controllers/deployment"
	"github.com/skiff-k8s/skiff/controllers/devicetainteviction"
	"github.com/skiff-k8s/skiff/controllers/disruption"
	"github.com/skiff-k8s/skiff/controllers/job"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/nodelifecycle"
	"github.com/skiff-k8s/skiff/controllers/podcertificatecleaner"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/replicaset"
	"github.com/skiff-k8s/skiff/controllers/statefulset"
	"github.com/skiff-k8s/skiff/controllers/tainteviction"
	"github.com/skiff-k8s/skiff/controllers/ttlafterfinished"
)

// clock is a cluster whose clock is set.
type clock struct {
	*controllertest.Cluster
	t     *testing.T
	known []cache.SharedIndexInformer // what controllers know
}

// pass lets time pass, during which kubelets renew the Leases of all nodes.
func (c *clock) pass(d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		nodes, err := c.CoreV1().Nodes().List(c.t.Context(), metav1.ListOptions{})
		c.must(err)
		for _, node := range nodes.Items {
			c.renew(node.Name)
		}
		time.Sleep(min(10*time.Second, time.Until(end)))
		synctest.Wait()
	}
}

func (c *clock) renew(node string) {
	c.t.Helper()
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node, Namespace: corev1.NamespaceNodeLease},
		Spec:       coordinationv1.LeaseSpec{RenewTime: ptr.To(metav1.NowMicro())},
	}
	leases := c.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err := leases.Update(c.t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		_, err = leases.Create(c.t.Context(), lease, metav1.CreateOptions{})
		c.must(err)
	}
}

func (c *clock) set(forward time.Duration) { c.SetClock(forward, c.known...) }

func (c *clock) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// want compares what there is with what should be there.
func (c *clock) want(when, want string, is func(c *clock) string) {
	c.t.Helper()
	if got := is(c); got != want {
		c.t.Errorf("%s: %q, want %q", when, got, want)
	}
}

const hour = time.Hour

// Each controller that looks at the clock, when that is set an hour forward, or an hour back: what is due is done at once, what
// is not due is left alone, nothing is done twice, and nothing is forgotten.
func TestClockIsSet(t *testing.T) {
	for _, tc := range []struct {
		name    string
		objects func() []runtime.Object
		run     func(c *clock) []reconcile.Controller
		is      func(c *clock) string

		// wait, then what there is; set the clock, then what there is at once, and wait later: then what there is in the end.
		wait          time.Duration
		before        string
		forward, back string // at once
		later         time.Duration
		afterForward  string
		afterBack     string
		muchLater     time.Duration
		inTheEnd      string // after the clock was set back
	}{
		{
			name: "a finished Job goes when its time is over",
			objects: func() []runtime.Object {
				job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "ns"}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ptr.To[int32](1800)}}
				job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
				return []runtime.Object{job}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Batch().V1().Jobs().Informer()}
				return []reconcile.Controller{ttlafterfinished.New(c.Clientset, c.Factory, metrics.New().TTL)}
			},
			is:   jobs,
			wait: 10 * time.Minute, before: "j",
			forward: "", back: "j", later: 79 * time.Minute, afterBack: "j", muchLater: 2 * time.Minute, inTheEnd: "",
		},
		{
			name: "a CronJob starts one Job for each time",
			objects: func() []runtime.Object {
				return []runtime.Object{&batchv1.CronJob{
					ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Minute))},
					Spec:       batchv1.CronJobSpec{Schedule: "0 * * * *"},
				}}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Batch().V1().Jobs().Informer(), c.Factory.Batch().V1().CronJobs().Informer()}
				controller, err := cronjob.New(c.Clientset, c.Factory, c.Events, metrics.New().CronJob)
				c.must(err)
				return []reconcile.Controller{controller}
			},
			is: func(c *clock) string { return fmt.Sprint(len(strings.Fields(jobs(c)))) },
			// It is midnight when a bubble begins. An hour forward, that of one o'clock is missed. An hour back, there has been one for
			// what is now to come at midnight, so the next is at one.
			wait: 10 * time.Minute, before: "1",
			forward: "1", back: "1", later: 50*time.Minute + time.Second, afterForward: "2", afterBack: "1", muchLater: hour, inTheEnd: "2",
		},
		{
			name: "a Job fails when its deadline is over",
			objects: func() []runtime.Object {
				labels := map[string]string{"job": "j"}
				return []runtime.Object{&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "ns"}, Spec: batchv1.JobSpec{
					Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), BackoffLimit: ptr.To[int32](6), ActiveDeadlineSeconds: ptr.To[int64](1800),
					Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
				}}}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Batch().V1().Jobs().Informer(), c.Factory.Core().V1().Pods().Informer()}
				controller, err := job.New(c.Clientset, c.Factory, c.Events, metrics.New().Job)
				c.must(err)
				return []reconcile.Controller{controller}
			},
			is: func(c *clock) string {
				job, err := c.BatchV1().Jobs("ns").Get(c.t.Context(), "j", metav1.GetOptions{})
				c.must(err)
				return fmt.Sprintf("%d pods %s", len(c.Pods()), names(job.Status.Conditions, func(c batchv1.JobCondition) string { return string(c.Type) + ":" + c.Reason }))
			},
			wait: 10 * time.Minute, before: "1 pods ",
			forward: "0 pods FailureTarget:DeadlineExceeded", back: "1 pods ", later: 79 * time.Minute,
			afterForward: "0 pods FailureTarget:DeadlineExceeded Failed:DeadlineExceeded", afterBack: "1 pods ", muchLater: 2 * time.Minute,
			inTheEnd: "0 pods FailureTarget:DeadlineExceeded Failed:DeadlineExceeded",
		},
		{
			name: "a pod is available when it has been ready for long enough",
			objects: func() []runtime.Object {
				labels := map[string]string{"app": "r"}
				return []runtime.Object{&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "ns"}, Spec: appsv1.ReplicaSetSpec{
					Replicas: ptr.To[int32](1), MinReadySeconds: 1800, Selector: &metav1.LabelSelector{MatchLabels: labels},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
				}}}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Core().V1().Pods().Informer(), c.Factory.Apps().V1().ReplicaSets().Informer()}
				controller, err := replicaset.New(c.Clientset, c.Factory, c.Events, metrics.New().Replicas)
				c.must(err)
				return []reconcile.Controller{controller}
			},
			is: func(c *clock) string {
				c.StartPods()
				set, err := c.AppsV1().ReplicaSets("ns").Get(c.t.Context(), "r", metav1.GetOptions{})
				c.must(err)
				return fmt.Sprintf("%d ready, %d available", set.Status.ReadyReplicas, set.Status.AvailableReplicas)
			},
			wait: 10 * time.Minute, before: "1 ready, 0 available",
			forward: "1 ready, 1 available", back: "1 ready, 0 available", later: 88 * time.Minute,
			afterForward: "1 ready, 1 available", afterBack: "1 ready, 0 available", muchLater: 3 * time.Minute, inTheEnd: "1 ready, 1 available",
		},
		{
			name: "a StatefulSet's second pod comes when the first has been ready for long enough",
			objects: func() []runtime.Object {
				labels := map[string]string{"app": "s"}
				return []runtime.Object{&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Spec: appsv1.StatefulSetSpec{
					Replicas: ptr.To[int32](2), MinReadySeconds: 1800, Selector: &metav1.LabelSelector{MatchLabels: labels}, RevisionHistoryLimit: ptr.To[int32](10),
					UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
					Template:       corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
				}}}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Core().V1().Pods().Informer(), c.Factory.Apps().V1().StatefulSets().Informer()}
				controller, err := statefulset.New(c.Clientset, c.Factory, c.Events, metrics.New().Stateful)
				c.must(err)
				return []reconcile.Controller{controller}
			},
			is: func(c *clock) string {
				c.StartPods()
				return names(c.Pods(), func(p corev1.Pod) string { return p.Name })
			},
			wait: 10 * time.Minute, before: "s-0",
			forward: "s-0 s-1", back: "s-0", later: 88 * time.Minute, afterForward: "s-0 s-1", afterBack: "s-0", muchLater: 3 * time.Minute, inTheEnd: "s-0 s-1",
		},
		{
			name: "a pod goes when it has tolerated its device's taint for long enough",
			objects: func() []runtime.Object {
				taint := resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: ptr.To(metav1.Now())}
				return []runtime.Object{
					&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{
						Driver: "x.io", Pool: resourcev1.ResourcePool{Name: "n"}, Devices: []resourcev1.Device{{Name: "d", Taints: []resourcev1.DeviceTaint{taint}}},
					}},
					&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Status: resourcev1.ResourceClaimStatus{
						Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{
							Driver: "x.io", Pool: "n", Device: "d",
							Tolerations: []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists, Effect: taint.Effect, TolerationSeconds: ptr.To[int64](1800)}},
						}}}},
						ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "p"}},
					}},
					&corev1.Pod{
						ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "p"},
						Spec:       corev1.PodSpec{NodeName: "n", ResourceClaims: []corev1.PodResourceClaim{{Name: "x", ResourceClaimName: ptr.To("c")}}},
					},
				}
			},
			run: func(c *clock) []reconcile.Controller {
				devices := c.Factory.Resource().V1()
				c.known = []cache.SharedIndexInformer{devices.ResourceSlices().Informer(), devices.ResourceClaims().Informer(), c.Factory.Core().V1().Pods().Informer()}
				controller, err := devicetainteviction.New(c.Clientset, c.Factory, c.Events, metrics.New().Devices)
				c.must(err)
				return []reconcile.Controller{controller}
			},
			is:   func(c *clock) string { return names(c.Pods(), func(p corev1.Pod) string { return p.Name }) },
			wait: 10 * time.Minute, before: "p",
			forward: "", back: "p", later: 79 * time.Minute, afterBack: "p", muchLater: 2 * time.Minute, inTheEnd: "",
		},
		{
			name:    "a rollout is stuck when its deadline is over",
			objects: func() []runtime.Object { return []runtime.Object{newRollout()} },
			run: func(c *clock) []reconcile.Controller {
				apps := c.Factory.Apps().V1()
				c.known = []cache.SharedIndexInformer{apps.Deployments().Informer(), apps.ReplicaSets().Informer(), c.Factory.Core().V1().Pods().Informer()}
				one, err := deployment.New(c.Clientset, c.Factory, c.Events)
				c.must(err)
				other, err := replicaset.New(c.Clientset, c.Factory, c.Events, metrics.New().Replicas)
				c.must(err)
				return []reconcile.Controller{one, other}
			},
			is: func(c *clock) string {
				d, err := c.AppsV1().Deployments("ns").Get(c.t.Context(), "d", metav1.GetOptions{})
				c.must(err)
				for _, condition := range d.Status.Conditions {
					if condition.Type == appsv1.DeploymentProgressing {
						return fmt.Sprintf("%s %d pods", condition.Reason, len(c.Pods()))
					}
				}
				return "no condition"
			},
			wait: 5 * time.Minute, before: "ReplicaSetUpdated 2 pods",
			forward: "ProgressDeadlineExceeded 2 pods", back: "ReplicaSetUpdated 2 pods", later: 64 * time.Minute,
			afterForward: "ProgressDeadlineExceeded 2 pods", afterBack: "ReplicaSetUpdated 2 pods", muchLater: 2 * time.Minute, inTheEnd: "ProgressDeadlineExceeded 2 pods",
		},
		{
			name: "certificate requests go when their time is over",
			objects: func() []runtime.Object {
				request := func(name string, conditions ...certificatesv1.CertificateSigningRequestCondition) *certificatesv1.CertificateSigningRequest {
					r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
					r.Status.Conditions = conditions
					return r
				}
				return []runtime.Object{
					request("denied", certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, LastUpdateTime: metav1.Now()}),
					request("pending"),
				}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Certificates().V1().CertificateSigningRequests().Informer()}
				return []reconcile.Controller{csrcleaner.New(c.Clientset, c.Factory)}
			},
			is: func(c *clock) string {
				list, err := c.CertificatesV1().CertificateSigningRequests().List(c.t.Context(), metav1.ListOptions{})
				c.must(err)
				return names(list.Items, func(r certificatesv1.CertificateSigningRequest) string { return r.Name })
			},
			wait: 10 * time.Minute, before: "denied pending",
			forward: "pending", back: "denied pending", later: 109 * time.Minute, afterForward: "pending", afterBack: "denied pending", muchLater: 2 * time.Minute, inTheEnd: "pending",
		},
		{
			name: "pods' certificate requests go when their time is over",
			objects: func() []runtime.Object {
				return []runtime.Object{&certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "ns"}}}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Certificates().V1().PodCertificateRequests().Informer()}
				return []reconcile.Controller{podcertificatecleaner.New(c.Clientset, c.Factory)}
			},
			is: func(c *clock) string {
				list, err := c.CertificatesV1().PodCertificateRequests("").List(c.t.Context(), metav1.ListOptions{})
				c.must(err)
				return names(list.Items, func(r certificatesv1.PodCertificateRequest) string { return r.Name })
			},
			wait: 10 * time.Minute, before: "r",
			forward: "", back: "r", later: 64 * time.Minute, afterBack: "r", muchLater: 2 * time.Minute, inTheEnd: "",
		},
		{
			name: "a pod that was to be disrupted is not after two minutes",
			objects: func() []runtime.Object {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}}
				pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
				return []runtime.Object{pod}
			},
			run: func(c *clock) []reconcile.Controller {
				c.known = []cache.SharedIndexInformer{c.Factory.Core().V1().Pods().Informer()}
				return []reconcile.Controller{disruption.NewStaleConditions(c.Clientset, c.Factory)}
			},
			is:   func(c *clock) string { return string(c.Pods()[0].Status.Conditions[0].Status) },
			wait: time.Minute, before: "True",
			forward: "False", back: "True", later: 2 * time.Minute, afterForward: "False", afterBack: "True", muchLater: hour, inTheEnd: "False",
		},
		{
			name: "nodes are alive as long as they renew their Leases, and pods stay as long as they may, whatever the clock says",
			objects: func() []runtime.Object {
				node := func(name string, taints ...corev1.Taint) *corev1.Node {
					n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}
					n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
					return n
				}
				return []runtime.Object{
					node("n"), node("tainted", corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoExecute, TimeAdded: ptr.To(metav1.Now())}),
					&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{
						NodeName: "tainted", Tolerations: []corev1.Toleration{{Key: "x", Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](1800)}},
					}},
				}
			},
			run: func(c *clock) []reconcile.Controller {
				core := c.Factory.Core().V1()
				c.known = []cache.SharedIndexInformer{core.Nodes().Informer(), core.Pods().Informer(), c.Factory.Coordination().V1().Leases().Informer()}
				judge, err := nodelifecycle.New(c.Clientset, c.Factory, c.Events, metrics.New().Nodes)
				c.must(err)
				evicts, err := tainteviction.New(c.Clientset, c.Factory, c.Events, metrics.New().Taints)
				c.must(err)
				return []reconcile.Controller{judge, evicts}
			},
			is: func(c *clock) string {
				list, err := c.CoreV1().Nodes().List(c.t.Context(), metav1.ListOptions{})
				c.must(err)
				return names(list.Items, func(n corev1.Node) string {
					return fmt.Sprintf("%s:%s:%d", n.Name, n.Status.Conditions[0].Status, len(n.Spec.Taints))
				}) + " " + names(c.Pods(), func(p corev1.Pod) string { return p.Name })
			},
			wait: 10 * time.Minute, before: "n:True:0 tainted:True:1 p",
			forward: "n:True:0 tainted:True:1 p", back: "n:True:0 tainted:True:1 p", later: 19 * time.Minute,
			afterForward: "n:True:0 tainted:True:1 p", afterBack: "n:True:0 tainted:True:1 p", muchLater: 2 * time.Minute, inTheEnd: "n:True:0 tainted:True:1 ",
		},
	} {
		for _, direction := range []string{"forward", "back"} {
			t.Run(tc.name+"/"+direction, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := &clock{Cluster: controllertest.New(t, tc.objects()...), t: t}
					controllers := tc.run(c)
					c.Run(controllers...)
					c.pass(tc.wait)
					c.want("before", tc.before, tc.is)
					if direction == "forward" {
						c.set(hour)
						c.want("at once", tc.forward, tc.is)
						c.pass(tc.later)
						c.want("later", tc.afterForward, tc.is)
						return
					}
					c.set(-hour)
					c.want("at once", tc.back, tc.is)
					c.pass(tc.later)
					c.want("later", tc.afterBack, tc.is)
					c.pass(tc.muchLater)
					c.want("in the end", tc.inTheEnd, tc.is)
				})
			})
		}
	}
}

func jobs(c *clock) string {
	list, err := c.BatchV1().Jobs("ns").List(c.t.Context(), metav1.ListOptions{})
	c.must(err)
	return names(list.Items, func(j batchv1.Job) string { return j.Name })
}

func names[T any](list []T, name func(T) string) string {
	var all []string
	for _, item := range list {
		all = append(all, name(item))
	}
	return strings.Join(all, " ")
}

func newRollout() *appsv1.Deployment {
	labels := map[string]string{"app": "d"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels}, ProgressDeadlineSeconds: ptr.To[int32](600),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}, RevisionHistoryLimit: ptr.To[int32](10),
		},
	}
}
