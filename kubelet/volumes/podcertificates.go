// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	certificatesinformers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/wallclock"
)

const (
	certificateJitter  = 5 * time.Minute  // spreads refreshes
	certificateLost    = 10 * time.Minute // a request that is not seen for so long was deleted
	certificateOverdue = 10 * time.Minute // after the time for a refresh
)

// podCertificates makes keys for pods and has signers certify them, by PodCertificateRequests. Keys are only in memory
// and in the pods' volumes: after a restart all are made anew. The requests of this node are watched from when a pod
// first wants a certificate.
type podCertificates struct {
	client  kubernetes.Interface
	node    func() (*corev1.Node, error)
	changed func(types.UID)
	event   func(about runtime.Object, kind, reason, message string)

	watching sync.WaitGroup

	mu       sync.Mutex // guards what follows
	ctx      context.Context
	requests certificateslisters.PodCertificateRequestLister
	held     map[certificateKey]*certificate
}

// certificateKey names a source of a projected volume.
type certificateKey struct {
	pod    types.UID
	volume string
	source int
}

// certificate is how far one is. Only SetUp of its pod touches it, but for the timer.
type certificate struct {
	now     *issued  // nil before the first
	request *request // under way
	refused error    // by the signer, for good
	timer   *time.Timer
}

// issued is a key and what certifies it, as PEM.
type issued struct {
	key, chain         []byte
	refresh, expires   time.Time // by this node's clock
	overdueSaid, ended bool      // events that were sent
}

type request struct {
	name string
	key  []byte
	seen bool      // by the informer
	lost time.Time // when it is given up if it was not seen

	ahead time.Duration // this node's clock, of the server's
}

func newPodCertificates(cfg Config) *podCertificates {
	return &podCertificates{client: cfg.Client, node: cfg.Node, changed: cfg.Changed, event: cfg.Event, held: map[certificateKey]*certificate{}}
}

func (p *podCertificates) run(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx = ctx
}

// stop ends all timers, and returns when nothing is watched any more. It is for after the end of run's context.
func (p *podCertificates) stop() {
	p.mu.Lock()
	for _, c := range p.held {
		c.timer.Stop()
	}
	p.mu.Unlock()
	p.watching.Wait()
}

// forget drops the certificates of a pod.
func (p *podCertificates) forget(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, c := range p.held {
		if k.pod == pod {
			c.timer.Stop()
			delete(p.held, k)
		}
	}
}

// get returns the pod's key and certificate, and asks for one if there is none or it is time for the next.
func (p *podCertificates) get(ctx context.Context, pod *corev1.Pod, k certificateKey, source *corev1.PodCertificateProjection) (*issued, error) {
	node, err := p.node()
	if err != nil {
		return nil, err
	}
	requests, err := p.watch(node.Name)
	if err != nil {
		return nil, err
	}
	c := p.certificate(k)
	if c.request != nil {
		seen, err := requests.PodCertificateRequests(pod.Namespace).Get(c.request.name)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("get PodCertificateRequest %s: %w", c.request.name, err)
		}
		if why, message := c.take(seen, time.Now()); why != "" {
			p.event(pod, corev1.EventTypeWarning, why, message)
		}
	}
	if c.wants(time.Now()) {
		if c.request, err = p.ask(ctx, pod, node, source); err != nil {
			if c.now == nil {
				return nil, err
			}
			klog.FromContext(ctx).Error(err, "Cannot refresh a pod's certificate", "pod", klog.KObj(pod), "expires", c.now.expires)
		}
	}
	for _, reason := range c.warnings(time.Now()) {
		p.event(pod, corev1.EventTypeWarning, reason, certificateWarnings[reason])
	}
	p.lookAgain(k, c)
	switch {
	case c.refused != nil:
		return nil, c.refused
	case c.now == nil:
		return nil, errors.New("credential bundle is not issued yet")
	}
	return c.now, nil
}

// watch returns the lister of this node's requests.
func (p *podCertificates) watch(node string) (certificateslisters.PodCertificateRequestLister, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil {
		return nil, errors.New("PodCertificateRequests are not watched yet")
	}
	if p.requests != nil {
		return p.requests, nil
	}
	informer := certificatesinformers.NewFilteredPodCertificateRequestInformer(p.client, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
		})
	tell := func(obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if r, ok := obj.(*certificatesv1.PodCertificateRequest); ok {
			p.changed(r.Spec.PodUID)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }, DeleteFunc: tell}); err != nil {
		return nil, fmt.Errorf("watch PodCertificateRequests: %w", err)
	}
	p.watching.Go(func() { informer.RunWithContext(p.ctx) })
	p.requests = certificateslisters.NewPodCertificateRequestLister(informer.GetIndexer())
	return p.requests, nil
}

func (p *podCertificates) certificate(k certificateKey) *certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.held[k]
	if c == nil {
		c = &certificate{timer: time.AfterFunc(certificateLost, func() { p.changed(k.pod) })}
		p.held[k] = c
	}
	return c
}

// lookAgain has SetUp called when something is due.
func (p *podCertificates) lookAgain(k certificateKey, c *certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.timer.Stop()
	if at := c.due(time.Now()); !at.IsZero() && p.ctx.Err() == nil {
		c.timer = time.AfterFunc(time.Until(at), func() { p.changed(k.pod) })
	}
}

