// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"
)

// trustBundles reads ClusterTrustBundles. It starts to watch them when a pod first wants one.
type trustBundles struct {
	factory informers.SharedInformerFactory
	changed func(types.UID)

	mu     sync.Mutex // guards what follows
	ctx    context.Context
	lister certificateslisters.ClusterTrustBundleLister
	synced cache.InformerSynced
	users  map[types.UID]bool
}

// bundlesAnswer is how long a pod waits for the first list of bundles.
const bundlesAnswer = 2 * time.Second

func newTrustBundles(factory informers.SharedInformerFactory, changed func(types.UID)) *trustBundles {
	return &trustBundles{factory: factory, changed: changed, users: map[types.UID]bool{}}
}

func (t *trustBundles) run(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx = ctx
}

// use notes that pod wants to hear of changes, and returns the lister.
func (t *trustBundles) use(pod types.UID) (certificateslisters.ClusterTrustBundleLister, cache.InformerSynced, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users[pod] = true
	if t.lister != nil {
		return t.lister, t.synced, nil
	}
	if t.ctx == nil {
		return nil, nil, errors.New("ClusterTrustBundle informer has not yet synced")
	}
	bundles := t.factory.Certificates().V1().ClusterTrustBundles()
	registration, err := bundles.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { t.notify() },
		UpdateFunc: func(_, _ any) { t.notify() },
		DeleteFunc: func(any) { t.notify() },
	})
	if err != nil {
		return nil, nil, err
	}
	t.factory.StartWithContext(t.ctx)
	t.lister, t.synced = bundles.Lister(), registration.HasSynced
	return t.lister, t.synced, nil
}

func (t *trustBundles) notify() {
	t.mu.Lock()
	users := slices.Collect(maps.Keys(t.users))
	t.mu.Unlock()
	for _, uid := range users {
		t.changed(uid)
	}
}

func (t *trustBundles) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.users, pod)
}

// get returns the certificates that p selects, each once, as PEM.
func (t *trustBundles) get(ctx context.Context, pod types.UID, p *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	lister, synced, err := t.use(pod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bundlesAnswer)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return nil, errors.New("ClusterTrustBundle informer has not yet synced")
	}
	var found []*certificatesv1.ClusterTrustBundle
	switch {
	case p.Name != nil:
		bundle, err := lister.Get(*p.Name)
		if apierrors.IsNotFound(err) && isTrue(p.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
		}
		found = append(found, bundle)
	case p.SignerName != nil:
		if found, err = bySigner(lister, *p.SignerName, p.LabelSelector); err != nil {
			return nil, err
		}
		if len(found) == 0 && !isTrue(p.Optional) {
			return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
		}
	default:
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	return certificates(found), nil
}

// bySigner lists a signer's bundles. No selector selects none of them, an empty one all.
func bySigner(lister certificateslisters.ClusterTrustBundleLister, signer string, labels *metav1.LabelSelector) ([]*certificatesv1.ClusterTrustBundle, error) {
	selector, err := metav1.LabelSelectorAsSelector(labels)
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all, err := lister.List(selector)
	return slices.DeleteFunc(all, func(b *certificatesv1.ClusterTrustBundle) bool { return b.Spec.SignerName != signer }), err
}

// certificates concatenates the bundles without duplicates, headers and comments, in a stable order.
func certificates(bundles []*certificatesv1.ClusterTrustBundle) []byte {
	seen := map[string]bool{}
	for _, b := range bundles {
		for block, rest := pem.Decode([]byte(b.Spec.TrustBundle)); block != nil; block, rest = pem.Decode(rest) {
			seen[string(block.Bytes)] = true
		}
	}
	var out bytes.Buffer
	for _, der := range slices.Sorted(maps.Keys(seen)) {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}) // a Buffer takes all
	}
	return out.Bytes()
}
