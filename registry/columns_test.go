// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/rbac"
	"github.com/skiff-k8s/skiff/testenv"
)

// table asks for a path as kubectl get does, and returns its header and rows but for the ages.
func table(t *testing.T, env *testenv.Env, path string) string {
	t.Helper()
	var got metav1.Table
	err := env.Client.CoreV1().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(&got)
	if err != nil {
		t.Fatalf("table of %s: %v", path, err)
	}
	var out []string
	var header []string
	for _, c := range got.ColumnDefinitions {
		name := c.Name
		if c.Priority > 0 {
			name += "+"
		}
		header = append(header, name)
	}
	out = append(out, strings.Join(header, "|"))
	for _, r := range got.Rows {
		var cells []string
		for i, cell := range r.Cells {
			if i < len(got.ColumnDefinitions) && got.ColumnDefinitions[i].Name == "Age" {
				cell = "AGE"
			}
			cells = append(cells, fmt.Sprint(cell))
		}
		out = append(out, strings.Join(cells, "|"))
	}
	return strings.Join(out, "\n")
}

func TestTables(t *testing.T) {
	env := testenv.Start(t)
	ctx, core := t.Context(), env.Client.CoreV1()
	pod, err := core.Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{
			NodeName: "n", Containers: []corev1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}},
			InitContainers: []corev1.Container{{Name: "side", Image: "i", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.42.0.7"}}, PodIP: "10.42.0.7",
		InitContainerStatuses: []corev1.ContainerStatus{{Name: "side", State: running, Ready: true, Started: ptr.To(true)}},
		ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: running, Ready: true},
			{Name: "b", RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
		},
	}
	if _, err := core.Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: corev1.ServiceSpec{
			Type: "NodePort", ClusterIP: "10.43.0.9", Selector: map[string]string{"app": "x"}, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""}}, Spec: corev1.NodeSpec{Unschedulable: true},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/api/v1/namespaces/default/pods": "Name|Ready|Status|Restarts|Age|IP+|Node+|Nominated Node+|Readiness Gates+\n" +
			"p|2/3|CrashLoopBackOff|3|AGE|10.42.0.7|n|<none>|<none>",
		"/api/v1/namespaces/default/services": "Name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector+\n" +
			"s|NodePort|10.43.0.9|<none>|80:30080/TCP|AGE|app=x",
		"/api/v1/nodes": "Name|Status|Roles|Age|Version|Internal-IP+|External-IP+|OS-Image+|Kernel-Version+|Container-Runtime+\n" +
			"n|Unknown,SchedulingDisabled|control-plane|AGE||<none>|<none>|<unknown>|<unknown>|<unknown>",
		"/api/v1/namespaces": "Name|Status|Age\ndefault|Active|AGE",
		"/apis/networking.k8s.io/v1/ipaddresses": "Name|ParentRef\n" +
			"10.43.0.9|services/default/s",
		"/apis/apps/v1/deployments":                "Name|Ready|Up-to-date|Available|Age|Containers+|Images+|Selector+",
		"/apis/batch/v1/jobs":                      "Name|Status|Completions|Duration|Age|Containers+|Images+|Selector+",
		"/apis/rbac.authorization.k8s.io/v1/roles": "Name|Created At",
	} {
		if got := table(t, env, path); got != want {
			t.Errorf("table of %s =\n%s\nwant\n%s", path, got, want)
		}
	}
}

// A role that gives more than its writer has is refused, by create and by update.
func TestRolesAskForPermission(t *testing.T) {
	refuse := false
	permit := func(_ context.Context, obj, _ runtime.Object) error {
		if role := obj.(*rbacv1.Role); refuse {
			return apierrors.NewForbidden(rbacv1.Resource("roles"), role.Name, errors.New("too much"))
		}
		return nil
	}
	env := testenv.Start(t, testenv.Deps(registry.Deps{RBAC: rbac.Deps{Permit: permit}}))
	roles := env.Client.RbacV1().Roles("default")
	role, err := roles.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	refuse = true
	role.Rules = []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}
	if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("update = %v, want Forbidden", err)
	}
	if _, err := roles.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create = %v, want Forbidden", err)
	}
}
