// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/scheduler/plugins"
)

func (c *cluster) exists(name string) bool {
	list, err := c.client.CoreV1().Pods("default").List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return slices.ContainsFunc(list.Items, func(p v1.Pod) bool { return p.Name == name })
}

func labelled(key, value string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Labels = map[string]string{key: value} }
}

func startedAt(t time.Time) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Status.StartTime = &metav1.Time{Time: t} }
}

// The least important pod goes; the preemptor is nominated and then bound.
func TestPreemption(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("low", cpu("2"), priority(1)), newPod("middle", cpu("2"), priority(5)))
		c.create(newPod("high", cpu("2"), priority(10)))
		if c.exists("low") || !c.exists("middle") {
			t.Fatalf("low exists: %v, middle exists: %v", c.exists("low"), c.exists("middle"))
		}
		if e := c.event("low", "Preempted"); e.Note != "Preempted by pod high on node n1" || e.Action != "Preempting" || e.Related.Name != "high" {
			t.Errorf("event is %q (%s) with %v", e.Note, e.Action, e.Related)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("high", "n1")
		c.wantCondition("high", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node n1, preempting 1 victims")
	}, newNode("n1"))
}

// A victim that could not be deleted is tried to delete again, though nothing happens in the cluster.
func TestPreemptionFails(t *testing.T) {
	inCluster(t, func(c *cluster) {
		failures := 2
		c.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			failures--
			return failures >= 0, nil, errors.New("no")
		})
		c.create(newPod("low", cpu("3"), priority(1)))
		c.create(newPod("high", cpu("3"), priority(10)))
		c.wantNode("high", "")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		c.wantNode("high", "n1")
	}, newNode("n1"))
}

func TestPreemptionNever(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("low", cpu("4"), priority(1)))
		c.create(newPod("high", cpu("2"), priority(10), func(p *v1.Pod) {
			never := v1.PreemptNever
			p.Spec.PreemptionPolicy = &never
		}))
		time.Sleep(time.Hour)
		if !c.exists("low") {
			t.Error("low was preempted")
		}
		c.wantCondition("high", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.")
	}, newNode("n1"))
}

// A PodDisruptionBudget turns the choice of the node; of equal pods the younger goes.
func TestPreemptionSparesBudgets(t *testing.T) {
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}},
	}
	inCluster(t, func(c *cluster) {
		on := func(node string) func(*v1.Pod) {
			return func(p *v1.Pod) { p.Spec.NodeName = node }
		}
		c.create(
			newPod("guarded", cpu("4"), priority(1), labelled("app", "guarded"), on("n1")),
			newPod("old", cpu("2"), priority(3), on("n2"), startedAt(time.Now().Add(-time.Hour))),
			newPod("young", cpu("2"), priority(3), on("n2"), startedAt(time.Now())),
		)
		c.create(newPod("high", cpu("2"), priority(10)))
		if !c.exists("guarded") || !c.exists("old") || c.exists("young") {
			t.Errorf("guarded: %v, old: %v, young: %v", c.exists("guarded"), c.exists("old"), c.exists("young"))
		}
	}, newNode("n1"), newNode("n2"), budget)
}

// A claim that waits for its first consumer is told the node, and the pod is bound after the claim. Meanwhile it is nominated to the node, and
// no longer if the volume cannot be made there.
func TestWaitForFirstConsumer(t *testing.T) {
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "wait"}, Provisioner: "csi.example.com", VolumeBindingMode: &mode}
	name := "wait"
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", UID: "data"},
		Spec:       v1.PersistentVolumeClaimSpec{StorageClassName: &name, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}},
	}
	inCluster(t, func(c *cluster) {
		c.create(newPod("p", func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		}))
		claims := c.client.CoreV1().PersistentVolumeClaims("default")
		claim, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
		if err != nil || claim.Annotations[volume.AnnSelectedNode] != "n1" {
			t.Fatalf("selected node of %v is %q (%v)", claim.Name, claim.Annotations[volume.AnnSelectedNode], err)
		}
		c.wantNode("p", "")
		c.wantNominated("p", "n1")
		delete(claim.Annotations, volume.AnnSelectedNode)
		if _, err := claims.Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		c.wantNominated("p", "")
		c.wantCondition("p", "SchedulerError", `running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "data"`)
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNominated("p", "n1")
		if claim, err = claims.Get(t.Context(), "data", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.client.CoreV1().PersistentVolumes().Create(t.Context(), &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		claim.Spec.VolumeName = "pv"
		claim.Annotations[volume.AnnBindCompleted] = "yes"
		if _, err := claims.Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("p", "n1")
	}, newNode("n1"), class, claim)
}

