// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

var (
	webMeta     = metav1.ObjectMeta{Name: "web", Namespace: "shop"}
	webLabels   = map[string]string{"app": "web"}
	webSelector = &metav1.LabelSelector{MatchLabels: webLabels}
)

func webTemplate() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: webLabels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "nginx:1.29"}}},
	}
}

// wantErrors compares errors with lines of the form "path: type: detail", which may be cut short.
func wantErrors(t *testing.T, got field.ErrorList, want ...string) {
	t.Helper()
	unmatched := slices.Clone(got)
	for _, line := range want {
		i := slices.IndexFunc(unmatched, func(e *field.Error) bool {
			return strings.HasPrefix(fmt.Sprintf("%s: %s: %s", e.Field, e.Type, e.Detail), line)
		})
		if i < 0 {
			t.Errorf("no error %q in %v", line, got)
			continue
		}
		unmatched = slices.Delete(unmatched, i, i+1)
	}
	for _, err := range unmatched {
		t.Errorf("unexpected error: %v", err)
	}
}

func TestDeployment(t *testing.T) {
	deployment := func(edit func(*appsv1.DeploymentSpec)) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: webMeta, Spec: appsv1.DeploymentSpec{Selector: webSelector.DeepCopy(), Template: webTemplate()}}
		edit(&d.Spec)
		defaultDeployment(d)
		return d
	}
	old := deployment(func(*appsv1.DeploymentSpec) {})
	s := old.Spec
	if *s.Replicas != 1 || *s.RevisionHistoryLimit != 10 || *s.ProgressDeadlineSeconds != 600 || s.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType ||
		s.Strategy.RollingUpdate.MaxSurge.String() != "25%" || s.Strategy.RollingUpdate.MaxUnavailable.String() != "25%" || s.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("defaults are %+v", s)
	}
	for _, test := range []struct {
		name string
		edit func(*appsv1.DeploymentSpec)
		want []string
	}{
		{"minimal", func(*appsv1.DeploymentSpec) {}, nil},
		{"no selector", func(s *appsv1.DeploymentSpec) { s.Selector = nil }, []string{
			"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`",
		}},
		{"empty selector", func(s *appsv1.DeploymentSpec) { s.Selector = &metav1.LabelSelector{} }, []string{"spec.selector: Invalid value: empty selector is invalid for deployment"}},
		{"other labels", func(s *appsv1.DeploymentSpec) { s.Template.Labels = nil }, []string{"spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"}},
		{"template", func(s *appsv1.DeploymentSpec) {
			s.Template.Spec.RestartPolicy, s.Template.Spec.ActiveDeadlineSeconds = corev1.RestartPolicyNever, ptr.To[int64](1)
			s.Template.Spec.Containers[0].Image = ""
		}, []string{
			`spec.template.spec.restartPolicy: Unsupported value: supported values: "Always"`, "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
			"spec.template.spec.containers[0].image: Required value",
		}},
		{"numbers", func(s *appsv1.DeploymentSpec) {
			s.Replicas, s.MinReadySeconds, s.ProgressDeadlineSeconds, s.RevisionHistoryLimit = ptr.To[int32](-1), 5, ptr.To[int32](5), ptr.To[int32](-1)
		}, []string{
			"spec.replicas: Invalid value: must be greater than or equal to 0", "spec.revisionHistoryLimit: Invalid value: must be greater than or equal to 0",
			"spec.progressDeadlineSeconds: Invalid value: must be greater than minReadySeconds",
		}},
		{"stuck", func(s *appsv1.DeploymentSpec) {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromString("0%")), MaxSurge: ptr.To(intstr.FromInt32(0))}
		}, []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: may not be 0 when `maxSurge` is 0"}},
		{"percent", func(s *appsv1.DeploymentSpec) {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromString("101%")), MaxSurge: ptr.To(intstr.FromString("a"))}
		}, []string{
			"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: must not be greater than 100%",
			"spec.strategy.rollingUpdate.maxSurge: Invalid value: a valid percent string must be a numeric string followed by an ending '%'",
		}},
		{"recreate", func(s *appsv1.DeploymentSpec) {
			s.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{}}
		}, []string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{"strategy", func(s *appsv1.DeploymentSpec) { s.Strategy.Type = "Big" }, []string{`spec.strategy: Unsupported value: supported values: "Recreate", "RollingUpdate"`}},
	} {
		t.Run(test.name, func(t *testing.T) { wantErrors(t, validateDeployment(deployment(test.edit)), test.want...) })
	}

	changed := old.DeepCopy()
	changed.Spec.Selector.MatchLabels["x"] = "y"
	changed.Spec.Template.Labels = map[string]string{"app": "web", "x": "y"}
	wantErrors(t, validateDeploymentUpdate(changed, old), "spec.selector: Invalid value: field is immutable")
	changed = old.DeepCopy()
	changed.Status = appsv1.DeploymentStatus{ReadyReplicas: 1, CollisionCount: ptr.To[int32](0)}
	old.Status.CollisionCount = ptr.To[int32](1)
	wantErrors(t, validateDeploymentStatusUpdate(changed, old), "status.readyReplicas: Invalid value: cannot be greater than status.replicas", "status.collisionCount: Invalid value: cannot be decremented")
}

