// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/user"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/addons"
)

// stories are about all controllers that write. Add-ons are in a directory.
func stories(addOns string) []story {
	all := slices.Concat(workloadStories, podStories, serviceStories, storageStories, clusterStories, []story{addOnStory(addOns)})
	codes := map[string]bool{}
	for _, s := range all {
		if len(s.code) != 4 || codes[s.code] {
			panic("story " + s.code + " needs a code of four letters of its own")
		}
		codes[s.code] = true
	}
	return all
}

var errNotYet = errors.New("not yet")

// unless returns an error that says what is missing.
func unless(right bool, format string, args ...any) error {
	if right {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// gone returns nil if that is the answer to a Get.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return errors.Join(errNotYet, err)
}

func (l *life) space() { l.namespace(l.name) }

var (
	app = map[string]string{"app": "web"}
	now = metav1.GetOptions{}
)

// template is of pods that end at once when they are deleted.
func (l *life) template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: image}}, TerminationGracePeriodSeconds: ptr.To[int64](0),
	}}
}

// makePod makes a pod, on a node unless that is "".
func (l *life) makePod(name, node string, change ...func(*corev1.Pod)) {
	l.t.Helper()
	template := l.template("v1")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: app}, Spec: template.Spec}
	pod.Spec.NodeName = node
	for _, c := range change {
		c(pod)
	}
	_, err := l.CoreV1().Pods(l.name).Create(l.ctx, pod, metav1.CreateOptions{})
	l.must(err)
}

func (l *life) list() []corev1.Pod {
	l.t.Helper()
	pods, err := l.pods(l.ctx, l.name)
	l.must(err)
	return pods
}

// act does the kubelet's part for all pods.
func (l *life) act(change func(*corev1.Pod) bool) {
	l.t.Helper()
	for _, pod := range l.list() {
		if pod.DeletionTimestamp != nil || !change(&pod) {
			continue
		}
		_, err := l.CoreV1().Pods(l.name).UpdateStatus(l.ctx, &pod, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			l.must(err)
		}
	}
}

// starts makes a pod that waits run and be ready.
func starts(pod *corev1.Pod) bool {
	waits := pod.Status.Phase == corev1.PodPending
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	return waits
}

// succeeds makes a pod that waits end well.
func succeeds(pod *corev1.Pod) bool {
	waits := pod.Status.Phase == corev1.PodPending
	pod.Status.Phase = corev1.PodSucceeded
	return waits
}

// lose deletes a pod, as nodes do.
func (l *life) lose() {
	l.t.Helper()
	if pods := l.list(); len(pods) > 0 {
		err := l.CoreV1().Pods(l.name).Delete(l.ctx, pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
		if !apierrors.IsNotFound(err) {
			l.must(err)
		}
	}
}

func active(pods []corev1.Pod) (n int) {
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			n++
		}
	}
	return n
}

func ofImage(pods []corev1.Pod, image string) bool {
	return !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Spec.Containers[0].Image != image })
}

const nextImage = `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`

