// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/wallclock"
)

const (
	maxTokenAge  = 24 * time.Hour   // a token is renewed after 80 % of its life, or this
	tokenJitter  = 10 * time.Second // spreads renewals
	renewalRetry = 15 * time.Second // after a renewal that did not succeed
)

// tokens keeps the service account tokens of pods, and asks for a new SetUp when one is due.
type tokens struct {
	client  kubernetes.Interface
	changed func(types.UID)

	mu      sync.Mutex // guards what follows
	stopped bool
	held    map[tokenKey]*token
}

// tokenKey says what a token is for. Each is bound to one pod.
type tokenKey struct {
	pod      types.UID
	account  string
	audience string
	seconds  int64
}

type token struct {
	text           []byte
	renew, expires time.Time   // reckoned from when it was asked for, as this node's clock need not be the server's
	stated         time.Time   // when it expires, in the server's words
	timer          *time.Timer // calls changed at renew, or for a retry
}

func newTokens(client kubernetes.Interface, changed func(types.UID)) *tokens {
	return &tokens{client: client, changed: changed, held: map[tokenKey]*token{}}
}

// get returns a valid token, a fresh one if the last is due. If that fails the last is good enough
// until it expires.
func (t *tokens) get(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) ([]byte, error) {
	k := keyOf(pod, p)
	t.mu.Lock()
	last := t.held[k]
	t.mu.Unlock()
	now := time.Now()
	if last != nil && !wallclock.Reached(last.renew, now) {
		return last.text, nil
	}
	fresh, err := t.request(ctx, pod, k)
	switch {
	case err == nil:
		t.keep(k, fresh, time.Until(fresh.renew))
		return fresh.text, nil
	case last == nil:
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	case wallclock.Reached(last.expires, now):
		return nil, fmt.Errorf("token of service account %s/%s expired and refresh failed: %w", pod.Namespace, k.account, err)
	}
	klog.FromContext(ctx).Error(err, "Couldn't update token", "pod", klog.KObj(pod), "expires", last.expires)
	t.keep(k, last, renewalRetry)
	return last.text, nil
}

func keyOf(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) tokenKey {
	k := tokenKey{pod: pod.UID, account: pod.Spec.ServiceAccountName, audience: p.Audience, seconds: 3600}
	if p.ExpirationSeconds != nil {
		k.seconds = *p.ExpirationSeconds
	}
	return k
}

// expiry is when the token that get has returned last expires, as the server says.
func (t *tokens) expiry(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if held := t.held[keyOf(pod, p)]; held != nil {
		return held.stated
	}
	return time.Time{}
}

func (t *tokens) request(ctx context.Context, pod *corev1.Pod, k tokenKey) (*token, error) {
	spec := authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &k.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}
	if k.audience != "" {
		spec.Audiences = []string{k.audience}
	}
	asked := time.Now()
	got, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).
		CreateToken(ctx, k.account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	if granted := got.Spec.ExpirationSeconds; granted != nil {
		k.seconds = *granted
	}
	life := time.Duration(k.seconds) * time.Second
	return &token{
		text:  []byte(got.Status.Token),
		renew: asked.Add(renewal(life)), expires: asked.Add(life), stated: got.Status.ExpirationTimestamp.Time,
	}, nil
}

// renewal is at which age a token shall be replaced.
func renewal(life time.Duration) time.Duration {
	age := min(life*8/10, maxTokenAge)
	return age - rand.N(min(tokenJitter, age/10+1))
}

// keep remembers tok and asks for a SetUp after a while.
func (t *tokens) keep(k tokenKey, tok *token, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.held[k]; old != nil {
		old.timer.Stop()
	}
	tok.timer = time.AfterFunc(max(after, 0), func() { t.changed(k.pod) })
	if t.stopped {
		tok.timer.Stop()
	}
	t.held[k] = tok
}

// forget drops the tokens of a pod.
func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, tok := range t.held {
		if k.pod == pod {
			tok.timer.Stop()
			delete(t.held, k)
		}
	}
}

// stop ends all timers.
func (t *tokens) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for _, tok := range t.held {
		tok.timer.Stop()
	}
}