func TestReplicaSet(t *testing.T) {
	rs := &appsv1.ReplicaSet{ObjectMeta: webMeta, Spec: appsv1.ReplicaSetSpec{Selector: webSelector, Template: webTemplate()}}
	defaultReplicaSet(rs)
	wantErrors(t, validateReplicaSet(rs))
	bad := rs.DeepCopy()
	bad.Spec.Selector, bad.Spec.MinReadySeconds = &metav1.LabelSelector{}, -1
	wantErrors(t, validateReplicaSetUpdate(bad, rs), "spec.selector: Invalid value: empty selector is invalid for deployment",
		"spec.minReadySeconds: Invalid value: must be greater than or equal to 0", "spec.selector: Invalid value: field is immutable")
}

func TestDaemonSet(t *testing.T) {
	old := &appsv1.DaemonSet{ObjectMeta: *webMeta.DeepCopy(), Spec: appsv1.DaemonSetSpec{Selector: webSelector, Template: webTemplate()}}
	defaultDaemonSet(old)
	prepareDaemonSetCreate(old)
	wantErrors(t, validateDaemonSet(old))
	changed := old.DeepCopy()
	changed.Annotations = nil
	changed.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	prepareDaemonSetUpdate(changed, old)
	if got := changed.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "2" {
		t.Errorf("template generation is %q, want 2", got)
	}
	changed.Spec.UpdateStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(1))
	wantErrors(t, validateDaemonSetUpdate(changed, old), "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: may not be set when maxUnavailable is non-zero")
}

func TestStatefulSet(t *testing.T) {
	old := &appsv1.StatefulSet{ObjectMeta: webMeta, Spec: appsv1.StatefulSetSpec{Selector: webSelector, Template: webTemplate(), ServiceName: "web"}}
	old.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	old.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
	}}}
	defaultStatefulSet(old)
	wantErrors(t, validateStatefulSet(old), "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value")
	changed := old.DeepCopy()
	changed.Spec.Replicas = ptr.To[int32](3)
	wantErrors(t, validateStatefulSetUpdate(changed, old))
	changed.Spec.ServiceName, changed.Spec.PodManagementPolicy = "other", "Any"
	changed.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
	wantErrors(t, validateStatefulSetUpdate(changed, old), "spec.serviceName: Invalid value: field is immutable", "spec.podManagementPolicy: Invalid value: field is immutable",
		"spec.podManagementPolicy: Invalid value: must be 'OrderedReady' or 'Parallel'", "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: cannot be 0")
}

func TestControllerRevision(t *testing.T) {
	for data, want := range map[string]string{
		"": "data: Required value: data is mandatory", "null": "data: Required value: data is mandatory", "[]": "data: Required value: data must be a valid JSON object", "{": "data: Invalid value: error parsing data",
	} {
		r := &appsv1.ControllerRevision{ObjectMeta: webMeta}
		if data != "" {
			r.Data = runtime.RawExtension{Raw: []byte(data)}
		}
		wantErrors(t, validateControllerRevision(r), want)
	}
	old := &appsv1.ControllerRevision{ObjectMeta: webMeta, Data: runtime.RawExtension{Raw: []byte("{}")}}
	wantErrors(t, validateControllerRevision(old))
	changed := old.DeepCopy()
	changed.Data.Raw, changed.Revision = []byte(`{"a":1}`), -1
	wantErrors(t, validateControllerRevisionUpdate(changed, old), "data: Invalid value: field is immutable", "revision: Invalid value: must be greater than or equal to 0")
}