// A pod that is ended by somebody while it is being tried is not tried again.
func TestEndedInFlight(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if action.GetSubresource() != "binding" {
				return false, nil, nil
			}
			obj, err := c.client.Tracker().Get(action.GetResource(), action.GetNamespace(), "p")
			if err != nil {
				t.Error(err)
			}
			pod := obj.(*v1.Pod).DeepCopy()
			pod.Status.Phase = v1.PodFailed
			if err := c.client.Tracker().Update(action.GetResource(), pod, pod.Namespace); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond) // for the news to come
			return true, nil, errors.New("too late")
		})
		c.create(newPod("p"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if active, backoff, unschedulable, inFlight := c.scheduler.queue.Pending(); active+backoff+unschedulable+inFlight > 0 {
			t.Errorf("%d active, %d in back-off, %d unschedulable, %d in flight", active, backoff, unschedulable, inFlight)
		}
	}, newNode("n1"))
}

// A second pod with the claim follows the first to its node at once, before the API tells which one that is.
func TestSharedClaim(t *testing.T) {
	class, name := newClass("wait"), "wait"
	class.Provisioner = "csi.example.com"
	shared := waitingClaim("data", name)
	inCluster(t, func(c *cluster) {
		var late []runtime.Object // updates of the claim that the scheduler has sent and that have not arrived
		hold := true
		c.client.PrependReactor("update", "persistentvolumeclaims", func(action clienttesting.Action) (bool, runtime.Object, error) {
			object := action.(clienttesting.UpdateAction).GetObject()
			if hold {
				late = append(late, object)
			}
			return hold, object, nil
		})
		c.create(newPod("first", claim("data")))
		c.addNode(newNode("n2")) // where more is left
		c.create(newPod("second", claim("data")))
		if len(late) == 0 {
			t.Fatal("no node was selected for the claim")
		}
		for _, object := range late {
			if node := object.(*v1.PersistentVolumeClaim).Annotations[volume.AnnSelectedNode]; node != "n1" {
				t.Errorf("the claim's volume is to be made on %s", node)
			}
		}
		c.wantNominated("second", "n1")
		hold = false
	}, newNode("n1"), class, shared)
}

// waiting is a pod with a claim that no provisioner looks after, so that it is not bound for a long time.
func waiting(name string) (*v1.Pod, []runtime.Object) {
	class := newClass("wait")
	class.Provisioner = "csi.example.com"
	return newPod(name, cpu("3"), claim("data")), []runtime.Object{class, waitingClaim("data", "wait")}
}

// A pod that is not bound yet gives way to a more important one without being deleted.
func TestPreemptionInMemory(t *testing.T) {
	low, objects := waiting("low")
	inCluster(t, func(c *cluster) {
		c.create(low)
		c.wantNominated("low", "n1")
		c.create(newPod("high", cpu("3"), priority(10)))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		c.wantNode("high", "n1")
		c.wantNode("low", "")
		c.wantNominated("low", "")
		var notes []string // two events have one name, since time stands still
		for _, action := range c.client.Actions() {
			if create, ok := action.(clienttesting.CreateAction); ok && action.Matches("create", "events") {
				notes = append(notes, create.GetObject().(*eventsv1.Event).Note)
			}
		}
		for _, want := range []string{
			"Preempted by pod high on node n1 (in kube-scheduler memory).", `running PreBind plugin "VolumeBinding": preempted by DefaultPreemption`,
		} {
			if !slices.Contains(notes, want) {
				t.Errorf("no event says %q: %q", want, notes)
			}
		}
	}, append(objects, newNode("n1"))...)
}