var workloadStories = []story{
	{ // A Deployment is made and rolled out, with one pod more than it wants at most, and two ReplicaSets.
		code: "depl",
		begin: func(l *life) {
			l.space()
			_, err := l.AppsV1().Deployments(l.name).Create(l.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: app}, Template: l.template("v1"),
				Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
				}},
			}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			l.act(starts)
			sets, err := l.AppsV1().ReplicaSets(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			l.never("there are three ReplicaSets", len(sets.Items) > 2)
			wanted := int32(0) // of the pods themselves there may be one more, until a ReplicaSet has done what it is told
			for _, set := range sets.Items {
				wanted += *set.Spec.Replicas
			}
			l.never("four pods are wanted", wanted > 3)
			d, err := l.AppsV1().Deployments(l.name).Get(l.ctx, "web", now)
			l.must(err)
			s := d.Status
			if s.ObservedGeneration != d.Generation || s.Replicas != 2 || s.UpdatedReplicas != 2 || s.AvailableReplicas != 2 {
				return fmt.Errorf("status is %+v", s)
			}
			if l.first("rollout") {
				_, err := l.AppsV1().Deployments(l.name).Patch(l.ctx, "web", types.StrategicMergePatchType, []byte(nextImage), metav1.PatchOptions{})
				l.must(err)
				return errNotYet
			}
			pods := l.list()
			return unless(len(pods) == 2 && ofImage(pods, "v2") && d.Annotations["deployment.kubernetes.io/revision"] == "2", "%d pods, %v", len(pods), d.Annotations)
		},
		meanwhile: func(l *life) { // somebody annotates the Deployment, scales its ReplicaSets, and loses a pod
			d, err := l.AppsV1().Deployments(l.name).Patch(l.ctx, "web", types.MergePatchType, []byte(`{"metadata":{"annotations":{"who":"was it"}}}`), metav1.PatchOptions{})
			l.must(err)
			l.lose()
			sets, err := l.AppsV1().ReplicaSets(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			for _, set := range sets.Items {
				if metav1.IsControlledBy(&set, d) && *set.Spec.Replicas > 0 {
					*set.Spec.Replicas--
					_, err := l.AppsV1().ReplicaSets(l.name).Update(l.ctx, &set, metav1.UpdateOptions{})
					l.must(err)
				}
			}
		},
	},
	{ // A ReplicationController has as many pods as it wants, and never more.
		code: "repl",
		begin: func(l *life) {
			l.space()
			template := l.template("v1")
			_, err := l.CoreV1().ReplicationControllers(l.name).Create(l.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](3), Selector: app, Template: &template}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			l.never("there are four pods", active(l.list()) > 3)
			l.act(starts)
			rc, err := l.CoreV1().ReplicationControllers(l.name).Get(l.ctx, "web", now)
			l.must(err)
			want := *rc.Spec.Replicas
			if rc.Status.ObservedGeneration != rc.Generation || rc.Status.ReadyReplicas != want || rc.Status.Replicas != want {
				return fmt.Errorf("status is %+v", rc.Status)
			}
			if l.first("scale") {
				_, err := l.CoreV1().ReplicationControllers(l.name).Patch(l.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{})
				l.must(err)
				return errNotYet
			}
			return unless(len(l.list()) == 1, "%d pods", len(l.list()))
		},
		meanwhile: (*life).lose,
	},
	{ // A StatefulSet is made and rolled out, with one pod and one claim per ordinal and no revision too many.
		code: "stat",
		begin: func(l *life) {
			l.space()
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
				Replicas: ptr.To[int32](2), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: app}, Template: l.template("v1"),
				VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claimSpec("none")}},
			}}
			_, err := l.AppsV1().StatefulSets(l.name).Create(l.ctx, set, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			pods := l.list()
			l.never("there are three pods", len(pods) > 2)
			l.never("the second pod is there before the first is ready", len(pods) == 2 && !l.seen["ready"] && !ready(pods, "db-0"))
			l.act(starts)
			set, err := l.AppsV1().StatefulSets(l.name).Get(l.ctx, "db", now)
			l.must(err)
			s := set.Status
			if s.ObservedGeneration != set.Generation || s.ReadyReplicas != 2 || s.UpdatedReplicas != 2 || s.CurrentRevision != s.UpdateRevision {
				return fmt.Errorf("status is %+v", s)
			}
			l.seen["ready"] = true
			if l.first("rollout") {
				_, err := l.AppsV1().StatefulSets(l.name).Patch(l.ctx, "db", types.StrategicMergePatchType, []byte(nextImage), metav1.PatchOptions{})
				l.must(err)
				return errNotYet
			}
			claims, err := l.CoreV1().PersistentVolumeClaims(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			revisions, err := l.AppsV1().ControllerRevisions(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			l.never("there are other claims or revisions than two", len(claims.Items) != 2 || len(revisions.Items) != 2)
			return unless(ofImage(l.list(), "v2"), "an old pod")
		},
		meanwhile: func(l *life) {
			l.seen["ready"] = true // no longer, when the first pod is lost
			l.lose()
		},
	},
	{ // A DaemonSet has a pod on its node, never two, and replaces it.
		code: "daem",
		begin: func(l *life) {
			l.space()
			l.node(l.name, map[string]string{"life": l.name})
			template := l.template("v1")
			template.Spec.NodeSelector = map[string]string{"life": l.name}
			_, err := l.AppsV1().DaemonSets(l.name).Create(l.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{
				Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template,
			}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			if l.seen["node"] {
				return l.nodeIsKept()
			}
			pods := l.list()
			l.never("there are two pods", active(pods) > 1)
			for _, pod := range pods {
				if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
					binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeFor(&pod)}}
					if err := l.CoreV1().Pods(l.name).Bind(l.ctx, binding, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
						l.must(err)
					}
				}
			}
			l.act(starts)
			set, err := l.AppsV1().DaemonSets(l.name).Get(l.ctx, "agent", now)
			l.must(err)
			s := set.Status
			if s.ObservedGeneration != set.Generation || s.DesiredNumberScheduled != 1 || s.NumberAvailable != 1 || s.UpdatedNumberScheduled != 1 {
				return fmt.Errorf("status is %+v", s)
			}
			if l.first("rollout") {
				_, err := l.AppsV1().DaemonSets(l.name).Patch(l.ctx, "agent", types.StrategicMergePatchType, []byte(nextImage), metav1.PatchOptions{})
				l.must(err)
				return errNotYet
			}
			if pods := l.list(); len(pods) != 1 || !ofImage(pods, "v2") {
				return fmt.Errorf("%d pods", len(pods))
			}
			return l.nodeIsKept()
		},
		meanwhile: (*life).lose,
	},
	{ // A Job never has more pods than it must account for, and counts each once.
		code: "jobs",
		begin: func(l *life) {
			l.space()
			l.makeJob(func(spec *batchv1.JobSpec) { spec.Completions, spec.Parallelism = ptr.To[int32](3), ptr.To[int32](2) })
		},
		step: func(l *life) error {
			pods := l.list()
			tracked := 0
			for _, pod := range pods {
				tracked += len(pod.Finalizers)
			}
			l.never(fmt.Sprintf("%d pods, %d at the same time", len(pods), active(pods)), len(pods) > 3 || active(pods) > 2)
			l.act(succeeds)
			job, err := l.BatchV1().Jobs(l.name).Get(l.ctx, "job", now)
			l.must(err)
			l.never("too many are counted", job.Status.Succeeded > 3 || job.Status.Failed > 0)
			return unless(job.Status.CompletionTime != nil && job.Status.Succeeded == 3 && tracked == 0, "%d tracked, %+v", tracked, job.Status)
		},
	},
	{ // An indexed Job has one pod per index at a time, and fails as its policy says.
		code: "indx",
		begin: func(l *life) {
			l.space()
			l.makeJob(func(spec *batchv1.JobSpec) {
				spec.Completions, spec.Parallelism, spec.CompletionMode = ptr.To[int32](2), ptr.To[int32](2), ptr.To(batchv1.IndexedCompletion)
				spec.BackoffLimitPerIndex = ptr.To[int32](1)
				spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
					Action:      batchv1.PodFailurePolicyActionFailIndex,
					OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{3}},
				}}}
			})
		},
		step: func(l *life) error {
			perIndex := map[string]int{}
			for _, pod := range l.list() {
				perIndex[pod.Annotations[batchv1.JobCompletionIndexAnnotation]]++
			}
			l.never(fmt.Sprintf("pods by index: %v", perIndex), perIndex["0"] > 1 || perIndex["1"] > 1)
			l.act(func(pod *corev1.Pod) bool {
				waits := succeeds(pod)
				if pod.Annotations[batchv1.JobCompletionIndexAnnotation] == "1" {
					pod.Status.Phase = corev1.PodFailed
					pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
						Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, FinishedAt: metav1.Now()},
					}}}
				}
				return waits
			})
			job, err := l.BatchV1().Jobs(l.name).Get(l.ctx, "job", now)
			l.must(err)
			s := job.Status
			failed := slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool {
				return c.Type == batchv1.JobFailed && c.Reason == batchv1.JobReasonFailedIndexes
			})
			return unless(failed && s.CompletedIndexes == "0" && ptr.Deref(s.FailedIndexes, "") == "1" && s.Succeeded == 1 && s.Failed == 1, "status is %+v", s)
		},
	},
	{ // A CronJob runs a Job once for each time, though none of its Jobs is kept.
		code: "cron",
		begin: func(l *life) {
			l.space()
			spec := twoPods()
			spec.Completions, spec.Parallelism = ptr.To[int32](1), ptr.To[int32](1)
			cj, err := l.BatchV1().CronJobs(l.name).Create(l.ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "report"}, Spec: batchv1.CronJobSpec{
				Schedule: "0 0 1 1 *", Suspend: ptr.To(true), SuccessfulJobsHistoryLimit: ptr.To[int32](0),
				JobTemplate: batchv1.JobTemplateSpec{Spec: spec},
			}}, metav1.CreateOptions{})
			l.must(err)
			cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(time.Now().AddDate(-1, 0, 0)))
			_, err = l.BatchV1().CronJobs(l.name).UpdateStatus(l.ctx, cj, metav1.UpdateOptions{})
			l.must(err)
			_, err = l.BatchV1().CronJobs(l.name).Patch(l.ctx, "report", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			jobs, err := l.BatchV1().Jobs(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			for _, job := range jobs.Items {
				l.seen[string(job.UID)] = true
			}
			l.never("a second Job was made", len(l.seen) > 1)
			l.act(succeeds)
			cj, err := l.BatchV1().CronJobs(l.name).Get(l.ctx, "report", now)
			l.must(err)
			s := cj.Status
			fresh := s.LastScheduleTime != nil && time.Since(s.LastScheduleTime.Time) < 365*24*time.Hour
			return unless(fresh && s.LastSuccessfulTime != nil && len(s.Active) == 0 && len(jobs.Items) == 0 && len(l.seen) == 1, "%d Jobs, %+v", len(jobs.Items), s)
		},
	},
	{ // A Job that lives no longer than it runs takes its pods along.
		code: "ttlx",
		begin: func(l *life) {
			l.space()
			l.makeJob(func(spec *batchv1.JobSpec) {
				spec.Completions, spec.Parallelism, spec.TTLSecondsAfterFinished = ptr.To[int32](1), ptr.To[int32](1), ptr.To[int32](0)
			})
		},
		step: func(l *life) error {
			l.act(succeeds)
			_, err := l.BatchV1().Jobs(l.name).Get(l.ctx, "job", now)
			return errors.Join(gone(err), unless(len(l.list()) == 0, "%d pods", len(l.list())))
		},
	},
	{ // An autoscaler brings its target into its bounds.
		code: "hpax",
		begin: func(l *life) {
			l.space()
			template := l.template("v1")
			_, err := l.CoreV1().ReplicationControllers(l.name).Create(l.ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](3), Selector: app, Template: &template}}, metav1.CreateOptions{})
			l.must(err)
			_, err = l.AutoscalingV2().HorizontalPodAutoscalers(l.name).Create(l.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "web"}, MaxReplicas: 2,
				}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			a, err := l.AutoscalingV2().HorizontalPodAutoscalers(l.name).Get(l.ctx, "web", now)
			l.must(err)
			rc, err := l.CoreV1().ReplicationControllers(l.name).Get(l.ctx, "web", now)
			l.must(err)
			l.never("it has other replicas", *rc.Spec.Replicas != 3 && *rc.Spec.Replicas != 2)
			return unless(*rc.Spec.Replicas == 2 && ptr.Deref(a.Status.ObservedGeneration, 0) == a.Generation && len(l.list()) == 2, "%d replicas, %+v", *rc.Spec.Replicas, a.Status)
		},
	},
}

