// SPDX-License-Identifier: Apache-2.0

package attachdetach

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	basemetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

type cluster struct {
	*controllertest.Cluster
	t        *testing.T
	measured *metrics.Attachments
}

const volumeName = corev1.UniqueVolumeName("kubernetes.io/csi/x.io^vol")

// start runs the controller with nodes a and b, and a claim whose volume can be on one node.
func start(t *testing.T, objects ...runtime.Object) *cluster {
	node := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: "uid-claim"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim", UID: "uid-claim"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "x.io", VolumeHandle: "vol"}},
	}}
	measured := metrics.New()
	if err := measured.Register(basemetrics.NewKubeRegistry()); err != nil {
		t.Fatal(err)
	}
	c := &cluster{controllertest.New(t, append(objects, node("a"), node("b"), claim, pv)...), t, measured.Attachment}
	controller, err := New(c.Clientset, c.Factory, c.Events, measured.Attachment)
	if err != nil {
		t.Fatal(err)
	}
	c.Run(controller)
	c.settle()
	return c
}

func (c *cluster) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func user(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{
		Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}}}}}
}

// want checks the attachments, as in "a:true", and what a's status says of them.
func (c *cluster) want(attachments string, attached bool) {
	c.t.Helper()
	c.settle()
	list, err := c.StorageV1().VolumeAttachments().List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var have []string
	for _, a := range list.Items {
		have = append(have, fmt.Sprintf("%s:%t", a.Spec.NodeName, a.Status.Attached))
	}
	slices.Sort(have)
	node, err := c.CoreV1().Nodes().Get(c.t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	says := slices.Contains(node.Status.VolumesAttached, corev1.AttachedVolume{Name: volumeName})
	if got := strings.Join(have, " "); got != attachments || says != attached {
		c.t.Errorf("attachments are %q, node a says %t; want %q, %t", got, says, attachments, attached)
	}
}

func (c *cluster) wantEvent(want string) {
	c.t.Helper()
	var all []string
	for len(c.Events.Events) > 0 {
		e := <-c.Events.Events
		if e == want {
			return
		}
		all = append(all, e)
	}
	c.t.Errorf("no event %q in %q", want, all)
}

// setAttached is what an attacher does.
func (c *cluster) setAttached(node string, change func(*storagev1.VolumeAttachmentStatus)) {
	c.t.Helper()
	name := attachmentName(&corev1.CSIPersistentVolumeSource{Driver: "x.io", VolumeHandle: "vol"}, node)
	a, err := c.StorageV1().VolumeAttachments().Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	change(&a.Status)
	if _, err := c.StorageV1().VolumeAttachments().UpdateStatus(c.t.Context(), a, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func attached(s *storagev1.VolumeAttachmentStatus) {
	s.Attached, s.AttachError = true, nil
}

func (c *cluster) changeNode(name string, change func(*corev1.Node)) {
	c.t.Helper()
	node, err := c.CoreV1().Nodes().Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	change(node)
	if _, err := c.CoreV1().Nodes().Update(c.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) createPod(pod *corev1.Pod) {
	c.t.Helper()
	if _, err := c.CoreV1().Pods("ns").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) deletePod(name string) {
	c.t.Helper()
	if err := c.CoreV1().Pods("ns").Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// A volume follows its pods from node to node, one node at a time.
func TestVolumeFollowsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, user("one", "a"))
		c.want("a:false", false)
		c.setAttached("a", func(s *storagev1.VolumeAttachmentStatus) {
			s.AttachError = &storagev1.VolumeError{Message: "no such disk"}
		})
		c.wantEvent(`Warning FailedAttachVolume AttachVolume.Attach failed for volume "pv" : no such disk`)
		c.setAttached("a", attached)
		c.want("a:true", true)
		c.wantEvent(`Normal SuccessfulAttachVolume AttachVolume.Attach succeeded for volume "pv" `)
		one := []metrics.Attachment{{Node: "a", Driver: "x.io"}}
		if needed, attached := c.measured.List(); !slices.Equal(needed, one) || !slices.Equal(attached, one) {
			t.Errorf("the metrics say that %v is needed and %v attached", needed, attached)
		}
		c.changeNode("a", func(n *corev1.Node) { n.Status.VolumesInUse = []corev1.UniqueVolumeName{volumeName} })

		c.createPod(user("two", "b"))
		c.want("a:true", true)
		c.wantEvent(`Warning FailedAttachVolume Waiting for detach for volume "pv" Volume is already used by pod(s) one`)
		c.deletePod("one")
		c.want("a:true", true) // node a has it mounted
		c.changeNode("a", func(n *corev1.Node) { n.Status.VolumesInUse = nil })
		c.want("b:false", false)
	})
}

// A node that does not answer loses its volumes in the end, or at once if somebody says so.
func TestForcedDetach(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Node)
		after  time.Duration
		reason string // for the metrics
	}{
		"not ready": {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, maxWait, metrics.DetachedAfterTimeout},
		"out of service": {func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		}, 0, metrics.DetachedOutOfService},
		"gone": {nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := start(t, user("one", "b"))
				cluster.setAttached("b", attached)
				cluster.changeNode("b", func(n *corev1.Node) { n.Status.VolumesInUse = []corev1.UniqueVolumeName{volumeName} })
				cluster.deletePod("one")
				cluster.want("b:true", false)
				if c.change != nil {
					cluster.changeNode("b", c.change)
				} else if err := cluster.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				if c.after > 0 {
					time.Sleep(c.after - time.Minute)
					cluster.want("b:true", false)
					time.Sleep(time.Minute)
				}
				cluster.want("", false)
				for _, reason := range []string{metrics.DetachedAfterTimeout, metrics.DetachedOutOfService} {
					n, err := testutil.GetCounterMetricValue(cluster.measured.Forced.WithLabelValues(reason))
					if want := reason == c.reason; err != nil || (n == 1) != want {
						t.Errorf("%v detached by force because of %s (%v), want %t", n, reason, err, want)
					}
				}
			})
		})
	}
}

// What needs no attachment gets none, and what somebody else attached stays.
func TestLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "foreign", UID: types.UID("f")}, Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "x.io", NodeName: "b", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv")}}}
		driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "x.io"}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}}
		ended := user("ended", "a")
		ended.Status.Phase = corev1.PodSucceeded
		c := start(t, foreign, driver, user("one", "a"), ended)
		c.want("b:false", false)
		time.Sleep(time.Hour)
		c.want("b:false", false)
	})
}
