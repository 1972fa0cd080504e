// SPDX-License-Identifier: Apache-2.0

// Package authorization serves the group authorization.k8s.io: may somebody do something, may I, and
// what may I do here. The answers come from the authorizer that guards the API, and are not stored.
package authorization

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Deps is what the answers come from.
type Deps struct {
	Authorizer authorizer.UnconditionalAuthorizer
	Rules      authorizer.RuleResolver
}

// Storages are the resources of the group by plural name.
func Storages(d Deps) map[string]rest.Storage {
	return map[string]rest.Storage{
		"subjectaccessreviews":      &storage{singular: "subjectaccessreview", empty: newSubject, review: d.subject},
		"selfsubjectaccessreviews":  &storage{singular: "selfsubjectaccessreview", empty: newSelf, review: d.self},
		"localsubjectaccessreviews": &storage{singular: "localsubjectaccessreview", namespaced: true, empty: newLocal, review: d.local},
		"selfsubjectrulesreviews":   &storage{singular: "selfsubjectrulesreview", empty: newRules, review: d.rules},
	}
}

func newSubject() runtime.Object { return &authorizationv1.SubjectAccessReview{} }
func newSelf() runtime.Object    { return &authorizationv1.SelfSubjectAccessReview{} }
func newLocal() runtime.Object   { return &authorizationv1.LocalSubjectAccessReview{} }
func newRules() runtime.Object   { return &authorizationv1.SelfSubjectRulesReview{} }

// storage is a resource that answers creates.
type storage struct {
	singular   string
	namespaced bool
	empty      func() runtime.Object
	// review checks the question, calls admit, and returns the answer.
	review func(ctx context.Context, obj runtime.Object, admit func() error) (runtime.Object, error)
}

var _ interface {
	rest.Storage
	rest.Creater
	rest.Scoper
	rest.SingularNameProvider
} = (*storage)(nil)

func (s *storage) New() runtime.Object     { return s.empty() }
func (s *storage) Destroy()                {}
func (s *storage) NamespaceScoped() bool   { return s.namespaced }
func (s *storage) GetSingularName() string { return s.singular }

func (s *storage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	return s.review(ctx, obj, func() error {
		if validate == nil {
			return nil
		}
		return validate(ctx, obj.DeepCopyObject())
	})
}

func (d Deps) subject(ctx context.Context, obj runtime.Object, admit func() error) (runtime.Object, error) {
	r, ok := obj.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SubjectAccessReview: %#v", obj))
	}
	if errs := append(validateSpec(&r.Spec), validateMeta(r.ObjectMeta, "must be empty")...); len(errs) > 0 {
		return nil, invalid("SubjectAccessReview", errs)
	}
	if err := admit(); err != nil {
		return nil, err
	}
	r.Status = d.answer(ctx, userOf(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, nil
}

func (d Deps) local(ctx context.Context, obj runtime.Object, admit func() error) (runtime.Object, error) {
	r, ok := obj.(*authorizationv1.LocalSubjectAccessReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a LocalSubjectAccessReview: %#v", obj))
	}
	meta := r.ObjectMeta
	meta.Namespace = ""
	errs := append(validateSpec(&r.Spec), validateMeta(meta, "must be empty except for namespace")...)
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return nil, invalid("LocalSubjectAccessReview", errs)
	}
	if namespace := request.NamespaceValue(ctx); namespace == "" || namespace != r.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", namespace))
	}
	if err := admit(); err != nil {
		return nil, err
	}
	r.Status = d.answer(ctx, userOf(&r.Spec), r.Spec.ResourceAttributes, nil)
	return r, nil
}

func (d Deps) self(ctx context.Context, obj runtime.Object, admit func() error) (runtime.Object, error) {
	r, ok := obj.(*authorizationv1.SelfSubjectAccessReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectAccessReview: %#v", obj))
	}
	errs := validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	if errs = append(errs, validateMeta(r.ObjectMeta, "must be empty")...); len(errs) > 0 {
		return nil, invalid("SelfSubjectAccessReview", errs)
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	if err := admit(); err != nil {
		return nil, err
	}
	r.Status = d.answer(ctx, u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, nil
}

func (d Deps) rules(ctx context.Context, obj runtime.Object, admit func() error) (runtime.Object, error) {
	r, ok := obj.(*authorizationv1.SelfSubjectRulesReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectRulesReview: %#v", obj))
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	if r.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	if err := admit(); err != nil {
		return nil, err
	}
	resources, paths, incomplete, err := d.Rules.RulesFor(ctx, u, r.Spec.Namespace)
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    make([]authorizationv1.ResourceRule, len(resources)),
		NonResourceRules: make([]authorizationv1.NonResourceRule, len(paths)),
		Incomplete:       incomplete,
	}
	for i, rule := range resources {
		status.ResourceRules[i] = authorizationv1.ResourceRule{Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(),
			Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames()}
	}
	for i, rule := range paths {
		status.NonResourceRules[i] = authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()}
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return &authorizationv1.SelfSubjectRulesReview{Status: status}, nil
}

func (d Deps) answer(ctx context.Context, u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	attrs := attributesOf(u, resource, path)
	decision, reason, err := d.Authorizer.Authorize(ctx, attrs)
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed:         decision == authorizer.DecisionAllow,
		Denied:          decision == authorizer.DecisionDeny,
		Reason:          reason,
		EvaluationError: evaluationError(err, attrs),
	}
}

func evaluationError(err error, attrs authorizer.AttributesRecord) string {
	var msgs []string
	if err != nil {
		msgs = append(msgs, err.Error())
	}
	ignored := func(selector string, err error, understood int) {
		switch {
		case err == nil:
		case understood > 0:
			msgs = append(msgs, "spec.resourceAttributes."+selector+" partially ignored due to parse error")
		default:
			msgs = append(msgs, "spec.resourceAttributes."+selector+" ignored due to parse error")
		}
	}
	ignored("fieldSelector", attrs.FieldSelectorParsingErr, len(attrs.FieldSelectorRequirements))
	ignored("labelSelector", attrs.LabelSelectorParsingErr, len(attrs.LabelSelectorRequirements))
	return strings.Join(msgs, "; ")
}

func userOf(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, Groups: spec.Groups, UID: spec.UID}
	if spec.Extra != nil {
		u.Extra = make(map[string][]string, len(spec.Extra))
		for k, v := range spec.Extra {
			u.Extra[k] = v
		}
	}
	return u
}

func invalid(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
}