func ready(pods []corev1.Pod, name string) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Name == name && len(pod.Status.Conditions) > 0 })
}

func (l *life) makeJob(change func(*batchv1.JobSpec)) {
	l.t.Helper()
	spec := twoPods()
	change(&spec)
	_, err := l.BatchV1().Jobs(l.name).Create(l.ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: spec}, metav1.CreateOptions{})
	l.must(err)
}

// nodeIsKept tells whether the node of the life has what controllers give to nodes, and ends it.
func (l *life) nodeIsKept() error {
	node, err := l.CoreV1().Nodes().Get(l.ctx, l.name, now)
	if l.seen["node"] {
		return gone(err)
	}
	l.must(err)
	l.never("the node has addresses of others", l.sharesAddresses(node))
	if len(node.Spec.PodCIDRs) != 1 || node.Annotations[corev1.ObjectTTLAnnotationKey] == "" {
		return fmt.Errorf("node has %v and %v", node.Spec.PodCIDRs, node.Annotations)
	}
	l.must(l.CoreV1().Nodes().Delete(l.ctx, l.name, metav1.DeleteOptions{}))
	l.seen["node"] = true
	return errNotYet
}

func (l *life) sharesAddresses(node *corev1.Node) bool {
	nodes, err := l.CoreV1().Nodes().List(l.ctx, metav1.ListOptions{})
	l.must(err)
	return slices.ContainsFunc(nodes.Items, func(other corev1.Node) bool {
		return other.Name != node.Name && node.Spec.PodCIDR != "" && other.Spec.PodCIDR == node.Spec.PodCIDR
	})
}

