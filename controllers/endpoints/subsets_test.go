// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func newPod(ip string, ready bool, port int32) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: ip, UID: types.UID(ip)},
		Spec: corev1.PodSpec{
			NodeName:   "n",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: port}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}, {IP: "fd00::" + ip[len(ip)-1:]}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
}

func newService(families ...corev1.IPFamily) *corev1.Service {
	return &corev1.Service{Spec: corev1.ServiceSpec{
		ClusterIP:  "10.43.0.1",
		IPFamilies: families,
		Ports:      []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
	}}
}

func show(subsets []corev1.EndpointSubset) (s string) {
	for _, subset := range subsets {
		for _, a := range subset.Addresses {
			s += "+" + a.IP
		}
		for _, a := range subset.NotReadyAddresses {
			s += "-" + a.IP
		}
		for _, p := range subset.Ports {
			s += fmt.Sprintf(" %s=%d;", p.Name, p.Port)
		}
	}
	return s
}

func TestSubsets(t *testing.T) {
	pods := []*corev1.Pod{newPod("10.42.0.3", true, 8080), newPod("10.42.0.2", true, 8080), newPod("10.42.0.4", false, 8080), newPod("10.42.0.5", true, 9090)}
	for _, tc := range []struct {
		what    string
		service *corev1.Service
		want    string
	}{
		{"grouped by what the named port is", newService(corev1.IPv4Protocol), "+10.42.0.2+10.42.0.3-10.42.0.4 web=8080;+10.42.0.5 web=9090;"},
		{"in the first family", newService(corev1.IPv6Protocol, corev1.IPv4Protocol), "+fd00::2+fd00::3-fd00::4 web=8080;+fd00::5 web=9090;"},
		{"a port that no pod has", func() *corev1.Service {
			s := newService()
			s.Spec.Ports[0].TargetPort = intstr.FromString("other")
			return s
		}(), ""},
		{"not ready counts too", func() *corev1.Service {
			s := newService()
			s.Spec.PublishNotReadyAddresses = true
			s.Spec.Ports[0].TargetPort = intstr.FromInt32(1)
			return s
		}(), "+10.42.0.2+10.42.0.3+10.42.0.4+10.42.0.5 web=1;"},
		{"headless without ports", &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}, "+10.42.0.2+10.42.0.3+10.42.0.5-10.42.0.4"},
	} {
		if got := show(subsets(tc.service, pods)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, got, tc.want)
		}
	}
}

func TestTruncate(t *testing.T) {
	addresses := func(n int) []corev1.EndpointAddress { return make([]corev1.EndpointAddress, n) }
	for _, tc := range []struct{ ready1, not1, ready2, not2, wantReady, wantNot int }{
		{500, 100, 400, 0, 900, 100},
		{900, 300, 0, 100, 900, 100},
		{1500, 10, 500, 10, 1000, 0},
	} {
		subsets := []corev1.EndpointSubset{
			{Addresses: addresses(tc.ready1), NotReadyAddresses: addresses(tc.not1)},
			{Addresses: addresses(tc.ready2), NotReadyAddresses: addresses(tc.not2)},
		}
		truncate(subsets)
		ready := len(subsets[0].Addresses) + len(subsets[1].Addresses)
		not := len(subsets[0].NotReadyAddresses) + len(subsets[1].NotReadyAddresses)
		if ready != tc.wantReady || not != tc.wantNot {
			t.Errorf("%+v: %d ready and %d not", tc, ready, not)
		}
	}
}
