// SPDX-License-Identifier: Apache-2.0

package servicecidr

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/internal/serviceip"
)

func cidr(name string, ranges ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
}

func ending(c *networkingv1.ServiceCIDR) *networkingv1.ServiceCIDR {
	c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{finalizer}
	return c
}

func address(ip string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{networkingv1.LabelManagedBy: serviceip.ManagedBy}}}
}

func run(t *testing.T, objects ...runtime.Object) *controllertest.Cluster {
	t.Helper()
	c := controllertest.New(t, objects...)
	controller, err := New(c, c.Factory, c.Events)
	if err != nil {
		t.Fatal(err)
	}
	c.Run(controller)
	return c
}

// state returns what is said of a range, and whether it is protected.
func state(t *testing.T, c *controllertest.Cluster, name string) (ready *metav1.Condition, protected bool) {
	t.Helper()
	got, err := c.NetworkingV1().ServiceCIDRs().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return meta.FindStatusCondition(got.Status.Conditions, networkingv1.ServiceCIDRConditionReady), len(got.Finalizers) > 0
}

func TestReadyAndProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, cidr("a", "10.0.0.0/24"))
		ready, protected := state(t, c, "a")
		if ready == nil || ready.Status != metav1.ConditionTrue || !protected {
			t.Errorf("Ready = %+v, protected %v", ready, protected)
		}
	})
}

func TestEnd(t *testing.T) {
	for _, test := range []struct {
		name    string
		objects []runtime.Object
		stays   bool
	}{
		{"unused", []runtime.Object{cidr("b", "10.1.0.0/24"), address("10.1.0.1")}, false},
		{"used", []runtime.Object{cidr("b", "10.1.0.0/24"), address("10.0.0.1")}, true},
		{"used by somebody else", []runtime.Object{&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.0.0.1"}}}, false},
		{"inside another", []runtime.Object{cidr("b", "10.0.0.0/16"), address("10.0.0.1")}, false},
		{"another has the address", []runtime.Object{cidr("b", "10.0.0.0/28"), address("10.0.0.1")}, false},
		{"another has not this address", []runtime.Object{cidr("b", "10.0.0.0/28"), address("10.0.0.15")}, true},
		{"in the second family", []runtime.Object{cidr("b", "10.0.0.0/24"), address("fd00::1")}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := run(t, append(test.objects, ending(cidr("a", "10.0.0.0/24", "fd00::/112")))...)
				time.Sleep(9 * time.Second)
				if _, protected := state(t, c, "a"); !protected {
					t.Error("went within the grace period")
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				ready, protected := state(t, c, "a")
				if protected != test.stays || test.stays != (ready != nil && ready.Reason == networkingv1.ServiceCIDRReasonTerminating) {
					t.Errorf("protected %v, Ready = %+v; want it to stay: %v", protected, ready, test.stays)
				}
			})
		})
	}
}

// A range goes when the last address out of it is released.
func TestWaitsForAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, address("10.0.0.1"), ending(cidr("a", "10.0.0.0/24")))
		time.Sleep(time.Hour)
		if _, protected := state(t, c, "a"); !protected {
			t.Fatal("went while an address depends on it")
		}
		if err := c.NetworkingV1().IPAddresses().Delete(t.Context(), "10.0.0.1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, protected := state(t, c, "a"); protected {
			t.Error("stays though nothing depends on it")
		}
	})
}

// A write that comes too early, for the cache has not seen the last one, is nothing to warn of; one that is refused is.
func TestWarnsOfWhatIsWrong(t *testing.T) {
	resource := schema.GroupResource{Group: networkingv1.GroupName, Resource: "servicecidrs"}
	for _, tc := range []struct {
		name  string
		err   error
		warns bool
	}{
		{"too early", apierrors.NewConflict(resource, "a", errors.New("it has changed")), false},
		{"refused", apierrors.NewForbidden(resource, "a", errors.New("somebody does not want it")), true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := controllertest.New(t, cidr("a", "10.0.0.0/24"))
			refused := false
			c.PrependReactor("update", "servicecidrs", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if action.GetSubresource() != "status" || refused {
					return false, nil, nil
				}
				refused = true
				return true, nil, tc.err
			})
			controller, err := New(c, c.Factory, c.Events)
			if err != nil {
				t.Fatal(err)
			}
			c.Run(controller)
			time.Sleep(time.Minute)
			synctest.Wait()
			if ready, _ := state(t, c, "a"); ready == nil || ready.Status != metav1.ConditionTrue {
				t.Errorf("%s: Ready = %+v", tc.name, ready)
			}
			if warned := len(c.Events.Events) > 0; warned != tc.warns {
				t.Errorf("%s: warned %v, want %v", tc.name, warned, tc.warns)
			}
		})
	}
}
