// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// Init containers use the devices of containers that start later, and share what they need beyond that.
func TestRequestsFor(t *testing.T) {
	container := func(name, amount string, sidecar bool) v1.Container {
		c := v1.Container{Name: name}
		if amount != "" {
			c.Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("1"), "example.com/gpu": resource.MustParse(amount)}
		}
		if sidecar {
			c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		}
		return c
	}
	for _, test := range []struct {
		name           string
		init, main     []v1.Container
		requests, uses string
	}{
		{"one", nil, []v1.Container{container("a", "2", false)}, "container-0-request-1=2", "a:container-0-request-1"},
		{"none", []v1.Container{container("i", "", false)}, []v1.Container{container("a", "", false)}, "", ""},
		{"an init container that needs less", []v1.Container{container("i", "1", false)}, []v1.Container{container("a", "2", false)},
			"container-1-request-1=2", "a:container-1-request-1 i:container-1-request-1"},
		{"init containers that need more", []v1.Container{container("i", "3", false), container("j", "5", false)}, []v1.Container{container("a", "2", false)},
			"container-1-request-1=3 container-2-request-1=2",
			"a:container-2-request-1 i:container-2-request-1 i:container-1-request-1 j:container-2-request-1 j:container-1-request-1"},
		{"a sidecar before an init container", []v1.Container{container("s", "1", true), container("i", "1", false)}, []v1.Container{container("a", "", false)},
			"container-1-request-1=1 container-0-request-1=1", "s:container-0-request-1 i:container-1-request-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests, mappings := requestsFor(&v1.Pod{Spec: v1.PodSpec{InitContainers: test.init, Containers: test.main}}, "example.com/gpu", "gpu")
			var got, uses []string
			for _, r := range requests {
				got = append(got, fmt.Sprintf("%s=%d", r.Name, r.Exactly.Count))
			}
			for _, m := range mappings {
				uses = append(uses, m.ContainerName+":"+m.RequestName)
			}
			if strings.Join(got, " ") != test.requests || strings.Join(uses, " ") != test.uses {
				t.Errorf("requests %v for %v, want %s for %s", got, uses, test.requests, test.uses)
			}
		})
	}
}