var podStories = []story{
	{ // A budget follows its pods, and a disruption that did not happen is taken back.
		code: "pdbx",
		begin: func(l *life) {
			l.space()
			l.makePod("a", "")
			l.makePod("b", "")
			_, err := l.PolicyV1().PodDisruptionBudgets(l.name).Create(l.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: app}}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			l.act(func(pod *corev1.Pod) bool {
				waits := starts(pod)
				pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
					Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour)),
				})
				return waits
			})
			budget, err := l.PolicyV1().PodDisruptionBudgets(l.name).Get(l.ctx, "web", now)
			l.must(err)
			s, pods := budget.Status, l.list()
			if int(s.CurrentHealthy) != len(pods) || int(s.DisruptionsAllowed) != len(pods)-1 {
				return fmt.Errorf("%d pods, status %+v", len(pods), s)
			}
			if l.first("one goes") {
				l.lose()
				return errNotYet
			}
			for _, pod := range pods {
				if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
					return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
				}) {
					return fmt.Errorf("%s is still to be disrupted", pod.Name)
				}
			}
			return nil
		},
	},
	{ // A pod that does not tolerate its node goes, and a node gets what controllers give it.
		code: "tain",
		begin: func(l *life) {
			l.space()
			l.node(l.name, map[string]string{corev1.LabelOSStable: "linux"}, corev1.Taint{Key: "broken", Effect: corev1.TaintEffectNoExecute})
			l.makePod("a", l.name)
		},
		step: func(l *life) error {
			if n := len(l.list()); n > 0 {
				return fmt.Errorf("%d pods", n)
			}
			return l.nodeIsKept()
		},
	},
	{ // A pod that was never bound goes, as failed, though something holds it.
		code: "podg",
		begin: func(l *life) {
			l.space()
			l.makePod("a", "", func(pod *corev1.Pod) { pod.Finalizers = []string{"example.com/hold"} })
			l.must(l.CoreV1().Pods(l.name).Delete(l.ctx, "a", metav1.DeleteOptions{}))
		},
		step: func(l *life) error {
			pod, err := l.CoreV1().Pods(l.name).Get(l.ctx, "a", now)
			if err != nil {
				return gone(err)
			}
			if pod.Status.Phase == corev1.PodFailed && l.first("let go") {
				_, err := l.CoreV1().Pods(l.name).Patch(l.ctx, "a", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
				l.must(err)
			}
			return errNotYet
		},
	},
	{ // A pod whose Job is gone is let go of.
		code: "orph",
		begin: func(l *life) {
			l.space()
			l.makePod("a", "", func(pod *corev1.Pod) { pod.Finalizers = []string{batchv1.JobTrackingFinalizer} })
		},
		step: func(l *life) error {
			pod, err := l.CoreV1().Pods(l.name).Get(l.ctx, "a", now)
			l.must(err)
			return unless(len(pod.Finalizers) == 0, "it is tracked")
		},
	},
	{ // A pod gets the device of a claim that is made for it, loses both when the device is to be emptied, and leaves no claim.
		code: "devs",
		begin: func(l *life) {
			l.space()
			l.node(l.name, nil)
			_, err := l.ResourceV1().ResourceClaimTemplates(l.name).Create(l.ctx, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "gpu"},
				Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
					Requests: []resourcev1.DeviceRequest{{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}},
				}}}}, metav1.CreateOptions{})
			l.must(err)
			l.makePod("a", "", func(pod *corev1.Pod) {
				pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("gpu")}}
			})
		},
		step: func(l *life) error {
			claims, err := l.ResourceV1().ResourceClaims(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			l.never("two claims were made", len(claims.Items) > 1)
			pod, err := l.CoreV1().Pods(l.name).Get(l.ctx, "a", now)
			if err == nil {
				l.place(pod, claims.Items)
				return errors.New("the pod is there")
			}
			if err := errors.Join(gone(err), unless(len(claims.Items) == 0, "a claim is left")); err != nil {
				return err
			}
			rule, err := l.ResourceV1().DeviceTaintRules().Get(l.ctx, l.name, now)
			l.must(err)
			return unless(len(rule.Status.Conditions) > 0, "the rule says nothing")
		},
	},
}

// place does what a scheduler does with a pod that has a claim, then says that the device is to be emptied.
func (l *life) place(pod *corev1.Pod, claims []resourcev1.ResourceClaim) {
	l.t.Helper()
	if len(claims) == 0 || len(pod.Status.ResourceClaimStatuses) == 0 {
		return
	}
	claim := &claims[0]
	if claim.Status.Allocation == nil && pod.Spec.NodeName == "" {
		claim.Finalizers = []string{resourcev1.Finalizer}
		claim, err := l.ResourceV1().ResourceClaims(l.name).Update(l.ctx, claim, metav1.UpdateOptions{})
		l.must(err)
		claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{
			Request: "one", Driver: "gpu.example.com", Pool: l.name, Device: "d",
		}}}}
		claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: pod.Name, UID: pod.UID}}
		_, err = l.ResourceV1().ResourceClaims(l.name).UpdateStatus(l.ctx, claim, metav1.UpdateOptions{})
		l.must(err)
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: l.name}}
		l.must(l.CoreV1().Pods(l.name).Bind(l.ctx, binding, metav1.CreateOptions{}))
	}
	if l.first("rule") {
		_, err := l.ResourceV1().DeviceTaintRules().Create(l.ctx, &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: l.name}, Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Pool: &l.name},
			Taint:          resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute},
		}}, metav1.CreateOptions{})
		l.must(err)
	}
}

