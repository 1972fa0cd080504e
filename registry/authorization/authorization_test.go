// SPDX-License-Identifier: Apache-2.0

package authorization

import (
	"context"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// onlyPods allows ann to do anything to pods of ns, and to get /healthz.
func onlyPods(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser().GetName() != "ann" {
		return authorizer.DecisionDeny, "not ann", nil
	}
	if a.GetResource() == "pods" && a.GetNamespace() == "ns" || a.GetPath() == "/healthz" {
		return authorizer.DecisionAllow, "she may", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

type rules struct{}

func (rules) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, Resources: []string{"pods"}}}, nil, true, nil
}

func create(t *testing.T, resource string, obj runtime.Object) (runtime.Object, error) {
	t.Helper()
	storages := Storages(Deps{Authorizer: authorizer.AuthorizerFunc(onlyPods), Rules: rules{}})
	ctx := request.WithNamespace(request.WithUser(t.Context(), &user.DefaultInfo{Name: "ann"}), "ns")
	return storages[resource].(rest.Creater).Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
}

func TestReviews(t *testing.T) {
	pods := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "ns"}
	nodes := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "nodes"}
	healthz := &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/healthz"}
	bad := pods.DeepCopy()
	bad.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: "a"}

	subject := func(u string, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) runtime.Object {
		return &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: u, ResourceAttributes: r, NonResourceAttributes: n}}
	}
	for _, tc := range []struct {
		resource string
		obj      runtime.Object
		want     string
	}{
		{"subjectaccessreviews", subject("ann", pods, nil), "allowed she may"},
		{"subjectaccessreviews", subject("ann", nodes, nil), "no"},
		{"subjectaccessreviews", subject("bob", pods, nil), "denied not ann"},
		{"subjectaccessreviews", subject("ann", nil, healthz), "allowed she may"},
		{"subjectaccessreviews", subject("ann", bad, nil), "allowed she may spec.resourceAttributes.fieldSelector ignored due to parse error"},
		{"subjectaccessreviews", subject("", pods, nil), "error at least one of user or group must be specified"},
		{"subjectaccessreviews", subject("ann", pods, healthz), "error exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"subjectaccessreviews", &authorizationv1.SelfSubjectAccessReview{}, "error not a SubjectAccessReview"},
		{"selfsubjectaccessreviews", &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods}}, "allowed she may"},
		{"selfsubjectaccessreviews", &authorizationv1.SelfSubjectAccessReview{}, "error exactly one of"},
		{"localsubjectaccessreviews", &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"},
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods}}, "allowed she may"},
		{"localsubjectaccessreviews", &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"},
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: nodes}}, "error must match metadata.namespace"},
	} {
		got := ""
		obj, err := create(t, tc.resource, tc.obj)
		if err != nil {
			got = "error " + err.Error()
		} else {
			var status authorizationv1.SubjectAccessReviewStatus
			switch obj := obj.(type) {
			case *authorizationv1.SubjectAccessReview:
				status = obj.Status
			case *authorizationv1.SelfSubjectAccessReview:
				status = obj.Status
			case *authorizationv1.LocalSubjectAccessReview:
				status = obj.Status
			}
			got = map[bool]string{true: "allowed", false: "no"}[status.Allowed]
			if status.Denied {
				got = "denied"
			}
			got = strings.TrimSpace(got + " " + status.Reason + " " + status.EvaluationError)
		}
		if strings.HasPrefix(tc.want, "error ") {
			if !strings.HasPrefix(got, "error ") || !strings.Contains(got, strings.TrimPrefix(tc.want, "error ")) {
				t.Errorf("%s: %s, want %s", tc.resource, got, tc.want)
			}
		} else if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.resource, got, tc.want)
		}
	}
}

func TestRulesReview(t *testing.T) {
	obj, err := create(t, "selfsubjectrulesreviews", &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}})
	if err != nil {
		t.Fatal(err)
	}
	status := obj.(*authorizationv1.SelfSubjectRulesReview).Status
	if len(status.ResourceRules) != 1 || status.ResourceRules[0].Resources[0] != "pods" || status.NonResourceRules == nil || !status.Incomplete {
		t.Errorf("status = %+v", status)
	}
	if _, err := create(t, "selfsubjectrulesreviews", &authorizationv1.SelfSubjectRulesReview{}); err == nil {
		t.Error("a review without a namespace is no error")
	}
}
