// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","),
		Resources: strings.Split(resources, ","), ResourceNames: names}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func clusterBinding(role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: subjects}
}

func binding(namespace, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}, Subjects: subjects}
}

func newAuthorizer(t *testing.T, objects ...runtime.Object) *Authorizer {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	a := New(factory)
	for _, o := range objects {
		var err error
		switch o.(type) {
		case *rbacv1.Role:
			err = factory.Rbac().V1().Roles().Informer().GetIndexer().Add(o)
		case *rbacv1.RoleBinding:
			err = factory.Rbac().V1().RoleBindings().Informer().GetIndexer().Add(o)
		case *rbacv1.ClusterRole:
			err = factory.Rbac().V1().ClusterRoles().Informer().GetIndexer().Add(o)
		case *rbacv1.ClusterRoleBinding:
			err = factory.Rbac().V1().ClusterRoleBindings().Informer().GetIndexer().Add(o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return a
}

var (
	ann   = &user.DefaultInfo{Name: "ann", Groups: []string{"dev"}}
	robot = &user.DefaultInfo{Name: "system:serviceaccount:ci:robot"}
)

func TestAuthorize(t *testing.T) {
	a := newAuthorizer(t,
		clusterRole("reader", rule("get,list", "", "pods,*/scale"), rule("get", "apps", "deployments", "web")),
		clusterRole("paths", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/logs/*"}}),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ci", Name: "all"}, Rules: []rbacv1.PolicyRule{rule("*", "*", "*")}},
		clusterBinding("reader", rbacv1.Subject{Kind: "Group", Name: "dev"}),
		clusterBinding("paths", rbacv1.Subject{Kind: "User", Name: "ann"}),
		clusterBinding("gone", rbacv1.Subject{Kind: "User", Name: "eve"}),
		binding("ci", "Role", "all", rbacv1.Subject{Kind: "ServiceAccount", Name: "robot"}),
	)
	for _, tc := range []struct {
		attrs authorizer.AttributesRecord
		want  string // the reason if allowed
	}{
		{authorizer.AttributesRecord{User: ann, Verb: "get", Resource: "pods", Namespace: "x"},
			`RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to Group "dev"`},
		{authorizer.AttributesRecord{User: ann, Verb: "delete", Resource: "pods"}, ""},
		{authorizer.AttributesRecord{User: ann, Verb: "get", Resource: "pods", Subresource: "log"}, ""},
		{authorizer.AttributesRecord{User: ann, Verb: "get", Resource: "things", Subresource: "scale"},
			`RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to Group "dev"`},
		{authorizer.AttributesRecord{User: ann, Verb: "get", APIGroup: "apps", Resource: "deployments", Name: "web"},
			`RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to Group "dev"`},
		{authorizer.AttributesRecord{User: ann, Verb: "get", APIGroup: "apps", Resource: "deployments", Name: "db"}, ""},
		{authorizer.AttributesRecord{User: ann, Verb: "get", Path: "/logs/x/y"},
			`RBAC: allowed by ClusterRoleBinding "paths" of ClusterRole "paths" to User "ann"`},
		{authorizer.AttributesRecord{User: ann, Verb: "get", Path: "/healthz/x"}, ""},
		{authorizer.AttributesRecord{User: robot, Verb: "delete", Resource: "secrets", Namespace: "ci", APIGroup: "x"},
			`RBAC: allowed by RoleBinding "all/ci" of Role "all" to ServiceAccount "robot/ci"`},
		{authorizer.AttributesRecord{User: robot, Verb: "get", Resource: "pods", Namespace: "prod"}, ""},
		{authorizer.AttributesRecord{User: robot, Verb: "get", Resource: "nodes"}, ""},
	} {
		tc.attrs.ResourceRequest = tc.attrs.Path == ""
		decision, reason, err := a.Authorize(t.Context(), tc.attrs)
		if reason != tc.want || err != nil || (decision == authorizer.DecisionAllow) != (tc.want != "") {
			t.Errorf("%+v: %v, %q, %v, want %q", tc.attrs, decision, reason, err, tc.want)
		}
	}

	decision, reason, err := a.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "eve"}, ResourceRequest: true})
	if decision != authorizer.DecisionNoOpinion || !strings.Contains(reason, `"gone" not found`) || err != nil {
		t.Errorf("with a role that is gone: %v, %q, %v", decision, reason, err)
	}
}

func TestGuard(t *testing.T) {
	read := rule("get,list", "", "pods")
	a := newAuthorizer(t,
		clusterRole("reader", read), clusterRole("writer", rule("update", "", "pods")), clusterRole("root", everything()...),
		clusterRole("binder", rule("bind", rbacv1.GroupName, "clusterroles", "writer")),
		clusterRole("escalator", rule("escalate", rbacv1.GroupName, "clusterroles,roles")),
		clusterBinding("reader", rbacv1.Subject{Kind: "User", Name: "ann"}, rbacv1.Subject{Kind: "User", Name: "bob"}, rbacv1.Subject{Kind: "User", Name: "eli"}),
		clusterBinding("binder", rbacv1.Subject{Kind: "User", Name: "bob"}),
		clusterBinding("escalator", rbacv1.Subject{Kind: "User", Name: "eli"}),
		clusterBinding("root", rbacv1.Subject{Kind: "User", Name: "root"}),
	)
	guard := &Guard{Rules: a, Authorizer: a}
	sum := clusterRole("sum")
	sum.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	finalizing := clusterRole("writer", rule("update", "", "pods"))
	finalizing.Finalizers = []string{"foregroundDeletion"}

	for _, tc := range []struct {
		what, user string
		obj, old   runtime.Object
		wantErr    string // "" is allowed
	}{
		{"grant what one has", "ann", clusterRole("x", read), nil, ""},
		{"grant more", "ann", clusterRole("x", rule("get,delete,patch", "", "pods")), nil,
			`clusterroles.rbac.authorization.k8s.io "x" is forbidden: user "ann" (groups=["g"]) is attempting to grant RBAC permissions not currently held:` +
				"\n" + `{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}`},
		{"grant more, with escalate", "eli", clusterRole("x", rule("delete", "", "pods")), nil, ""},
		{"grant more in an update", "ann", clusterRole("x", rule("delete", "", "pods")), clusterRole("x"), "not currently held"},
		{"change finalizers only", "ann", finalizing, clusterRole("writer", rule("update", "", "pods")), ""},
		{"aggregate", "ann", sum, nil, "must have cluster-admin privileges to use the aggregationRule"},
		{"aggregate as root", "root", sum, nil, ""},
		{"bind what one has", "ann", binding("ns", "ClusterRole", "reader"), nil, ""},
		{"bind more", "ann", binding("ns", "ClusterRole", "writer"), nil, "not currently held"},
		{"bind more, with bind", "bob", clusterBinding("writer"), nil, ""},
		{"bind what is not there", "ann", clusterBinding("nothing"), nil, `"nothing" not found`},
		{"anything else", "ann", &rbacv1.RoleList{}, nil, ""},
	} {
		ctx := request.WithUser(context.Background(), &user.DefaultInfo{Name: tc.user, Groups: []string{"g"}})
		err := guard.Check(ctx, tc.obj, tc.old)
		if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
			t.Errorf("%s: %v, want %q", tc.what, err, tc.wantErr)
		}
		if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v has reason %s", tc.what, err, apierrors.ReasonForError(err))
		}
	}

	masters := request.WithUser(context.Background(), &user.DefaultInfo{Name: "m", Groups: []string{user.SystemPrivilegedGroup}})
	if err := guard.Check(masters, clusterRole("x", everything()...), nil); err != nil {
		t.Errorf("system:masters: %v", err)
	}
}

func TestRulesFor(t *testing.T) {
	a := newAuthorizer(t, clusterRole("reader", rule("get", "", "pods"), rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}),
		clusterBinding("reader", rbacv1.Subject{Kind: "User", Name: "ann"}))
	resources, paths, incomplete, err := a.RulesFor(t.Context(), ann, "ns")
	if len(resources) != 1 || len(paths) != 1 || incomplete || err != nil {
		t.Errorf("RulesFor = %v, %v, %v, %v", resources, paths, incomplete, err)
	}
}