var serviceStories = []story{
	{ // A Service has the addresses of its pods, and leaves nothing behind.
		code: "serv",
		begin: func(l *life) {
			l.space()
			l.node(l.name, nil)
			l.makePod("a", l.name)
			l.makePod("b", l.name)
			l.makeService(app)
		},
		step: func(l *life) error {
			l.act(func(pod *corev1.Pod) bool {
				waits := starts(pod)
				pod.Status.PodIP = map[string]string{"a": "10.1.0.1", "b": "10.1.0.2"}[pod.Name]
				pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
				return waits
			})
			endpoints, err := l.CoreV1().Endpoints(l.name).Get(l.ctx, "web", now)
			if l.seen["delete"] {
				return errors.Join(gone(err), unless(len(l.slices()) == 0, "%d slices", len(l.slices())))
			}
			if n := l.endpoints(); err != nil || n != 2 || len(endpoints.Subsets) != 1 || len(endpoints.Subsets[0].Addresses) != 2 {
				return fmt.Errorf("%d endpoints in slices, %+v: %v", n, endpoints.Subsets, err)
			}
			l.must(l.CoreV1().Services(l.name).Delete(l.ctx, "web", metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
		meanwhile: func(l *life) { // somebody takes the endpoints away
			l.must(l.CoreV1().Endpoints(l.name).DeleteCollection(l.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
			l.must(l.DiscoveryV1().EndpointSlices(l.name).DeleteCollection(l.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		},
	},
	{ // Endpoints that a user keeps are there as slices, and go together.
		code: "mirr",
		begin: func(l *life) {
			l.space()
			l.makeService(nil)
			_, err := l.CoreV1().Endpoints(l.name).Create(l.ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			switch {
			case l.seen["delete"]:
				return unless(len(l.slices()) == 0, "%d slices", len(l.slices()))
			case l.endpoints() != 1:
				return fmt.Errorf("slices are %+v", l.slices())
			}
			l.must(l.CoreV1().Endpoints(l.name).Delete(l.ctx, "web", metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
	},
	{ // Services get addresses of a pool, each its own.
		code: "pool",
		begin: func(l *life) {
			l.space()
			for _, name := range []string{"a", "b"} {
				_, err := l.CoreV1().Services(l.name).Create(l.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
					Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack),
					Ports: []corev1.ServicePort{{Port: 80}},
				}}, metav1.CreateOptions{})
				l.must(err)
			}
		},
		step: func(l *life) error {
			services, err := l.CoreV1().Services("").List(l.ctx, metav1.ListOptions{})
			l.must(err)
			have, own := map[string]bool{}, 0
			for _, service := range services.Items {
				for _, ingress := range service.Status.LoadBalancer.Ingress {
					l.never("two Services have "+ingress.IP, have[ingress.IP])
					have[ingress.IP] = true
					if service.Namespace == l.name {
						own++
					}
				}
			}
			return unless(own == 2, "%d addresses", own)
		},
	},
	{ // A range of addresses is ready, and protected.
		code: "cidr",
		begin: func(l *life) {
			number, err := strconv.Atoi(l.name[4:])
			l.must(err)
			_, err = l.NetworkingV1().ServiceCIDRs().Create(l.ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: l.name},
				Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{fmt.Sprintf("10.250.%d.0/24", number)}}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			cidr, err := l.NetworkingV1().ServiceCIDRs().Get(l.ctx, l.name, now)
			l.must(err)
			return unless(len(cidr.Finalizers) == 1 && meta.IsStatusConditionTrue(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady), "%+v", cidr)
		},
	},
	{ // An address that is no Service's goes.
		code: "ipad",
		begin: func(l *life) {
			number, err := strconv.Atoi(l.name[4:])
			l.must(err)
			ip := fmt.Sprintf("10.251.0.%d", number+1)
			l.is("/ipaddresses/" + ip)
			l.seen[ip] = true
			_, err = l.NetworkingV1().IPAddresses().Create(l.ctx, &networkingv1.IPAddress{
				ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io", networkingv1.LabelIPAddressFamily: "IPv4"}},
				Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "example.com", Resource: "things", Namespace: "default", Name: "thing"}},
			}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			for ip := range l.seen {
				_, err := l.NetworkingV1().IPAddresses().Get(l.ctx, ip, now)
				return gone(err)
			}
			return nil
		},
	},
}

func (l *life) makeService(selector map[string]string) {
	l.t.Helper()
	_, err := l.CoreV1().Services(l.name).Create(l.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	l.must(err)
}

func (l *life) slices() []discoveryv1.EndpointSlice {
	l.t.Helper()
	list, err := l.DiscoveryV1().EndpointSlices(l.name).List(l.ctx, metav1.ListOptions{})
	l.must(err)
	return list.Items
}

func (l *life) endpoints() (n int) {
	l.t.Helper()
	for _, slice := range l.slices() {
		n += len(slice.Endpoints)
	}
	return n
}

func claimSpec(class string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}
}

func (l *life) makeClaim(spec corev1.PersistentVolumeClaimSpec) *corev1.PersistentVolumeClaim {
	l.t.Helper()
	claim, err := l.CoreV1().PersistentVolumeClaims(l.name).Create(l.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: spec}, metav1.CreateOptions{})
	l.must(err)
	return claim
}

var storageStories = []story{
	{ // A claim gets a directory of its own, which grows, and goes with it.
		code: "stor",
		begin: func(l *life) {
			l.space()
			l.node(l.name, map[string]string{corev1.LabelHostname: l.name})
			claim := l.makeClaim(claimSpec("local-path"))
			l.is(string(claim.UID)) // in the name of the volume
			patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, storagehelper.AnnSelectedNode, l.name)
			_, err := l.CoreV1().PersistentVolumeClaims(l.name).Patch(l.ctx, "data", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			claim, err := l.CoreV1().PersistentVolumeClaims(l.name).Get(l.ctx, "data", now)
			made := slices.DeleteFunc(l.directories.have(), func(d string) bool { return !strings.HasPrefix(d, l.name+"/") })
			l.never("there are two directories", len(made) > 1)
			if l.seen["delete"] {
				volumes, listErr := l.CoreV1().PersistentVolumes().List(l.ctx, metav1.ListOptions{})
				l.must(listErr)
				left := slices.ContainsFunc(volumes.Items, func(pv corev1.PersistentVolume) bool {
					return pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == l.name
				})
				return errors.Join(gone(err), unless(!left && len(made) == 0, "volume: %v, directories: %v", left, made))
			}
			l.must(err)
			switch size := claim.Status.Capacity[corev1.ResourceStorage]; {
			case claim.Status.Phase != corev1.ClaimBound:
				return fmt.Errorf("it is %s", claim.Status.Phase)
			case l.first("expand"):
				_, err := l.CoreV1().PersistentVolumeClaims(l.name).Patch(l.ctx, "data", types.MergePatchType, []byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{})
				l.must(err)
				return errNotYet
			case size.String() != "2Gi":
				return fmt.Errorf("it has %s", &size)
			}
			l.must(l.CoreV1().PersistentVolumeClaims(l.name).Delete(l.ctx, "data", metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
	},
	{ // A pod's ephemeral volume gets a claim, which goes with it.
		code: "ephe",
		begin: func(l *life) {
			l.space()
			l.makePod("a", "", func(pod *corev1.Pod) {
				pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
					VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claimSpec("none")},
				}}}}
			})
		},
		step: func(l *life) error {
			claim, err := l.CoreV1().PersistentVolumeClaims(l.name).Get(l.ctx, "a-scratch", now)
			if l.seen["delete"] {
				return gone(err)
			}
			if err != nil || len(claim.Finalizers) == 0 {
				return fmt.Errorf("no protected claim: %v", err)
			}
			l.must(l.CoreV1().Pods(l.name).Delete(l.ctx, "a", metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
	},
	{ // A volume is attached to the node of its pod, and detached when the pod has gone.
		code: "atta",
		begin: func(l *life) {
			l.space()
			l.node(l.name, nil)
			spec := claimSpec("")
			spec.VolumeName = l.name
			claim := l.makeClaim(spec)
			_, err := l.CoreV1().PersistentVolumes().Create(l.ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: l.name}, Spec: corev1.PersistentVolumeSpec{
				Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes,
				ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: l.name, Name: "data"},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: l.name}},
			}}, metav1.CreateOptions{})
			l.must(err)
			l.makePod("a", l.name, func(pod *corev1.Pod) {
				pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
			})
		},
		step: func(l *life) error {
			list, err := l.StorageV1().VolumeAttachments().List(l.ctx, metav1.ListOptions{})
			l.must(err)
			all := slices.DeleteFunc(list.Items, func(a storagev1.VolumeAttachment) bool { return a.Spec.NodeName != l.name })
			node, err := l.CoreV1().Nodes().Get(l.ctx, l.name, now)
			if l.seen["node"] {
				return gone(err)
			}
			l.must(err)
			l.never("it is attached twice", len(all) > 1)
			for _, a := range all { // what the driver's attacher does
				l.is(a.Name)
				if !a.Status.Attached && a.DeletionTimestamp == nil {
					a.Status.Attached = true
					_, err := l.StorageV1().VolumeAttachments().UpdateStatus(l.ctx, &a, metav1.UpdateOptions{})
					if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
						l.must(err)
					}
				}
			}
			if l.seen["delete"] {
				if len(all) > 0 || len(node.Status.VolumesAttached) > 0 {
					return fmt.Errorf("%d attachments, %v", len(all), node.Status.VolumesAttached)
				}
				return l.nodeIsKept()
			}
			if len(node.Status.VolumesAttached) == 0 {
				return fmt.Errorf("%d attachments", len(all))
			}
			l.must(l.CoreV1().Pods(l.name).Delete(l.ctx, "a", metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
	},
	{ // A class of attributes is protected, and goes when nobody names it.
		code: "vacx",
		begin: func(l *life) {
			_, err := l.StorageV1().VolumeAttributesClasses().Create(l.ctx, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: l.name}, DriverName: "x.io", Parameters: map[string]string{"speed": "9"}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			class, err := l.StorageV1().VolumeAttributesClasses().Get(l.ctx, l.name, now)
			if l.seen["delete"] {
				return gone(err)
			}
			l.must(err)
			if len(class.Finalizers) == 0 {
				return errors.New("it is not protected")
			}
			l.must(l.StorageV1().VolumeAttributesClasses().Delete(l.ctx, l.name, metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
	},
}

func (l *life) configMap(name string, change ...func(*corev1.ConfigMap)) *corev1.ConfigMap {
	l.t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, c := range change {
		c(m)
	}
	m, err := l.CoreV1().ConfigMaps(l.name).Create(l.ctx, m, metav1.CreateOptions{})
	l.must(err)
	return m
}

func ownedBy(owner *corev1.ConfigMap) func(*corev1.ConfigMap) {
	return func(m *corev1.ConfigMap) {
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: ptr.To(true)}}
	}
}

var clusterStories = []story{
	{ // Owners go after those that they own, or leave them as orphans.
		code: "ownr",
		begin: func(l *life) {
			l.space()
			owner := l.configMap("owner")
			l.configMap("first", ownedBy(owner))
			l.configMap("second", ownedBy(owner))
			l.configMap("orphan", ownedBy(l.configMap("parent")))
			for name, policy := range map[string]metav1.DeletionPropagation{"owner": metav1.DeletePropagationForeground, "parent": metav1.DeletePropagationOrphan} {
				l.must(l.CoreV1().ConfigMaps(l.name).Delete(l.ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}))
			}
		},
		step: func(l *life) error {
			list, err := l.CoreV1().ConfigMaps(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			left := map[string]int{}
			for _, m := range list.Items {
				left[m.Name] = len(m.OwnerReferences)
			}
			delete(left, "kube-root-ca.crt")
			owners, there := left["orphan"]
			l.never("the orphan is gone", !there)
			_, owner := left["owner"]
			l.never("the owner is gone, and those that it owned are not", !owner && len(left) > 2)
			return unless(len(left) == 1 && owners == 0, "left: %v", left)
		},
	},
	{ // A namespace goes, with all in it.
		code: "nspc",
		counts: func(path string) bool { // there is nothing of all other resources
			return !strings.HasPrefix(path, "/apis") && (!strings.Contains(path, "/namespaces/nspc") || strings.Count(path, "/") < 5 ||
				strings.HasSuffix(path, "/pods") || strings.HasSuffix(path, "/configmaps") || strings.Contains(path, "/status") || strings.Contains(path, "/finalize"))
		},
		begin: func(l *life) {
			l.space()
			l.configMap("a", func(m *corev1.ConfigMap) { m.Finalizers = []string{"example.com/hold"} })
			l.makePod("a", "")
			l.must(l.CoreV1().Namespaces().Delete(l.ctx, l.name, metav1.DeleteOptions{}))
		},
		step: func(l *life) error {
			namespace, err := l.CoreV1().Namespaces().Get(l.ctx, l.name, now)
			if err != nil {
				return gone(err)
			}
			m, err := l.CoreV1().ConfigMaps(l.name).Get(l.ctx, "a", now)
			l.never("it goes before what is in it", len(namespace.Spec.Finalizers) == 0 && err == nil)
			if err == nil && m.DeletionTimestamp != nil {
				_, err := l.CoreV1().ConfigMaps(l.name).Patch(l.ctx, "a", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
				l.must(err)
			}
			return fmt.Errorf("conditions are %v", namespace.Status.Conditions)
		},
	},
	{ // A quota says how much of it is used. What comes later is charged by admission, which is not there: nothing comes.
		code: "quot",
		begin: func(l *life) {
			l.space()
			for _, name := range []string{"a", "b"} {
				_, err := l.CoreV1().Secrets(l.name).Create(l.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
				l.must(err)
			}
			_, err := l.CoreV1().ResourceQuotas(l.name).Create(l.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{
				Hard: corev1.ResourceList{"secrets": resource.MustParse("9")},
			}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			quota, err := l.CoreV1().ResourceQuotas(l.name).Get(l.ctx, "q", now)
			l.must(err)
			list, err := l.CoreV1().Secrets(l.name).List(l.ctx, metav1.ListOptions{})
			l.must(err)
			used := quota.Status.Used["secrets"]
			if used.Value() != int64(len(list.Items)) {
				return fmt.Errorf("%s of %d are counted", &used, len(list.Items))
			}
			if l.first("delete") {
				l.must(l.CoreV1().Secrets(l.name).Delete(l.ctx, "a", metav1.DeleteOptions{}))
				return errNotYet
			}
			return nil
		},
	},
	{ // A namespace has an account and the CA, whoever takes them away.
		code:  "base",
		begin: (*life).space,
		step: func(l *life) error {
			_, err := l.CoreV1().ServiceAccounts(l.name).Get(l.ctx, "default", now)
			m, mapErr := l.CoreV1().ConfigMaps(l.name).Get(l.ctx, "kube-root-ca.crt", now)
			if err := errors.Join(err, mapErr); err != nil {
				return err
			}
			if m.Data["ca.crt"] == "" {
				return errors.New("there is no CA")
			}
			if l.first("take away") {
				l.must(l.CoreV1().ServiceAccounts(l.name).Delete(l.ctx, "default", metav1.DeleteOptions{}))
				_, err := l.CoreV1().ConfigMaps(l.name).Patch(l.ctx, m.Name, types.MergePatchType, []byte(`{"data":null}`), metav1.PatchOptions{})
				l.must(err)
				return errNotYet
			}
			return nil
		},
	},
	{ // A token is there, and goes with its account.
		code: "said",
		begin: func(l *life) {
			l.space()
			account, err := l.CoreV1().ServiceAccounts(l.name).Create(l.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
			l.must(err)
			_, err = l.CoreV1().Secrets(l.name).Create(l.ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "token", Annotations: map[string]string{corev1.ServiceAccountNameKey: account.Name}}, Type: corev1.SecretTypeServiceAccountToken,
			}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			secret, err := l.CoreV1().Secrets(l.name).Get(l.ctx, "token", now)
			if l.seen["delete"] {
				return gone(err)
			}
			l.must(err)
			if len(secret.Data["token"]) == 0 || len(secret.Data["ca.crt"]) == 0 {
				return errors.New("it is empty")
			}
			l.must(l.CoreV1().ServiceAccounts(l.name).Delete(l.ctx, "robot", metav1.DeleteOptions{}))
			l.seen["delete"] = true
			return errNotYet
		},
	},
	{ // A machine gets its certificate, and an old request goes.
		code: "cert",
		begin: func(l *life) {
			joining := &user.DefaultInfo{Name: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", "system:bootstrappers:skiff:nodes"}}
			l.ask(l.name, joining, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject(l.name)})
			l.ask(l.name+"-old", joining, "example.com/signer", certificatesv1.UsageClientAuth, x509.CertificateRequest{Subject: subject(l.name)})
			requests := l.CertificatesV1().CertificateSigningRequests()
			old, err := requests.Get(l.ctx, l.name+"-old", now)
			l.must(err)
			old.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
				Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "No", LastUpdateTime: metav1.NewTime(time.Now().Add(-2 * time.Hour)),
			}}
			_, err = requests.UpdateApproval(l.ctx, old.Name, old, metav1.UpdateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			_, err := l.CertificatesV1().CertificateSigningRequests().Get(l.ctx, l.name+"-old", now)
			if err := gone(err); err != nil {
				return err
			}
			request, err := l.CertificatesV1().CertificateSigningRequests().Get(l.ctx, l.name, now)
			l.must(err)
			l.never("it was decided twice", len(request.Status.Conditions) > 1)
			return unless(len(request.Status.Certificate) > 0, "conditions are %v", request.Status.Conditions)
		},
	},
	{ // A token signs what joining machines read, and is gone without a trace when its time is over.
		code: "tokn",
		begin: func(l *life) {
			_, err := l.CoreV1().Secrets("kube-system").Create(l.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + l.name}, Type: corev1.SecretTypeBootstrapToken,
				StringData: map[string]string{"token-id": l.name, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			info, err := l.CoreV1().ConfigMaps("kube-public").Get(l.ctx, "cluster-info", now)
			l.must(err)
			_, signed := info.Data["jws-kubeconfig-"+l.name]
			if l.seen["end"] {
				_, err := l.CoreV1().Secrets("kube-system").Get(l.ctx, "bootstrap-token-"+l.name, now)
				return errors.Join(gone(err), unless(!signed, "it is signed"))
			}
			if !signed {
				return errors.New("it is not signed")
			}
			patch := fmt.Sprintf(`{"stringData":{"expiration":%q}}`, time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
			_, err = l.CoreV1().Secrets("kube-system").Patch(l.ctx, "bootstrap-token-"+l.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			l.must(err)
			l.seen["end"] = true
			return errNotYet
		},
	},
	{ // A role has the rules of those that it selects.
		code: "role",
		begin: func(l *life) {
			part := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: l.name + "-part", Labels: map[string]string{"part": l.name}},
				Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
			whole := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: l.name}, AggregationRule: &rbacv1.AggregationRule{
				ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: part.Labels}},
			}}
			for _, role := range []*rbacv1.ClusterRole{whole, part} {
				_, err := l.RbacV1().ClusterRoles().Create(l.ctx, role, metav1.CreateOptions{})
				l.must(err)
			}
		},
		step: func(l *life) error {
			role, err := l.RbacV1().ClusterRoles().Get(l.ctx, l.name, now)
			l.must(err)
			want := 1
			if l.seen["take away"] {
				want = 0
			}
			if len(role.Rules) != want {
				return fmt.Errorf("rules are %v", role.Rules)
			}
			if l.first("take away") {
				l.must(l.RbacV1().ClusterRoles().Delete(l.ctx, l.name+"-part", metav1.DeleteOptions{}))
				return errNotYet
			}
			return nil
		},
	},
	{ // An outdated bundle of the API server's goes.
		code: "ctbx",
		begin: func(l *life) {
			_, err := l.CertificatesV1().ClusterTrustBundles().Create(l.ctx, &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:" + l.name},
				Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "kubernetes.io/kube-apiserver-serving", TrustBundle: string(l.keys.KubeletCA.PEM())}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			_, err := l.CertificatesV1().ClusterTrustBundles().Get(l.ctx, "kubernetes.io:kube-apiserver-serving:"+l.name, now)
			return gone(err)
		},
	},
	{ // All objects of a resource are written anew.
		code: "migr",
		begin: func(l *life) {
			l.space()
			_, err := l.CoreV1().PodTemplates(l.name).Create(l.ctx, &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Template: l.template("v1")}, metav1.CreateOptions{})
			l.must(err)
			_, err = l.StoragemigrationV1().StorageVersionMigrations().Create(l.ctx, &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: l.name},
				Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "podtemplates"}}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			m, err := l.StoragemigrationV1().StorageVersionMigrations().Get(l.ctx, l.name, now)
			l.must(err)
			running := meta.FindStatusCondition(m.Status.Conditions, string(storagemigrationv1.MigrationRunning))
			ended := running != nil && running.Status == metav1.ConditionFalse && meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationSucceeded))
			return unless(ended, "status is %+v", m.Status)
		},
	},
	{ // The expressions of a policy are checked.
		code: "poli",
		begin: func(l *life) {
			_, err := l.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(l.ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: l.name},
				Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
					MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
						Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
						Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
					}}}},
					Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.nothing == 1"}},
				}}, metav1.CreateOptions{})
			l.must(err)
		},
		step: func(l *life) error {
			policy, err := l.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(l.ctx, l.name, now)
			l.must(err)
			checked := policy.Status.TypeChecking
			return unless(checked != nil && len(checked.ExpressionWarnings) == 1, "status is %+v", policy.Status)
		},
	},
}

