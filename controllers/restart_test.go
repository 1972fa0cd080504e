// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers"
)

// death makes the process of the controllers die after some writes of one controller in one namespace: the last one
// arrives, its answer does not, and nothing arrives afterwards.
type death struct {
	controller, namespace string
	after                 int // writes

	mu   sync.Mutex
	dead chan struct{}
}

// strike lets deps die that death.
func (d *death) strike(deps *controllers.Deps) {
	d.dead = make(chan struct{})
	configFor := deps.ConfigFor
	deps.ClientFor = func(name string) kubernetes.Interface {
		config := configFor(name)
		if name == d.controller {
			config.Wrap(func(next http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) { return d.send(next, r) })
			})
		}
		return kubernetes.NewForConfigOrDie(config)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (d *death) send(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet || !strings.Contains(r.URL.Path, "/namespaces/"+d.namespace+"/") || strings.HasSuffix(r.URL.Path, "/events") {
		return next.RoundTrip(r)
	}
	d.mu.Lock() // one write at a time: which is the last must be clear
	defer d.mu.Unlock()
	if d.after <= 0 {
		return nil, errors.New("the process is dead")
	}
	d.after--
	response, err := next.RoundTrip(r)
	if d.after > 0 || err != nil {
		return response, err
	}
	close(d.dead)
	return nil, errors.Join(errors.New("the process is dead"), response.Body.Close())
}

// story is something that controllers bring to an end, in a namespace.
type story struct {
	controller string
	begin      func(namespace string)
	// step does what kubelets and users would do next, and checks what must be true at any time.
	step func(ctx context.Context, namespace string) (done bool, err error)
}

// dieEverywhere tells the story again and again: each time the controllers die one write later, and others take over.
// It ends when they come to the end before they die.
func (c *cluster) dieEverywhere(s story) {
	c.t.Helper()
	start := func(n int) (d *death, stop func()) {
		d = &death{controller: s.controller, namespace: fmt.Sprint("life-", n), after: n}
		deps := c.deps()
		d.strike(&deps)
		return d, c.control(deps)
	}
	d, stop := start(1)
	defer func() { stop() }()
	for n := 1; n < 100; n++ {
		namespace := d.namespace
		c.namespace(namespace)
		s.begin(namespace)
		if c.tell(s, namespace, d.dead) {
			c.t.Logf("%d writes", n-1)
			return
		}
		stop()
		d, stop = start(n + 1) // it goes on with this one, and may die in the next
		if !c.tell(s, namespace, nil) {
			c.t.Fatalf("%s does not end after a death at write %d", s.controller, n)
		}
	}
	c.t.Fatal("no end after 100 lives")
}

// tell goes on with the story until its end; false if the controllers die.
func (c *cluster) tell(s story, namespace string, dead chan struct{}) bool {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var last error
	for {
		done, err := s.step(ctx, namespace)
		if err == nil && done {
			return true
		}
		last = err
		select {
		case <-dead:
			return false
		case <-ctx.Done():
			c.t.Fatalf("%s: no end in a minute; last: %v", namespace, last)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// act does the kubelet's part for all pods of a namespace.
func (c *cluster) act(ctx context.Context, pods []corev1.Pod, change func(*corev1.Pod) bool) error {
	for i := range pods {
		pod := pods[i].DeepCopy()
		if pod.DeletionTimestamp != nil || !change(pod) {
			continue
		}
		_, err := c.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// A Job never has more pods than it must account for, whenever its controller dies, and counts each once.
func TestJobSurvivesDeaths(t *testing.T) {
	c := serve(t)
	c.dieEverywhere(story{
		controller: "job-controller",
		begin: func(namespace string) {
			spec := twoPods()
			spec.Completions = ptr.To[int32](3)
			if _, err := c.BatchV1().Jobs(namespace).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: spec}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		step: func(ctx context.Context, namespace string) (bool, error) {
			pods, err := c.pods(ctx, namespace)
			if err != nil {
				return false, err
			}
			running, tracked := 0, 0
			for _, pod := range pods {
				if pod.Status.Phase == corev1.PodPending {
					running++
				}
				tracked += len(pod.Finalizers)
			}
			if len(pods) > 3 || running > 2 {
				t.Fatalf("%s: %d pods, %d at the same time", namespace, len(pods), running)
			}
			err = c.act(ctx, pods, func(pod *corev1.Pod) bool {
				ends := pod.Status.Phase == corev1.PodPending
				pod.Status.Phase = corev1.PodSucceeded
				return ends
			})
			if err != nil {
				return false, err
			}
			job, err := c.BatchV1().Jobs(namespace).Get(ctx, "job", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if job.Status.Succeeded > 3 || job.Status.Failed > 0 {
				t.Fatalf("%s: status is %+v", namespace, job.Status)
			}
			return job.Status.CompletionTime != nil && job.Status.Succeeded == 3 && tracked == 0, nil
		},
	})
}

// A StatefulSet is made and rolled out, whenever its controller dies, with one pod and one claim per ordinal and no
// revision too many.
func TestStatefulSetSurvivesDeaths(t *testing.T) {
	c := serve(t)
	rolling := map[string]bool{}
	c.dieEverywhere(story{
		controller: "statefulset-controller",
		begin: func(namespace string) {
			labels := map[string]string{"app": "db"}
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
				Replicas: ptr.To[int32](2), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "c", Image: "v1"}}, TerminationGracePeriodSeconds: ptr.To[int64](0),
				}},
				VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				}}},
			}}
			set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
			if _, err := c.AppsV1().StatefulSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		step: func(ctx context.Context, namespace string) (bool, error) {
			pods, err := c.pods(ctx, namespace)
			if err != nil {
				return false, err
			}
			if len(pods) > 2 {
				t.Fatalf("%s: %d pods", namespace, len(pods))
			}
			err = c.act(ctx, pods, func(pod *corev1.Pod) bool {
				starts := pod.Status.Phase == corev1.PodPending
				pod.Status.Phase = corev1.PodRunning
				pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
				return starts
			})
			if err != nil {
				return false, err
			}
			set, err := c.AppsV1().StatefulSets(namespace).Get(ctx, "db", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			s := set.Status
			ready := s.ObservedGeneration == set.Generation && s.ReadyReplicas == 2 && s.UpdatedReplicas == 2 && s.CurrentRevision == s.UpdateRevision
			if !ready {
				return false, fmt.Errorf("status is %+v", s)
			}
			if !rolling[namespace] {
				rolling[namespace] = true
				_, err := c.AppsV1().StatefulSets(namespace).Patch(ctx, "db", types.StrategicMergePatchType,
					[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`), metav1.PatchOptions{})
				return false, err
			}
			return c.isRolledOut(ctx, namespace)
		},
	})
}

func (c *cluster) isRolledOut(ctx context.Context, namespace string) (bool, error) {
	pods, err := c.pods(ctx, namespace)
	if err != nil {
		return false, err
	}
	for _, pod := range pods {
		if pod.Spec.Containers[0].Image != "v2" {
			return false, fmt.Errorf("%s is of %s", pod.Name, pod.Spec.Containers[0].Image)
		}
	}
	claims, err := c.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	revisions, err := c.AppsV1().ControllerRevisions(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	if len(pods) != 2 || len(claims.Items) != 2 || len(revisions.Items) != 2 {
		c.t.Fatalf("%s: %d pods, %d claims, %d revisions; want two of each", namespace, len(pods), len(claims.Items), len(revisions.Items))
	}
	return true, nil
}
