// SPDX-License-Identifier: Apache-2.0

package satoken

import (
	"context"
	"crypto"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"
)

// Labels that Kubernetes keeps on Secrets with tokens.
const (
	lastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

// Objects looks up what tokens name.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
	// LabelSecret sets one label of a Secret.
	LabelSecret(ctx context.Context, secret *corev1.Secret, label, value string) error
}

// Authenticator checks tokens.
type Authenticator struct {
	Metrics *Metrics // what it counts

	issuers   map[string]bool
	keys      []jose.JSONWebKey
	audiences authenticator.Audiences // the API server's own
	objects   Objects
}

var _ authenticator.Token = (*Authenticator)(nil)

// NewAuthenticator accepts tokens that one of keys signed and one of issuers made. A token that names
// no audience is meant for audiences, which are the API server's own.
func NewAuthenticator(issuers []string, keys []crypto.PublicKey, audiences authenticator.Audiences, objects Objects) (*Authenticator, error) {
	a := &Authenticator{Metrics: NewMetrics(), issuers: map[string]bool{legacyIssuer: true}, audiences: audiences, objects: objects}
	for _, issuer := range issuers {
		a.issuers[issuer] = true
	}
	for _, key := range keys {
		jwk, err := publicJWK(key)
		if err != nil {
			return nil, err
		}
		a.keys = append(a.keys, jwk)
	}
	return a, nil
}

// AuthenticateToken has no opinion on tokens of other issuers.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return nil, false, nil
	}
	var unverified publicClaims
	if parsed.UnsafeClaimsWithoutVerification(&unverified) != nil || !a.issuers[unverified.Issuer] {
		return nil, false, nil
	}
	var public publicClaims
	var private privateClaims
	var legacy legacyClaims
	if err := a.verify(parsed, &public, &private, &legacy); err != nil {
		return nil, false, err
	}
	audiences, err := a.matchAudiences(ctx, &public)
	if err != nil {
		return nil, false, err
	}
	var info *serviceaccount.ServiceAccountInfo
	if public.Issuer == legacyIssuer {
		info, err = a.checkLegacy(ctx, token, &public, &legacy)
	} else {
		info, err = a.checkBound(ctx, &public, &private.Kubernetes)
	}
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// verify reads the claims if the signature is by one of the keys: the one the token names, or any.
func (a *Authenticator) verify(token *jwt.JSONWebToken, claims ...any) error {
	named := ""
	if len(token.Headers) > 0 {
		named = token.Headers[0].KeyID
	}
	var errs []error
	for _, key := range a.keys {
		if named != "" && key.KeyID != named && a.hasKey(named) {
			continue
		}
		err := token.Claims(key.Key, claims...)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return utilerrors.NewAggregate(errs)
}

func (a *Authenticator) hasKey(id string) bool {
	for _, key := range a.keys {
		if key.KeyID == id {
			return true
		}
	}
	return false
}

// matchAudiences returns the audiences of the token that the request is for.
func (a *Authenticator) matchAudiences(ctx context.Context, public *publicClaims) (authenticator.Audiences, error) {
	of := authenticator.Audiences(public.Audience)
	if len(of) == 0 {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token", public.Subject)
		a.Metrics.legacy.Inc()
		of = a.audiences
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.audiences
	}
	matching := of.Intersect(wanted)
	if len(matching) == 0 && len(a.audiences) != 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", of, wanted)
	}
	return matching, nil
}

func (a *Authenticator) checkBound(ctx context.Context, public *publicClaims, claims *kubernetesClaims) (*serviceaccount.ServiceAccountInfo, error) {
	now := time.Now()
	if err := checkTime(public, now); err != nil {
		return nil, err
	}
	// An object that is being deleted keeps its tokens alive as long as clocks may differ.
	alive := now.Add(-jwt.DefaultLeeway)
	account := claims.ServiceAccount
	sa, err := a.objects.ServiceAccount(ctx, claims.Namespace, account.Name)
	if err != nil {
		klog.FromContext(ctx).V(4).Info("Could not retrieve service account", "namespace", claims.Namespace, "name", account.Name, "err", err)
		return nil, err
	}
	if string(sa.UID) != account.UID {
		return nil, fmt.Errorf("service account UID (%s) does not match claim (%s)", sa.UID, account.UID)
	}
	if deletedBefore(sa, alive) {
		return nil, fmt.Errorf("service account %s/%s has been deleted", claims.Namespace, account.Name)
	}
	if err := a.checkBinding(ctx, claims, alive); err != nil {
		return nil, err
	}
	switch w := claims.WarnAfter; {
	case w == nil || *w == 0:
	case now.After(w.Time()):
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token",
			fmt.Sprintf("subject: %s, seconds after warning threshold: %d", public.Subject, now.Unix()-w.Time().Unix()))
		a.Metrics.stale.Inc()
	default:
		a.Metrics.valid.Inc()
	}
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: claims.Namespace, Name: account.Name, UID: account.UID,
		CredentialID: tokenjwt.CredentialIDForJTI(public.ID),
	}
	if claims.Pod != nil {
		info.PodName, info.PodUID = claims.Pod.Name, claims.Pod.UID
	}
	if claims.Node != nil {
		info.NodeName, info.NodeUID = claims.Node.Name, claims.Node.UID
	}
	return info, nil
}

