// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// cluster is a scheduler on an API without a server. Its clock is synctest's.
type cluster struct {
	*testing.T
	client     *fake.Clientset
	scheduler  *Scheduler
	bindErrors []error // what the next bindings answer
}

// inCluster runs a story in a cluster of its own.
func inCluster(t *testing.T, story func(c *cluster), objects ...runtime.Object) {
	inConfigured(t, Config{}, story, objects...)
}

func inConfigured(t *testing.T, config Config, story func(c *cluster), objects ...runtime.Object) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{T: t, client: fake.NewClientset(objects...)}
		c.client.PrependReactor("create", "pods", c.bind)
		factory := informers.NewSharedInformerFactory(c.client, 0)
		life, end := context.WithCancel(t.Context())
		defer end()
		config.StartInformers = func() { factory.StartWithContext(life) }
		s, err := New(config, c.client, factory, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.scheduler = s
		ctx, cancel := context.WithCancel(t.Context())
		config.StartInformers()
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		story(c)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		end()
		factory.Shutdown()
		time.Sleep(time.Hour) // lets the event broadcaster's timers run out
	})
}

// bind does what the pods/binding subresource does.
func (c *cluster) bind(action clienttesting.Action) (bool, runtime.Object, error) {
	create := action.(clienttesting.CreateAction)
	if create.GetSubresource() != "binding" {
		return false, nil, nil
	}
	if len(c.bindErrors) > 0 {
		err := c.bindErrors[0]
		c.bindErrors = c.bindErrors[1:]
		return true, nil, err
	}
	binding := create.GetObject().(*v1.Binding)
	obj, err := c.client.Tracker().Get(action.GetResource(), action.GetNamespace(), binding.Name)
	if err != nil {
		return true, nil, err
	}
	pod := obj.(*v1.Pod).DeepCopy()
	if pod.Spec.NodeName != "" {
		return true, nil, fmt.Errorf("pod %s is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	}
	pod.Spec.NodeName = binding.Target.Name
	return true, binding, c.client.Tracker().Update(action.GetResource(), pod, pod.Namespace)
}

func (c *cluster) create(pods ...*v1.Pod) {
	c.Helper()
	for _, pod := range pods {
		if _, err := c.client.CoreV1().Pods(pod.Namespace).Create(c.Context(), pod, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
	}
	synctest.Wait()
	time.Sleep(time.Millisecond) // the next event of a pod gets a name of its own
}

func (c *cluster) addNode(node *v1.Node) {
	c.Helper()
	if _, err := c.client.CoreV1().Nodes().Create(c.Context(), node, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	synctest.Wait()
}

func (c *cluster) delete(name string) {
	c.Helper()
	if err := c.client.CoreV1().Pods("default").Delete(c.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
	synctest.Wait()
}

func (c *cluster) pod(name string) *v1.Pod {
	c.Helper()
	pod, err := c.client.CoreV1().Pods("default").Get(c.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return pod
}

func (c *cluster) wantNode(name, node string) {
	c.Helper()
	if got := c.pod(name).Spec.NodeName; got != node {
		c.Errorf("pod %s is on node %q, want %q", name, got, node)
	}
}

func (c *cluster) wantNominated(name, node string) {
	c.Helper()
	if got := c.pod(name).Status.NominatedNodeName; got != node {
		c.Errorf("pod %s is nominated to node %q, want %q", name, got, node)
	}
}

func (c *cluster) wantCondition(name, reason, message string) {
	c.Helper()
	for _, condition := range c.pod(name).Status.Conditions {
		if condition.Type == v1.PodScheduled {
			if condition.Status != v1.ConditionFalse || condition.Reason != reason || condition.Message != message {
				c.Errorf("PodScheduled of %s is %s %s %q, want False %s %q", name, condition.Status, condition.Reason, condition.Message, reason, message)
			}
			return
		}
	}
	c.Errorf("pod %s has no condition PodScheduled", name)
}

func (c *cluster) event(name, reason string) *eventsv1.Event {
	c.Helper()
	list, err := c.client.EventsV1().Events("default").List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	for i := range list.Items {
		if e := &list.Items[i]; e.Regarding.Name == name && e.Reason == reason {
			return e
		}
	}
	c.Fatalf("pod %s has no event %s", name, reason)
	return nil
}

func newNode(name string, change ...func(*v1.Node)) *v1.Node {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status:     v1.NodeStatus{Allocatable: resources("4", "8Gi", "110")},
	}
	for _, f := range change {
		f(node)
	}
	return node
}

func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Generation: 1},
		Spec:       v1.PodSpec{SchedulerName: v1.DefaultSchedulerName, Containers: []v1.Container{{Name: "c", Image: "img"}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func resources(cpu, memory, pods string) v1.ResourceList {
	list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	if pods != "" {
		list[v1.ResourcePods] = resource.MustParse(pods)
	}
	return list
}

func cpu(quantity string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(quantity)}
	}
}

func priority(value int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = &value } }

func TestScheduled(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("p"))
		c.wantNode("p", "n1")
		e := c.event("p", "Scheduled")
		if e.Note != "Successfully assigned default/p to n1" || e.ReportingController != "default-scheduler" || e.Action != "Binding" {
			t.Errorf("event is %q by %q (%s)", e.Note, e.ReportingController, e.Action)
		}
	}, newNode("n1"))
}

