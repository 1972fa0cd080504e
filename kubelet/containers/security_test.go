// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#proc-access
func TestProcMount(t *testing.T) {
	for name, c := range map[string]struct {
		context *v1.SecurityContext
		masked  bool
	}{
		"no security context": {nil, true},
		"left open":           {&v1.SecurityContext{}, true},
		"default":             {&v1.SecurityContext{ProcMount: ptr.To(v1.DefaultProcMount)}, true},
		"unmasked":            {&v1.SecurityContext{ProcMount: ptr.To(v1.UnmaskedProcMount)}, false},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", SecurityContext: c.context}}, HostNetwork: true}}
		got, err := (&Runtime{}).containerSecurity(pod, &pod.Spec.Containers[0], &runtimeapi.Image{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !c.masked {
			if got.MaskedPaths != nil || got.ReadonlyPaths != nil {
				t.Errorf("%s: %v and %v are kept from it", name, got.MaskedPaths, got.ReadonlyPaths)
			}
			continue
		}
		for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/sched_debug", "/sys/firmware"} {
			if !slices.Contains(got.MaskedPaths, path) {
				t.Errorf("%s: %s is not masked", name, path)
			}
		}
		for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq"} {
			if !slices.Contains(got.ReadonlyPaths, path) {
				t.Errorf("%s: %s can be written", name, path)
			}
		}
	}
}
