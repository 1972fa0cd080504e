// SPDX-License-Identifier: Apache-2.0

package loadbalancerpool

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/network/addresspool"
)

// Each Service is written as "name has wants families"; they are created in that order.
func TestAllocate(t *testing.T) {
	for _, c := range []struct {
		about    string
		pool     string
		services []string
		want     string
	}{
		{"in order of age", "192.0.2.1-192.0.2.9", []string{"a - - 4", "b - - 4"}, "a=192.0.2.1 b=192.0.2.2"},
		{"kept, though lower ones are free", "192.0.2.1-192.0.2.9", []string{"a - - 4", "b 192.0.2.7 - 4"}, "a=192.0.2.1 b=192.0.2.7"},
		{"not kept if it is in no pool any more", "192.0.2.1-192.0.2.9", []string{"a 198.51.100.1 - 4"}, "a=192.0.2.1"},
		{"asked for", "192.0.2.1-192.0.2.9", []string{"a - - 4", "b - 192.0.2.1 4"}, "a=192.0.2.2 b=192.0.2.1"},
		{"asked for, and had by an older one", "192.0.2.1-192.0.2.9", []string{"a 192.0.2.1 - 4", "b - 192.0.2.1 4"}, "a=192.0.2.1 b=! address 192.0.2.1 belongs to Service ns/a"},
		{"asked for instead of the one it has", "192.0.2.1-192.0.2.9", []string{"a 192.0.2.1 192.0.2.5 4"}, "a=192.0.2.5"},
		{"asked for, and not there", "192.0.2.1-192.0.2.9", []string{"a 192.0.2.1 10.0.0.1 4"}, "a=! address 10.0.0.1 is not in the pool of load balancer addresses"},
		{"used up", "192.0.2.1", []string{"a - - 4", "b - - 4"}, "a=192.0.2.1 b=! no IPv4 address is left in the pool of load balancer addresses"},
		{"two with the same, after a mistake", "192.0.2.1-192.0.2.9", []string{"a 192.0.2.3 - 4", "b 192.0.2.3 - 4"}, "a=192.0.2.3 b=192.0.2.1"},
		{"both families", "192.0.2.1-192.0.2.9,2001:db8::/112", []string{"a - - 6,4", "b - 2001:db8::7,192.0.2.7 4,6"}, "a=2001:db8::,192.0.2.1 b=192.0.2.7,2001:db8::7"},
		{"a pool of one family", "192.0.2.1-192.0.2.9", []string{"a - - 4,6", "b - - 6"}, "a=192.0.2.1 b=! no IPv6 address is left in the pool of load balancer addresses"},
	} {
		t.Run(c.about, func(t *testing.T) {
			pool, err := addresspool.Parse(strings.Split(c.pool, ","))
			if err != nil {
				t.Fatal(err)
			}
			var services []*corev1.Service
			for i, line := range c.services {
				services = append(services, service(i, strings.Fields(line)))
			}
			given := allocate(pool, services)
			var got []string
			for _, svc := range services {
				g := given[svc]
				text := strings.Trim(strings.ReplaceAll(fmt.Sprint(g.addresses), " ", ","), "[]")
				if g.problem != "" {
					text += "! " + g.problem
				}
				got = append(got, svc.Name+"="+text)
			}
			if all := strings.Join(got, " "); all != c.want {
				t.Errorf("got  %s\nwant %s", all, c.want)
			}
		})
	}
}

func service(n int, words []string) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: words[0], CreationTimestamp: metav1.NewTime(time.Unix(int64(n), 0))},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	if words[1] != "-" {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: words[1]}}
	}
	if words[2] != "-" && strings.Contains(words[2], ",") {
		svc.Annotations = map[string]string{Annotation: words[2]}
	} else if words[2] != "-" {
		svc.Spec.LoadBalancerIP = words[2]
	}
	for family := range strings.SplitSeq(words[3], ",") {
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily("IPv"+family))
	}
	return svc
}