func TestUnschedulable(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("p", cpu("5")))
		c.wantNode("p", "")
		message := "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
		c.wantCondition("p", "Unschedulable", message)
		if e := c.event("p", "FailedScheduling"); e.Note != message || e.Action != "Scheduling" {
			t.Errorf("event is %q (%s)", e.Note, e.Action)
		}
		c.addNode(newNode("n3", func(n *v1.Node) { n.Status.Allocatable = resources("8", "1Gi", "10") }))
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("p", "n3")
	}, newNode("n1"), newNode("n2"))
}

func TestOtherScheduler(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("p", func(p *v1.Pod) { p.Spec.SchedulerName = "other" }))
		time.Sleep(time.Minute)
		c.wantNode("p", "")
	}, newNode("n1"))
}

func TestGates(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("p", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}} }))
		time.Sleep(10 * time.Minute)
		c.wantNode("p", "")
		pod := c.pod("p")
		pod.Spec.SchedulingGates = nil
		if _, err := c.client.CoreV1().Pods("default").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.wantNode("p", "n1")
	}, newNode("n1"))
}

// A failed binding gives the room back, and the pod is tried again after its back-off.
func TestBindingFails(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.bindErrors = []error{fmt.Errorf("no")}
		c.create(newPod("p", cpu("3")))
		c.wantNode("p", "")
		c.wantCondition("p", "SchedulerError", `running Bind plugin "DefaultBinder": no`)
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("p", "n1")
	}, newNode("n1"))
}

func TestFreedRoomIsUsed(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("a", cpu("3")))
		c.create(newPod("b", cpu("3")))
		c.wantNode("b", "")
		c.delete("a")
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("b", "n1")
	}, newNode("n1"))
}

// A scheduler that stops being the leader takes up again where it was when it is elected once more.
func TestRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{T: t, client: fake.NewClientset(newNode("n1"), newClass("wait"))}
		c.client.PrependReactor("create", "pods", c.bind)
		factory := informers.NewSharedInformerFactory(c.client, 0)
		life, end := context.WithCancel(t.Context())
		factoryStarts := func() { factory.StartWithContext(life) }
		s, err := New(Config{StartInformers: factoryStarts}, c.client, factory, nil)
		if err != nil {
			t.Fatal(err)
		}
		factoryStarts()
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			synctest.Wait()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Run = %v", err)
				}
			}
		}
		stop := run()
		c.create(newPod("big", cpu("5")), newPod("claims", claim("c"))) // the second starts informers
		c.wantNode("claims", "")
		stop()
		c.create(newPod("meanwhile"))
		c.addNode(newNode("n2", func(n *v1.Node) { n.Status.Allocatable = resources("8", "1Gi", "10") }))
		time.Sleep(time.Hour)
		c.wantNode("meanwhile", "")
		c.scheduler = s
		if e := c.explain("meanwhile", http.StatusOK); e.State != "elsewhere" {
			t.Errorf("explanation of a scheduler that does not run is %+v", e)
		}
		stop = run()
		if _, err := c.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), waitingClaim("c", "wait"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		c.wantNode("big", "n2")
		c.wantNode("meanwhile", c.pod("meanwhile").Spec.NodeName)
		if c.pod("meanwhile").Spec.NodeName == "" || !strings.Contains(c.message("claims"), "volumes to bind") {
			t.Errorf("after the second start: meanwhile on %q, claims waits for %q", c.pod("meanwhile").Spec.NodeName, c.message("claims"))
		}
		stop()
		end()
		factory.Shutdown()
		time.Sleep(time.Hour)
	})
}

func newClass(name string) *storagev1.StorageClass {
	late := storagev1.VolumeBindingWaitForFirstConsumer
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &late}
}

func waitingClaim(name, class string) *v1.PersistentVolumeClaim {
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec:       v1.PersistentVolumeClaimSpec{StorageClassName: &class},
	}
}

func claim(name string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

func (c *cluster) message(name string) string {
	for _, condition := range c.pod(name).Status.Conditions {
		if condition.Type == v1.PodScheduled {
			return condition.Message
		}
	}
	return ""
}
