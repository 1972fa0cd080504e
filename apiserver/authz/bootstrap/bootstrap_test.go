// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func defaultPolicy(t *testing.T) *Policy {
	t.Helper()
	p, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The digest was taken from objects compared one by one with those of Kubernetes 1.37.2. Change it
// together with policy.txt, and say in the commit which release the change is from.
const kubernetes137 = "88c81d0895aba58fecd19ebd65abb958f8de8e5157bc66e0a01d6e5311fb74c6"

func TestPolicyIsUpstreams(t *testing.T) {
	p, err := Upstream()
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range map[string][2]int{
		"ClusterRole":        {len(p.ClusterRoles), 73},
		"ClusterRoleBinding": {len(p.ClusterRoleBindings), 54},
		"Role":               {len(p.Roles), 7},
		"RoleBinding":        {len(p.RoleBindings), 7},
	} {
		if n[0] != n[1] {
			t.Errorf("%d %ss, want %d", n[0], kind, n[1])
		}
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != kubernetes137 {
		t.Errorf("the policy's digest is %s", got)
	}
}

func TestEnsureCreatesAll(t *testing.T) {
	client := fake.NewClientset()
	p := defaultPolicy(t)
	if err := p.Ensure(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	roles, _ := client.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	bindings, _ := client.RbacV1().RoleBindings("kube-system").List(t.Context(), metav1.ListOptions{})
	if len(roles.Items) != len(p.ClusterRoles) || len(bindings.Items) == 0 {
		t.Errorf("%d ClusterRoles and %d RoleBindings", len(roles.Items), len(bindings.Items))
	}

	client.ClearActions()
	if err := defaultPolicy(t).Ensure(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "list" {
			t.Errorf("the second start does %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

// What an administrator added stays, what is missing comes back, what is protected is left alone.
func TestEnsureRepairs(t *testing.T) {
	extra := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}
	scheduler := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:kube-scheduler"}, Rules: []rbacv1.PolicyRule{extra}}
	protected := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:basic-user",
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}}}
	rebound := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:kube-dns"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}
	client := fake.NewClientset(scheduler, protected, rebound)
	if err := defaultPolicy(t).Ensure(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	role, _ := client.RbacV1().ClusterRoles().Get(t.Context(), scheduler.Name, metav1.GetOptions{})
	if len(role.Rules) < 10 || role.Rules[0].APIGroups[0] != "example.com" || role.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" {
		t.Errorf("system:kube-scheduler = %+v", role)
	}
	if role, _ := client.RbacV1().ClusterRoles().Get(t.Context(), protected.Name, metav1.GetOptions{}); len(role.Rules) != 0 {
		t.Errorf("the protected role got %v", role.Rules)
	}
	if b, _ := client.RbacV1().ClusterRoleBindings().Get(t.Context(), rebound.Name, metav1.GetOptions{}); b.RoleRef.Name != "system:kube-dns" {
		t.Errorf("system:kube-dns is bound to %s", b.RoleRef.Name)
	}
}

// Another server that creates the same role first is no error.
func TestEnsureRace(t *testing.T) {
	client := fake.NewClientset()
	raced := false
	client.PrependReactor("create", "clusterroles", func(a clienttesting.Action) (bool, runtime.Object, error) {
		role := a.(clienttesting.CreateAction).GetObject().(*rbacv1.ClusterRole)
		if raced || role.Name != "view" {
			return false, nil, nil
		}
		raced = true
		if err := client.Tracker().Add(role.DeepCopy()); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewAlreadyExists(rbacv1.Resource("clusterroles"), role.Name)
	})
	if err := defaultPolicy(t).Ensure(t.Context(), client); err != nil || !raced {
		t.Fatalf("Ensure = %v, raced = %v", err, raced)
	}
}

func TestParseErrors(t *testing.T) {
	for _, text := range []string{"Pod x", "ClusterRole", "\tget core pods", "ClusterRole x y", "ClusterRole x\n\tget core", "RoleBinding ns/x"} {
		if _, err := parse(text); err == nil {
			t.Errorf("parse(%q) is no error", text)
		}
	}
}