// addOnStory is about an add-on that changes, maybe while nobody looks.
func addOnStory(dir string) story {
	file := func(l *life) string { return filepath.Join(dir, l.name+".yaml") }
	manifest := func(l *life, names ...string) {
		text := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n", l.name)
		for _, name := range names {
			text += fmt.Sprintf("---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: %s}}\n", name, l.name)
		}
		l.must(os.WriteFile(file(l), []byte(text), 0o600))
	}
	has := func(l *life, name string) bool {
		_, err := l.CoreV1().ConfigMaps(l.name).Get(l.ctx, name, now)
		if !apierrors.IsNotFound(err) {
			l.must(err)
		}
		return err == nil
	}
	change := func(l *life) {
		manifest(l, "two")
		l.seen["changed"] = true
	}
	return story{
		code:  "addn",
		begin: func(l *life) { manifest(l, "one", "two") },
		step: func(l *life) error {
			one, two := has(l, "one"), has(l, "two")
			if !l.seen["changed"] {
				if one && two {
					change(l)
				}
				return errNotYet
			}
			inventory, err := l.CoreV1().ConfigMaps("kube-system").Get(l.ctx, "addon-"+l.name, now)
			if err != nil {
				return err
			}
			l.never("the inventory is of another add-on", inventory.Labels[addons.AddOnLabel] != l.name)
			return unless(!one && two && !strings.Contains(inventory.Data["objects"], `"one"`), "one: %v, two: %v, %v", one, two, inventory.Data)
		},
		meanwhile: change,
	}
}
