// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Endpoints that a user keeps for a Service without selector are there as slices, and go with either.
func TestEndpointSliceMirroring(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	service, err := c.CoreV1().Services("ns").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	endpoints := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Subsets:    []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}, Ports: []corev1.EndpointPort{{Port: 80, Protocol: corev1.ProtocolTCP}}}},
	}
	if endpoints, err = c.CoreV1().Endpoints("ns").Create(ctx, endpoints, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := func(what string, address string) {
		t.Helper()
		c.eventually(what, func(ctx context.Context) error {
			list, err := c.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=db"})
			if err != nil {
				return err
			}
			got := ""
			for _, slice := range list.Items {
				for _, e := range slice.Endpoints {
					got += e.Addresses[0]
				}
			}
			if got != address {
				return fmt.Errorf("slices say %q, want %q", got, address)
			}
			return nil
		})
	}
	want("the address is mirrored", "10.1.2.3")

	endpoints.Subsets[0].Addresses[0].IP = "10.1.2.4"
	if endpoints, err = c.CoreV1().Endpoints("ns").Update(ctx, endpoints, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("the new address is mirrored", "10.1.2.4")

	endpoints.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	if endpoints, err = c.CoreV1().Endpoints("ns").Update(ctx, endpoints, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("what is to be skipped is not mirrored", "")

	endpoints.Labels = nil
	if _, err = c.CoreV1().Endpoints("ns").Update(ctx, endpoints, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("it is mirrored again", "10.1.2.4")

	service.Spec.Selector = map[string]string{"app": "db"}
	if _, err := c.CoreV1().Services("ns").Update(ctx, service, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("a Service with a selector has its own slices", "")
}
