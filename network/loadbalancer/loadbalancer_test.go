// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Who gets addresses, and who is let go of: never a Service of somebody else.
func TestSplit(t *testing.T) {
	held := func(svc *corev1.Service) { svc.Finalizers = []string{Finalizer} }
	deleted := func(svc *corev1.Service) { svc.DeletionTimestamp = ptr.To(metav1.Now()) }
	inside := func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }
	classed := func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = ptr.To("example.com/lb") }
	var services []*corev1.Service
	for name, changes := range map[string][]func(*corev1.Service){
		"new": nil, "held": {held},
		"deleted": {held, deleted}, "inside": {held, inside},
		"-gone": {deleted}, "-inside": {inside}, "-classed": {classed}, "-classed, held": {classed, held, deleted},
	} {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		for _, change := range changes {
			change(svc)
		}
		services = append(services, svc)
	}
	names := func(services []*corev1.Service) (names []string) {
		for _, svc := range services {
			names = append(names, svc.Name)
		}
		slices.Sort(names)
		return names
	}
	staying, leaving := Split(services)
	if got := names(staying); !slices.Equal(got, []string{"held", "new"}) {
		t.Errorf("%q have addresses", got)
	}
	if got := names(leaving); !slices.Equal(got, []string{"deleted", "inside"}) {
		t.Errorf("%q are let go of", got)
	}
}
