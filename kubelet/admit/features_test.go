// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	versionutil "k8s.io/apimachinery/pkg/util/version"
)

// https://kubernetes.io/docs/tutorials/security/apparmor/
func TestAppArmor(t *testing.T) {
	profile := func(kind v1.AppArmorProfileType) *v1.AppArmorProfile { return &v1.AppArmorProfile{Type: kind} }
	runtime, unconfined := profile(v1.AppArmorProfileTypeRuntimeDefault), profile(v1.AppArmorProfileTypeUnconfined)
	container := func(p *v1.AppArmorProfile) v1.Container {
		return v1.Container{SecurityContext: &v1.SecurityContext{AppArmorProfile: p}}
	}
	for name, c := range map[string]struct {
		pod   v1.Pod
		wants bool
	}{
		"nothing said":            {v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}}}}, false},
		"the pod":                 {v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{AppArmorProfile: runtime}}}, true},
		"the pod, for none":       {v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{AppArmorProfile: unconfined}}}, false},
		"a container":             {v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}, container(runtime)}}}, true},
		"a container, for none":   {v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{container(unconfined)}}}, false},
		"an init container":       {v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{container(runtime)}}}, true},
		"an annotation":           {v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"container.apparmor.security.beta.kubernetes.io/c": "runtime/default"}}}, true},
		"an annotation, for none": {v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}}, false},
	} {
		if r := AppArmor(&c.pod, false); (r != nil) != c.wants || r != nil && (r.Reason != "AppArmor" || r.Message != "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host") {
			t.Errorf("%s asks for a profile: %+v, want %v", name, r, c.wants)
		}
		if r := AppArmor(&c.pod, true); r != nil {
			t.Errorf("%s asks for a profile on a machine that has it: %+v", name, r)
		}
	}
}

// https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
func TestFeatures(t *testing.T) {
	version := versionutil.MustParse("1.37.2")
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{RestartPolicyRules: []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers}}}}}}
	if r := Features(pod, []string{"RestartAllContainersOnContainerExits"}, version); r != nil {
		t.Errorf("a node that can: %+v", r)
	}
	want := "Pod was rejected: Pod requires node features that are not available: RestartAllContainersOnContainerExits"
	if r := Features(pod, nil, version); r == nil || r.Reason != "PodFeatureUnsupported" || r.Message != want {
		t.Errorf("a node that cannot: %+v, want %s", r, want)
	}
	if r := Features(&v1.Pod{}, nil, version); r != nil {
		t.Errorf("a pod that needs nothing: %+v", r)
	}
}
