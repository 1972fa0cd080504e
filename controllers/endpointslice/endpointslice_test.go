// SPDX-License-Identifier: Apache-2.0

package endpointslice

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

func newNode(name, zone string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// hints are the zones that the endpoints are for, each with how many they are.
func hints(t *testing.T, c *controllertest.Cluster) string {
	t.Helper()
	time.Sleep(3 * time.Second)
	synctest.Wait()
	list, err := c.DiscoveryV1().EndpointSlices("ns").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			zone := "any"
			if endpoint.Hints != nil && len(endpoint.Hints.ForZones) > 0 {
				zone = endpoint.Hints.ForZones[0].Name
			}
			n[zone]++
		}
	}
	var out []string
	for zone := range n {
		out = append(out, fmt.Sprintf("%s:%d", zone, n[zone]))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// The hints of a Service are right from the first write on, and change when the nodes do.
func TestHintsFollowNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		labels := map[string]string{"app": "web"}
		objects := []runtime.Object{
			newNode("a", "x"), newNode("b", "y"),
			&corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", Annotations: map[string]string{corev1.AnnotationTopologyMode: "Auto"}},
				Spec:       corev1.ServiceSpec{Selector: labels, ClusterIP: "10.0.0.1", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80}}},
			},
		}
		for i := range 8 {
			ip := fmt.Sprintf("10.1.0.%d", i+1)
			objects = append(objects, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("web-", i), Namespace: "ns", Labels: labels},
				Spec:       corev1.PodSpec{NodeName: []string{"a", "b"}[i%2]},
				Status: corev1.PodStatus{
					Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
				},
			})
		}
		cluster := controllertest.New(t, objects...)
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Run(c)
		if got := hints(t, cluster); got != "x:4 y:4" {
			t.Errorf("endpoints are for %q, want half of them for each zone", got)
		}
		writes := 0
		for _, action := range cluster.Actions() {
			if action.Matches("create", "endpointslices") || action.Matches("update", "endpointslices") {
				writes++
			}
		}
		if writes != 1 {
			t.Errorf("the hints took %d writes, want 1", writes)
		}
		if err := cluster.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := hints(t, cluster); got != "any:4" { // a pod on a node that is not there is no endpoint
			t.Errorf("with one zone left, endpoints are for %q, want no hints", got)
		}
	})
}