func checkTime(public *publicClaims, now time.Time) error {
	switch err := public.ValidateWithLeeway(jwt.Expected{Time: now}, jwt.DefaultLeeway); {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return errors.New("service account token is not valid yet")
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errors.New("service account token is issued in the future")
	default:
		return fmt.Errorf("service account token claims could not be validated: %w", err)
	}
}

// checkBinding makes sure that what the token is bound to is still there.
func (a *Authenticator) checkBinding(ctx context.Context, claims *kubernetesClaims, alive time.Time) error {
	check := func(kind, claim string, want *ref, get func() (metav1.Object, error)) error {
		obj, err := get()
		if err != nil {
			klog.FromContext(ctx).V(4).Info("Could not retrieve what a token is bound to", "kind", kind, "namespace", claims.Namespace, "name", want.Name, "err", err)
			return errors.New("service account token has been invalidated")
		}
		if string(obj.GetUID()) != want.UID {
			return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", kind, obj.GetUID(), claim, want.UID)
		}
		if deletedBefore(obj, alive) {
			return errors.New("service account token has been invalidated")
		}
		return nil
	}
	if s := claims.Secret; s != nil {
		if err := check("secret", "secret", s, func() (metav1.Object, error) { return a.objects.Secret(ctx, claims.Namespace, s.Name) }); err != nil {
			return err
		}
	}
	switch p, n := claims.Pod, claims.Node; {
	case p != nil: // its node is information only
		return check("pod", "pod", p, func() (metav1.Object, error) { return a.objects.Pod(ctx, claims.Namespace, p.Name) })
	case n != nil:
		return check("node", "node", n, func() (metav1.Object, error) { return a.objects.Node(ctx, n.Name) })
	}
	return nil
}

func deletedBefore(o metav1.Object, t time.Time) bool {
	d := o.GetDeletionTimestamp()
	return d != nil && d.Time.Before(t)
}

func (a *Authenticator) checkLegacy(ctx context.Context, token string, public *publicClaims, claims *legacyClaims) (*serviceaccount.ServiceAccountInfo, error) {
	for _, claim := range []struct{ name, value string }{
		{"sub", public.Subject}, {"namespace", claims.Namespace}, {"secretName", claims.SecretName},
		{"serviceAccountName", claims.ServiceAccountName}, {"serviceAccountUID", claims.ServiceAccountUID},
	} {
		if claim.value == "" {
			return nil, fmt.Errorf("%s claim is missing", claim.name)
		}
	}
	if !serviceaccount.MatchesUsername(claims.Namespace, claims.ServiceAccountName, public.Subject) {
		return nil, errors.New("sub claim is invalid")
	}
	secret, err := a.objects.Secret(ctx, claims.Namespace, claims.SecretName)
	if err != nil || secret.DeletionTimestamp != nil {
		return nil, errors.New("Token has been invalidated")
	}
	if subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 0 {
		return nil, errors.New("Token does not match server's copy")
	}
	sa, err := a.objects.ServiceAccount(ctx, claims.Namespace, claims.ServiceAccountName)
	if err != nil {
		return nil, err
	}
	if sa.DeletionTimestamp != nil {
		return nil, fmt.Errorf("ServiceAccount %s/%s has been deleted", sa.Namespace, sa.Name)
	}
	if string(sa.UID) != claims.ServiceAccountUID {
		return nil, fmt.Errorf("ServiceAccount UID (%s) does not match claim (%s)", sa.UID, claims.ServiceAccountUID)
	}
	a.markUsed(ctx, secret)
	if secret.Labels[invalidSinceLabel] != "" {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-invalidated", secret.Name+"/"+secret.Namespace)
		a.Metrics.legacyInvalidated.Inc()
		return nil, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			secret.Namespace, secret.Name, sa.Namespace, sa.Name, invalidSinceLabel)
	}
	a.noteOrigin(ctx, sa, secret)
	return &serviceaccount.ServiceAccountInfo{Namespace: sa.Namespace, Name: sa.Name, UID: claims.ServiceAccountUID}, nil
}

// noteOrigin tells apart Secrets that old clusters made by themselves and those that people made.
func (a *Authenticator) noteOrigin(ctx context.Context, sa *corev1.ServiceAccount, secret *corev1.Secret) {
	for _, ref := range sa.Secrets {
		if ref.Name == secret.Name {
			warning.AddWarning(ctx, "", "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
			audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-autogenerated-secret", secret.Name)
			a.Metrics.legacyAuto.Inc()
			return
		}
	}
	audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-manual-secret", secret.Name)
	a.Metrics.legacyManual.Inc()
}

// markUsed notes the day of use on the Secret. A label from tomorrow is another server's clock.
func (a *Authenticator) markUsed(ctx context.Context, secret *corev1.Secret) {
	now := time.Now().UTC()
	today, tomorrow := now.Format(time.DateOnly), now.AddDate(0, 0, 1).Format(time.DateOnly)
	if used := secret.Labels[lastUsedLabel]; used == today || used == tomorrow {
		return
	}
	if err := a.objects.LabelSecret(ctx, secret, lastUsedLabel, today); err != nil {
		klog.FromContext(ctx).Error(err, "Labelling a service account token with its day of use", "secret", klog.KObj(secret))
	}
}