// take learns what became of the request; nil means that the API does not have it. If the signer has refused, it
// returns an event.
func (c *certificate) take(seen *certificatesv1.PodCertificateRequest, now time.Time) (reason, message string) {
	if seen == nil {
		if c.request.seen || now.After(c.request.lost) {
			c.request = nil
		}
		return "", ""
	}
	c.request.seen = true
	for _, condition := range seen.Status.Conditions {
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			c.now = &issued{
				key: c.request.key, chain: onlyCertificates([]byte(seen.Status.CertificateChain)),
				refresh: c.request.here(seen.Status.BeginRefreshAt, now).Add(rand.N(certificateJitter)), expires: c.request.here(seen.Status.NotAfter, now),
			}
			c.request = nil
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			c.refused = fmt.Errorf("PodCertificateRequest was permanently denied: reason=%q message=%q", condition.Reason, condition.Message)
			message = fmt.Sprintf("PodCertificateRequest %s/%s was denied, reason=%q, message=%q", seen.Namespace, seen.Name, condition.Reason, condition.Message)
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			c.refused = fmt.Errorf("PodCertificateRequest was permanently failed: reason=%q message=%q", condition.Reason, condition.Message)
			message = fmt.Sprintf("PodCertificateRequest %s/%s failed, reason=%q, message=%q", seen.Namespace, seen.Name, condition.Reason, condition.Message)
		default:
			continue
		}
		if message != "" {
			c.request = nil
			return condition.Type, message
		}
		break
	}
	return "", ""
}

// here is when something is in the time of this node, whose clock may be set meanwhile. By a clock that differs from the server's,
// each new certificate might be too old already, and the next one asked for at once.
func (r *request) here(at *metav1.Time, now time.Time) time.Time {
	return now.Add(at.Sub(now) + r.ahead)
}

// wants says whether it is time for a request.
func (c *certificate) wants(now time.Time) bool {
	return c.refused == nil && c.request == nil && (c.now == nil || wallclock.Reached(c.now.refresh, now))
}

var certificateWarnings = map[string]string{
	"CertificateOverdueForRefresh": "PodCertificate refresh overdue",
	"CertificateExpired":           "PodCertificate expired",
}

// warnings are the events about the present certificate that are due, each once.
func (c *certificate) warnings(now time.Time) (reasons []string) {
	if c.now == nil || c.refused != nil {
		return nil
	}
	if !c.now.overdueSaid && wallclock.Reached(c.now.refresh.Add(certificateOverdue), now) {
		c.now.overdueSaid = true
		reasons = append(reasons, "CertificateOverdueForRefresh")
	}
	if !c.now.ended && wallclock.Reached(c.now.expires, now) {
		c.now.ended = true
		reasons = append(reasons, "CertificateExpired")
	}
	return reasons
}

// due is when there will be something to do or to say; zero if only the signer can change anything.
func (c *certificate) due(now time.Time) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	switch {
	case c.refused != nil:
		return at
	case c.request != nil && !c.request.seen:
		sooner(c.request.lost.Add(time.Second))
	case c.request != nil: // its end is an event
	case c.now != nil && wallclock.Reached(c.now.refresh, now): // the last attempt to ask did not succeed
		sooner(now.Add(renewalRetry))
	case c.now != nil:
		sooner(c.now.refresh)
	}
	if c.now != nil && !c.now.overdueSaid {
		sooner(c.now.refresh.Add(certificateOverdue + time.Second))
	}
	if c.now != nil && !c.now.ended {
		sooner(c.now.expires.Add(time.Second))
	}
	return at
}

// ask makes a key and a request for it.
func (p *podCertificates) ask(ctx context.Context, pod *corev1.Pod, node *corev1.Node, source *corev1.PodCertificateProjection) (*request, error) {
	account, err := p.client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("while fetching service account: %w", err)
	}
	key, proof, err := makeKey(source.KeyType)
	if err != nil {
		return nil, err
	}
	made, err := p.client.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: source.SignerName, StubPKCS10Request: proof, MaxExpirationSeconds: source.MaxExpirationSeconds,
			PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID, UnverifiedUserAnnotations: source.UserAnnotations,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	now := time.Now()
	return &request{name: made.Name, key: key, lost: now.Add(certificateLost + rand.N(certificateJitter)), ahead: now.Sub(made.CreationTimestamp.Time)}, nil
}

// makeKey returns a new private key as PEM, and a PKCS#10 request that proves that we have it.
func makeKey(kind string) (key, proof []byte, err error) {
	private, err := generate(kind)
	if err != nil {
		return nil, nil, fmt.Errorf("while generating keypair: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encode private key: %w", err)
	}
	if proof, err = x509.CreateCertificateRequest(cryptorand.Reader, &x509.CertificateRequest{}, private); err != nil {
		return nil, nil, fmt.Errorf("sign certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), proof, nil
}

func generate(kind string) (crypto.PrivateKey, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(cryptorand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(cryptorand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), cryptorand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), cryptorand.Reader)
	case "ED25519":
		_, private, err := ed25519.GenerateKey(cryptorand.Reader)
		return private, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}

// onlyCertificates drops from PEM what is between the blocks, and their headers.
func onlyCertificates(chain []byte) []byte {
	var out bytes.Buffer
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}) // a Buffer takes all
	}
	return out.Bytes()
}
