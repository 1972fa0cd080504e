// SPDX-License-Identifier: Apache-2.0

package authentication

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
)

const (
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 60 * 60
	// extendedSeconds is how long a token really lasts that asked for legacySeconds: pods that were
	// written when tokens had no end get a warning in the audit log before they fail.
	legacySeconds   = 60*60 + 7
	extendedSeconds = 365 * 24 * 60 * 60
)

// Tokens is the subresource serviceaccounts/token, which makes tokens.
type Tokens struct {
	Issuer     *satoken.Issuer
	Objects    satoken.Objects // live: pods ask for their token right after they were made
	Audiences  authenticator.Audiences
	MaxSeconds int64 // cluster's limit, none if 0
	Extend     bool  // the year for old pods
}

var _ interface {
	rest.Storage
	rest.NamedCreater
	rest.GroupVersionKindProvider
	rest.SubresourceObjectMetaPreserver
} = (*Tokens)(nil)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// New, Destroy, GroupVersionKind and PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate say
// what kind of storage this is.
func (*Tokens) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (*Tokens) Destroy()            {}
func (*Tokens) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return tokenRequestKind
}
func (*Tokens) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create answers POST .../serviceaccounts/<name>/token.
func (t *Tokens) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %#v", obj))
	}
	namespace, ok := request.NamespaceFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("namespace is required")
	}
	if req.Name != "" && req.Name != name {
		return nil, invalid(name, field.Invalid(field.NewPath("metadata", "name"), req.Name, "must match the service account name if specified"))
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return nil, invalid(name, field.Invalid(field.NewPath("metadata", "namespace"), req.Namespace, "must match the service account namespace if specified"))
	}
	sa, err := t.Objects.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return t.create(ctx, sa, req, validate)
}

// CreateToken makes the token that req asks for, for those inside the process.
func (t *Tokens) CreateToken(ctx context.Context, sa *corev1.ServiceAccount, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return t.create(ctx, sa, req.DeepCopy(), nil)
}

func (t *Tokens) create(ctx context.Context, sa *corev1.ServiceAccount, req *authenticationv1.TokenRequest, validate rest.ValidateObjectFunc) (*authenticationv1.TokenRequest, error) {
	if req.UID != "" && req.UID != sa.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, sa.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, sa.UID))
	}
	// Taken before the token is made, so that the time told is never after the one in the token.
	now := time.Now()
	t.complete(req, sa, now)
	if err := validateTokenRequest(req); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, req.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	bound := satoken.Bound{ServiceAccount: sa, Now: now}
	if err := t.bind(ctx, &bound, req.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	seconds := *req.Spec.ExpirationSeconds
	if t.MaxSeconds > 0 && seconds > t.MaxSeconds {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", seconds, t.MaxSeconds))
		seconds = t.MaxSeconds
	}
	req.Spec.ExpirationSeconds = &seconds
	bound.Audiences = req.Spec.Audiences
	bound.Expires = time.Duration(seconds) * time.Second
	if t.Extend && bound.Pod != nil && seconds == legacySeconds && sets.New(t.Audiences...).HasAll(req.Spec.Audiences...) {
		bound.WarnAfter, bound.Expires = bound.Expires, t.extended()
	}
	token, id, err := t.Issuer.Issue(bound)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, tokenjwt.CredentialIDForJTI(id))
	req.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(seconds) * time.Second)),
	}
	return req, nil
}

// extended keeps a cluster's limit also for old pods.
func (t *Tokens) extended() time.Duration {
	if t.MaxSeconds > 0 {
		return time.Duration(min(t.MaxSeconds, extendedSeconds)) * time.Second
	}
	return extendedSeconds * time.Second
}

// complete fills in what the request leaves out.
func (t *Tokens) complete(req *authenticationv1.TokenRequest, sa *corev1.ServiceAccount, now time.Time) {
	req.Name, req.Namespace, req.UID = sa.Name, sa.Namespace, sa.UID
	req.CreationTimestamp = metav1.NewTime(now)
	req.Status = authenticationv1.TokenRequestStatus{}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = t.Audiences
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
}

func validateTokenRequest(req *authenticationv1.TokenRequest) error {
	path := field.NewPath("spec", "expirationSeconds")
	switch seconds := *req.Spec.ExpirationSeconds; {
	case seconds < minTokenSeconds:
		return invalid("", field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > maxTokenSeconds:
		return invalid("", field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return nil
}

func invalid(name string, err *field.Error) error {
	return apierrors.NewInvalid(tokenRequestKind.GroupKind(), name, field.ErrorList{err})
}

// bind looks up the object that the token is to live and die with.
func (t *Tokens) bind(ctx context.Context, b *satoken.Bound, to *authenticationv1.BoundObjectReference) (err error) {
	if to == nil {
		return nil
	}
	namespace := b.ServiceAccount.Namespace
	kind := schema.FromAPIVersionAndKind(to.APIVersion, to.Kind)
	var uid types.UID
	switch kind.GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		if b.Pod, err = t.Objects.Pod(ctx, namespace, to.Name); err != nil {
			return err
		}
		if b.Pod.Spec.ServiceAccountName != b.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", b.ServiceAccount.Name))
		}
		uid = b.Pod.UID
		b.Node, err = t.nodeOf(ctx, b.Pod)
	case schema.GroupKind{Kind: "Node"}:
		if b.Node, err = t.Objects.Node(ctx, to.Name); err == nil {
			uid = b.Node.UID
		}
	case schema.GroupKind{Kind: "Secret"}:
		if b.Secret, err = t.Objects.Secret(ctx, namespace, to.Name); err == nil {
			uid = b.Secret.UID
		}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind.String()))
	}
	if err != nil {
		return err
	}
	if to.UID != "" && to.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, to.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID))
	}
	return nil
}

// nodeOf tells where a pod runs; of a node that is gone at least the name.
func (t *Tokens) nodeOf(ctx context.Context, pod *corev1.Pod) (*corev1.Node, error) {
	name := pod.Spec.NodeName
	if name == "" {
		return nil, nil
	}
	node, err := t.Objects.Node(ctx, name)
	if apierrors.IsNotFound(err) {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return node, nil
}
