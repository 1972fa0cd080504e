// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/testenv"
)

// law lets admins do everything, ann impersonate bob, and everybody read ConfigMaps.
type law struct{ authorizer.Authorizer }

func newLaw() law {
	return law{authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		switch who := a.GetUser().GetName(); {
		case who == "admin", a.GetResource() == "configmaps" && a.IsReadOnly(), strings.HasPrefix(a.GetResource(), "self"):
			return authorizer.DecisionAllow, "", nil
		case who == "ann" && a.GetVerb() == "impersonate" && a.GetResource() == "users" && a.GetName() == "bob":
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "not in the law", nil
	})}
}

// RulesFor implements authorizer.RuleResolver.
func (law) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}, nil, false, nil
}

// Whoever may impersonate acts as the other, and is nobody else; reviews tell who one is and what one may do.
func TestImpersonationAndReviews(t *testing.T) {
	env := testenv.Start(t, testenv.Authorizer(newLaw()))
	ctx := t.Context()
	as := func(name, other string, groups ...string) kubernetes.Interface {
		config := env.ConfigFor(name)
		config.Impersonate = restclient.ImpersonationConfig{UserName: other, Groups: groups}
		return kubernetes.NewForConfigOrDie(config)
	}
	whoami := func(c kubernetes.Interface) (authenticationv1.UserInfo, error) {
		review, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return authenticationv1.UserInfo{}, err
		}
		return review.Status.UserInfo, nil
	}
	if u, err := whoami(as("ann", "bob")); err != nil || u.Username != "bob" || strings.Join(u.Groups, " ") != "system:authenticated" {
		t.Errorf("ann as bob is %+v, %v; want bob", u, err)
	}
	for name, c := range map[string]kubernetes.Interface{"another user": as("ann", "admin"), "a group": as("ann", "bob", "system:masters")} {
		if u, err := whoami(c); !apierrors.IsForbidden(err) {
			t.Errorf("ann as %s is %+v, %v; want it refused", name, u, err)
		}
	}
	// Bob's rights count, not ann's or the administrator's.
	if _, err := as("admin", "bob").CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) ||
		!strings.Contains(err.Error(), `User "bob" cannot list resource "secrets" in API group "" in the namespace "default": not in the law`) {
		t.Errorf("admin as bob lists Secrets: %v, want bob refused", err)
	}

	bob := kubernetes.NewForConfigOrDie(env.ConfigFor("bob"))
	for resource, want := range map[string]bool{"configmaps": true, "secrets": false} {
		attributes := &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "get", Resource: resource}
		self, err := bob.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
		}, metav1.CreateOptions{})
		if err != nil || self.Status.Allowed != want || !want && self.Status.Reason != "not in the law" {
			t.Errorf("may I get %s: %+v, %v; want %v", resource, self, err, want)
		}
		other, err := env.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: attributes},
		}, metav1.CreateOptions{})
		if err != nil || other.Status.Allowed != want {
			t.Errorf("may bob get %s: %+v, %v; want %v", resource, other, err, want)
		}
	}
	rules, err := bob.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"},
	}, metav1.CreateOptions{})
	if err != nil || len(rules.Status.ResourceRules) != 1 || rules.Status.ResourceRules[0].Resources[0] != "configmaps" {
		t.Errorf("my rules: %+v, %v", rules, err)
	}
	if _, err := bob.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("bob asks about others: %v, want Forbidden", err)
	}
	if _, err := env.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a question about nothing: %v, want Invalid", err)
	}
}
