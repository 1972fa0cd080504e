// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	bootstrapSecretType = corev1.SecretType("bootstrap.kubernetes.io/token")
	bootstrapGroup      = "system:bootstrappers"
)

var (
	bootstrapToken      = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapExtraGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// bootstrapTokens recognises nodes that are about to join, by tokens of the form id.secret that lie
// in Secrets named bootstrap-token-<id> of kube-system.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
type bootstrapTokens struct{ client kubernetes.Interface }

// AuthenticateToken says no to whoever has not exactly the token, without saying why.
func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	parts := bootstrapToken.FindStringSubmatch(token)
	if parts == nil {
		return nil, false, nil
	}
	id, key := parts[1], parts[2]
	var groups []string
	// First from the watch cache: anybody may try tokens, and no wrong one should reach the datastore. Then from there:
	// the cache may not know yet that the token was deleted.
	for _, version := range []string{"0", ""} {
		secret, err := b.client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, "bootstrap-token-"+id, metav1.GetOptions{ResourceVersion: version})
		if apierrors.IsNotFound(err) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("look up bootstrap token: %w", err)
		}
		if groups, err = checkBootstrapSecret(secret, id, key, time.Now()); err != nil {
			klog.FromContext(ctx).V(3).Info("Bootstrap token refused", "secret", klog.KObj(secret), "reason", err)
			return nil, false, nil
		}
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: "system:bootstrap:" + id, Groups: groups}}, true, nil
}

// checkBootstrapSecret returns the groups that the token gives.
func checkBootstrapSecret(secret *corev1.Secret, id, key string, now time.Time) ([]string, error) {
	data := func(name string) string { return string(secret.Data[name]) }
	switch {
	case secret.DeletionTimestamp != nil:
		return nil, fmt.Errorf("is deleted and awaiting removal")
	case secret.Type != bootstrapSecretType:
		return nil, fmt.Errorf("has invalid type, expected %s", bootstrapSecretType)
	case subtle.ConstantTimeCompare([]byte(data("token-secret")), []byte(key)) != 1:
		return nil, fmt.Errorf("has invalid value for key token-secret")
	case data("token-id") != id:
		return nil, fmt.Errorf("has invalid value for key token-id")
	case data("usage-bootstrap-authentication") != "true":
		return nil, fmt.Errorf("not marked usage-bootstrap-authentication=true")
	}
	if expiration := data("expiration"); expiration != "" {
		expires, err := time.Parse(time.RFC3339, expiration)
		if err != nil {
			return nil, fmt.Errorf("has invalid value for key expiration: %w", err)
		}
		if !now.Before(expires) {
			return nil, fmt.Errorf("has expired")
		}
	}
	return bootstrapGroups(data("auth-extra-groups"))
}

func bootstrapGroups(extra string) ([]string, error) {
	groups := sets.New(bootstrapGroup)
	for _, g := range strings.Split(extra, ",") {
		if extra == "" {
			break
		}
		if !bootstrapExtraGroup.MatchString(g) {
			return nil, fmt.Errorf("has invalid value for key auth-extra-groups: bootstrap group %q is invalid (must match %s)", g, bootstrapExtraGroup)
		}
		groups.Insert(g)
	}
	return sets.List(groups), nil
}
