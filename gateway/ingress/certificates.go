// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// pair is a certificate with its key, as a version of a Secret has it.
type pair struct {
	version     string
	certificate *tls.Certificate
	err         error
}

// tls says how connections to port 443 are encrypted; nil if nobody wants that. A certificate is used for the hosts for which an
// Ingress names it, whatever else is in it: the oldest Ingress decides about a host, so no other one can take it over.
func (w *world) tls(m *memo, problems map[types.UID][]problem) *table.ServerTLS {
	var server *table.ServerTLS
	used := map[types.UID]*pair{}
	for _, in := range w.ingresses {
		for _, t := range in.Spec.TLS {
			if server == nil {
				server = &table.ServerTLS{ByName: map[string][]*tls.Certificate{}}
			}
			if t.SecretName == "" {
				continue // the certificate for hosts without one
			}
			certificate, why := w.certificate(in.Namespace, t.SecretName, m, used)
			if why != "" {
				problems[in.UID] = append(problems[in.UID], problem{"TLSSecretInvalid", why})
				continue
			}
			hosts := hostsOf(in, t)
			if len(hosts) == 0 && len(server.Certificates) == 0 {
				server.Certificates = append(server.Certificates, certificate)
			}
			for _, host := range hosts {
				if server.ByName[host] == nil {
					server.ByName[host] = []*tls.Certificate{certificate}
				}
			}
		}
	}
	m.pairs = used
	if server != nil && len(server.Certificates) == 0 {
		server.Certificates = []*tls.Certificate{m.selfSigned()}
	}
	return server
}

// hostsOf returns the hosts that a certificate is for: those that are named, or else those of the rules.
func hostsOf(in *networkingv1.Ingress, t networkingv1.IngressTLS) []string {
	if len(t.Hosts) > 0 {
		return t.Hosts
	}
	var hosts []string
	for _, rule := range in.Spec.Rules {
		if rule.Host != "" {
			hosts = append(hosts, rule.Host)
		}
	}
	return hosts
}

// certificate returns what is in a Secret, or why it cannot be used.
func (w *world) certificate(namespace, name string, m *memo, used map[types.UID]*pair) (*tls.Certificate, string) {
	secret, err := w.secret(namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Sprintf("Secret %s/%s does not exist; the host has a self-signed certificate", namespace, name)
	}
	if err != nil {
		return nil, fmt.Sprintf("Secret %s/%s cannot be read: %v", namespace, name, err)
	}
	p := used[secret.UID]
	if p == nil {
		p = m.pairs[secret.UID]
	}
	if p == nil || p.version != secret.ResourceVersion {
		p = newPair(secret)
	}
	used[secret.UID] = p
	if p.err != nil {
		return nil, fmt.Sprintf("Secret %s/%s has no certificate and key that fit (%s and %s): %v", namespace, name, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, p.err)
	}
	return p.certificate, ""
}

func newPair(secret *corev1.Secret) *pair {
	certificate, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	return &pair{version: secret.ResourceVersion, certificate: &certificate, err: err}
}

// selfSigned is the certificate for hosts that have none. It is nobody's, and lasts as long as the process.
func (m *memo) selfSigned() *tls.Certificate {
	if m.fallback == nil {
		m.fallback = newSelfSigned()
	}
	return m.fallback.certificate
}

func newSelfSigned() *pair {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return &pair{err: err}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Skiff Ingress, no certificate"},
		DNSNames: []string{"ingress.invalid"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return &pair{certificate: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err: err}
}

func sameTLS(a, b *table.ServerTLS) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Certificates, b.Certificates) && maps.EqualFunc(a.ByName, b.ByName, slices.Equal[[]*tls.Certificate])
}