// The room of a pod that is deleted before it is bound is free at once.
func TestDeletedBeforeBound(t *testing.T) {
	first, objects := waiting("first")
	inCluster(t, func(c *cluster) {
		c.create(first)
		c.create(newPod("second", cpu("3")))
		c.wantNode("second", "")
		c.delete("first")
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("second", "n1")
	}, append(objects, newNode("n1"))...)
}

func TestMissingClaim(t *testing.T) {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{"n2"}}},
	}}}}
	inCluster(t, func(c *cluster) {
		c.create(newPod("p", func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		}))
		c.wantCondition("p", "Unschedulable", `0/2 nodes are available: persistentvolumeclaim "data" not found. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.`)
		_, err := c.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), &v1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", Annotations: map[string]string{volume.AnnBindCompleted: "yes"}},
			Spec:       v1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		c.wantNode("p", "n2") // where its volume is
	}, newNode("n1"), newNode("n2"), pv)
}

// Pods of one ReplicaSet, or Service, go to different nodes by default.
func TestDefaultSpread(t *testing.T) {
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: v1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
	inCluster(t, func(c *cluster) {
		nodes := make(map[string]int)
		for i := range 6 {
			name := fmt.Sprint("p", i)
			c.create(newPod(name, labelled("app", "web")))
			nodes[c.pod(name).Spec.NodeName]++
		}
		for _, n := range []string{"n1", "n2", "n3"} {
			if nodes[n] != 2 {
				t.Errorf("pods by node are %v, want 2 on each", nodes)
				break
			}
		}
	}, newNode("n1"), newNode("n2"), newNode("n3"), service)
}

func TestNoNodes(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.create(newPod("p"))
		c.wantCondition("p", "Unschedulable", "no nodes available to schedule pods")
		time.Sleep(time.Hour) // without a node, no attempt is worth it
		c.addNode(newNode("n1"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		c.wantNode("p", "n1")
	})
}

// Two profiles with their own plugins; the others' pods are left alone.
func TestProfiles(t *testing.T) {
	config := Config{Profiles: []Profile{{SchedulerName: v1.DefaultSchedulerName}, {SchedulerName: "second", Plugins: plugins.Default()}}}
	inConfigured(t, config, func(c *cluster) {
		c.create(newPod("p", func(p *v1.Pod) { p.Spec.SchedulerName = "second" }), newPod("q"))
		c.wantNode("p", "n1")
		c.wantNode("q", "n1")
	}, newNode("n1"))
}

// However bindings fail, each pod ends up on exactly one node, and no node has too many.
func TestNoPodIsLost(t *testing.T) {
	var objects []*v1.Node
	for i := range 10 {
		objects = append(objects, newNode(fmt.Sprint("n", i), func(n *v1.Node) { n.Status.Allocatable = resources("10", "8Gi", "110") }))
	}
	inCluster(t, func(c *cluster) {
		for _, n := range objects {
			c.addNode(n)
		}
		for i := range 20 {
			c.bindErrors = append(c.bindErrors, fmt.Errorf("conflict %d", i))
		}
		for i := range 100 {
			c.create(newPod(fmt.Sprint("p", i), cpu("1")))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		count := make(map[string]int)
		for i := range 100 {
			count[c.pod(fmt.Sprint("p", i)).Spec.NodeName]++
		}
		for i := range 10 {
			if n := fmt.Sprint("n", i); count[n] != 10 {
				t.Errorf("node %s has %d pods, want 10", n, count[n])
			}
		}
	})
}
