// SPDX-License-Identifier: Apache-2.0

// Package authentication serves the group authentication.k8s.io, whose objects are questions that
// are answered and not stored: whose token is this, who am I, and a token for a service account.
package authentication

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Deps is what the answers come from.
type Deps struct {
	Token     authenticator.Token
	Audiences authenticator.Audiences // the API server's own
}

// Storages are the resources of the group by plural name.
func Storages(d Deps) map[string]rest.Storage {
	return map[string]rest.Storage{
		"tokenreviews":       &tokenReviews{d},
		"selfsubjectreviews": &selfSubjectReviews{},
	}
}

// tokenReviews says whose token it is.
type tokenReviews struct{ Deps }

var _ interface {
	rest.Storage
	rest.Creater
	rest.Scoper
	rest.SingularNameProvider
} = (*tokenReviews)(nil)

func (*tokenReviews) New() runtime.Object     { return &authenticationv1.TokenReview{} }
func (*tokenReviews) Destroy()                {}
func (*tokenReviews) NamespaceScoped() bool   { return false }
func (*tokenReviews) GetSingularName() string { return "tokenreview" }

func (r *tokenReviews) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authenticationv1.TokenReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenReview: %#v", obj))
	}
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	wanted := authenticator.Audiences(review.Spec.Audiences)
	if len(wanted) == 0 {
		wanted = r.Audiences
	}
	resp, ok, err := r.Token.AuthenticateToken(authenticator.WithAudiences(ctx, wanted), review.Spec.Token)
	if err == nil && ok && len(wanted) > 0 && len(wanted.Intersect(resp.Audiences)) == 0 {
		return nil, apierrors.NewInternalError(fmt.Errorf("error validating audiences: want=%q got=%q", wanted, resp.Audiences))
	}
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	switch {
	case err != nil:
		review.Status.Error = err.Error()
	case !ok:
		review.Status.Error = "invalid bearer token"
	default:
		review.Status.User = userInfo(resp.User)
		review.Status.Audiences = resp.Audiences
	}
	return review, nil
}

// selfSubjectReviews tells people who they are.
type selfSubjectReviews struct{}

var _ interface {
	rest.Storage
	rest.Creater
	rest.Scoper
	rest.SingularNameProvider
} = (*selfSubjectReviews)(nil)

func (*selfSubjectReviews) New() runtime.Object     { return &authenticationv1.SelfSubjectReview{} }
func (*selfSubjectReviews) Destroy()                {}
func (*selfSubjectReviews) NamespaceScoped() bool   { return false }
func (*selfSubjectReviews) GetSingularName() string { return "selfsubjectreview" }

func (*selfSubjectReviews) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if _, ok := obj.(*authenticationv1.SelfSubjectReview); !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectReview: %#v", obj))
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now())},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(u)},
	}, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	if extra := u.GetExtra(); len(extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(extra))
		for k, v := range extra {
			info.Extra[k] = v
		}
	}
	return info
}
