// SPDX-License-Identifier: Apache-2.0

package ipaddress

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/internal/serviceip"
)

func service(name string, ips ...string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.ServiceSpec{ClusterIPs: ips}}
}

func address(name, service string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{networkingv1.LabelManagedBy: serviceip.ManagedBy, networkingv1.LabelIPAddressFamily: "IPv4"}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "ns", Name: service}},
	}
}

func TestAgreement(t *testing.T) {
	unlabelled, foreign := address("10.0.0.1", "a"), address("10.0.0.1", "a")
	delete(unlabelled.Labels, networkingv1.LabelIPAddressFamily)
	foreign.Spec.ParentRef = &networkingv1.ParentReference{Group: "example.com", Resource: "things", Name: "t"}
	users := address("10.0.0.9", "nobody")
	users.Labels = nil
	for _, test := range []struct {
		name    string
		objects []runtime.Object
		owners  map[string]string // of addresses, at the end
		event   string
	}{
		{name: "they agree", objects: []runtime.Object{service("a", "10.0.0.1"), address("10.0.0.1", "a")}, owners: map[string]string{"10.0.0.1": "a"}},
		{name: "headless", objects: []runtime.Object{service("a", "None")}, owners: map[string]string{}},
		{name: "not allocated", objects: []runtime.Object{service("a", "10.0.0.1", "fd00::1")}, owners: map[string]string{"10.0.0.1": "a", "fd00::1": "a"}, event: "ClusterIPNotAllocated"},
		{name: "of a Service that is gone", objects: []runtime.Object{address("10.0.0.1", "a")}, owners: map[string]string{}, event: "IPAddressNotAllocated"},
		{name: "of a Service with another one", objects: []runtime.Object{service("a", "10.0.0.1"), address("10.0.0.1", "a"), address("10.0.0.2", "a")}, owners: map[string]string{"10.0.0.1": "a"}, event: "IPAddressWrongReference"},
		{name: "taken from a Service that is gone", objects: []runtime.Object{service("a", "10.0.0.1"), address("10.0.0.1", "b")}, owners: map[string]string{"10.0.0.1": "a"}, event: "ClusterIPNotAllocated"},
		{name: "two Services", objects: []runtime.Object{service("a", "10.0.0.1"), service("b", "10.0.0.1"), address("10.0.0.1", "b")}, owners: map[string]string{"10.0.0.1": "b"}, event: "ClusterIPAlreadyAllocated"},
		{name: "labels are lost", objects: []runtime.Object{service("a", "10.0.0.1"), unlabelled}, owners: map[string]string{"10.0.0.1": "a"}},
		{name: "it refers to something else", objects: []runtime.Object{service("a", "10.0.0.1"), foreign}, owners: map[string]string{"10.0.0.1": "a"}, event: "ClusterIPNotAllocated IPAddressNotAllocated"},
		{name: "a user's", objects: []runtime.Object{users}, owners: map[string]string{"10.0.0.9": "nobody"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := controllertest.New(t, test.objects...)
				controller, err := New(c, c.Factory, c.Events)
				if err != nil {
					t.Fatal(err)
				}
				c.Run(controller)
				time.Sleep(2 * young)
				synctest.Wait()
				list, err := c.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for _, ip := range list.Items {
					if test.owners[ip.Name] != ip.Spec.ParentRef.Name || ip.Name == "10.0.0.1" && len(ip.Labels) != 2 {
						t.Errorf("%s is %s's, labels %v", ip.Name, ip.Spec.ParentRef.Name, ip.Labels)
					}
				}
				if len(list.Items) != len(test.owners) {
					t.Errorf("%d addresses, want %v", len(list.Items), test.owners)
				}
				select {
				case got := <-c.Events.Events:
					if reason := strings.Fields(got)[1]; !strings.Contains(test.event, reason) {
						t.Errorf("event is %q, want %q", got, test.event)
					}
				default:
					if test.event != "" {
						t.Errorf("no event, want %s", test.event)
					}
				}
			})
		})
	}
}

// An address whose Service is just being made is left alone; one that somebody deletes is back at once.
func TestYoungAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controllertest.New(t, service("a", "10.0.0.1"), address("10.0.0.1", "a"), address("10.0.0.2", "b"))
		controller, err := New(c, c.Factory, c.Events)
		if err != nil {
			t.Fatal(err)
		}
		c.Run(controller)
		time.Sleep(young - time.Second)
		if _, err := c.NetworkingV1().IPAddresses().Get(t.Context(), "10.0.0.2", metav1.GetOptions{}); err != nil {
			t.Errorf("a young address: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := c.NetworkingV1().IPAddresses().Get(t.Context(), "10.0.0.2", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a leaked address: %v", err)
		}
		if err := c.NetworkingV1().IPAddresses().Delete(t.Context(), "10.0.0.1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := c.NetworkingV1().IPAddresses().Get(t.Context(), "10.0.0.1", metav1.GetOptions{}); err != nil {
			t.Errorf("a deleted address: %v", err)
		}
	})
}
