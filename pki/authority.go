// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/util/filesystem"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// backdate makes a new certificate acceptable to a machine whose clock is behind.
	backdate = time.Hour
	// lookAnyway is how often a file is looked at although nothing was heard of it.
	lookAnyway = time.Hour
)

// Authority is a self-signed CA. Its key may be missing, then it cannot sign.
//
// Its file may hold further certificates, which are trusted as well. They may come and go while the server runs; what
// it signs with stays what it was at the start.
type Authority struct {
	file, name string
	cert       *x509.Certificate
	key        crypto.Signer

	bundle atomic.Pointer[dynamiccertificates.CAContentProvider] // what the file holds

	mu        sync.Mutex
	listeners []dynamiccertificates.Listener // guarded by mu
}

var _ dynamiccertificates.CAContentProvider = (*Authority)(nil)

// Name implements dynamiccertificates.CAContentProvider.
func (a *Authority) Name() string { return a.name }

// CurrentCABundleContent implements dynamiccertificates.CAContentProvider.
func (a *Authority) CurrentCABundleContent() []byte {
	return (*a.bundle.Load()).CurrentCABundleContent()
}

// VerifyOptions implements dynamiccertificates.CAContentProvider.
func (a *Authority) VerifyOptions() (x509.VerifyOptions, bool) {
	return (*a.bundle.Load()).VerifyOptions()
}

// AddListener implements dynamiccertificates.CAContentProvider: l hears of each change of the file.
func (a *Authority) AddListener(l dynamiccertificates.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners = append(a.listeners, l)
}

// trust makes a bundle the one that counts, and tells who listens.
func (a *Authority) trust(bundle []byte) error {
	next, err := dynamiccertificates.NewStaticCAContent(a.name, bundle)
	if err != nil {
		return err
	}
	a.bundle.Store(&next)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.listeners {
		l.Enqueue()
	}
	return nil
}

// reload takes over what has changed in the file. It must still hold the certificate that signs.
func (a *Authority) reload(ctx context.Context) error {
	bundle, err := os.ReadFile(a.file + ".crt")
	if err != nil || bytes.Equal(bundle, a.CurrentCABundleContent()) {
		return err
	}
	certs, err := cert.ParseCertsPEM(bundle)
	if err == nil && !slices.ContainsFunc(certs, a.cert.Equal) {
		err = errors.New("the certificate that signs is not in it any more (restart the server to sign with another)")
	}
	if err == nil {
		err = a.trust(bundle)
	}
	if err != nil {
		return fmt.Errorf("read %s.crt again: %w", a.file, err)
	}
	klog.FromContext(ctx).Info("Other certificate authorities are trusted", "file", a.file+".crt", "certificates", len(certs))
	return nil
}

// follow takes over what changes in the file until ctx ends.
func (a *Authority) follow(ctx context.Context) {
	fail := func(err error) {
		klog.FromContext(ctx).Error(err, "What is trusted stays as it was", "file", a.file+".crt")
	}
	filesystem.WatchUntil(ctx, lookAnyway, a.file+".crt", func() {
		if err := a.reload(ctx); err != nil {
			fail(err)
		}
	}, fail)
}

// File is where the bundle is.
func (a *Authority) File() string { return a.file + ".crt" }

// Certificate is the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// PEM is the bundle that others are given to trust.
func (a *Authority) PEM() []byte { return a.CurrentCABundleContent() }

// Key signs; it is nil if this machine does not hold it.
func (a *Authority) Key() crypto.Signer { return a.key }

// loadAuthority reads file.crt and file.key. A key without a certificate is what a crash on the
// first start leaves; it gets its certificate now.
func loadAuthority(file, commonName string) (*Authority, error) {
	key, err := readKey(file + ".key")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	bundle, err := os.ReadFile(file + ".crt")
	if errors.Is(err, fs.ErrNotExist) {
		bundle, key, err = createAuthority(file, commonName, key)
	}
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	certs, err := cert.ParseCertsPEM(bundle)
	if err != nil {
		return nil, fmt.Errorf("read %s.crt: %w", file, err)
	}
	if key != nil && !samePublicKey(certs[0].PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s.key does not belong to the first certificate in %s.crt (put the right key back)", file, file)
	}
	a := &Authority{file: file, name: commonName, cert: certs[0], key: key}
	return a, a.trust(bundle)
}

func createAuthority(file, commonName string, key crypto.Signer) ([]byte, crypto.Signer, error) {
	if key == nil {
		var err error
		if key, err = newKey(file + ".key"); err != nil {
			return nil, nil, err
		}
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serialNumber(),
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign %s: %w", commonName, err)
	}
	bundle := encodeCertificate(der)
	return bundle, key, writeFile(file+".crt", bundle, 0o644)
}

// Sign issues a certificate of the usual life for somebody else's public key.
func (a *Authority) Sign(profile Profile, public crypto.PublicKey) ([]byte, error) {
	if a.key == nil {
		return nil, fmt.Errorf("sign a certificate for %s: %s.key is not on this machine", profile.CommonName, a.file)
	}
	now := time.Now()
	template := profile.template()
	template.SerialNumber = serialNumber()
	template.NotBefore = latest(now.Add(-backdate), a.cert.NotBefore)
	template.NotAfter = earliest(now.Add(certificateLife), a.cert.NotAfter)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", profile.CommonName, err)
	}
	return encodeCertificate(der), nil
}

func serialNumber() *big.Int {
	limit := new(big.Int).Lsh(big.NewInt(1), 63)
	n, err := rand.Int(rand.Reader, limit)
	if err != nil { // crypto/rand never fails: it ends the process instead
		panic(err)
	}
	return n.Add(n, big.NewInt(1))
}

func samePublicKey(a crypto.PublicKey, b crypto.PublicKey) bool {
	eq, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && eq.Equal(b)
}

func readKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read %s: a %T cannot sign", file, parsed)
	}
	return key, nil
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
