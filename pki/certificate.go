// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

const nodesGroup = "system:nodes"

var (
	loopback4 = net.IPv4(127, 0, 0, 1)
	loopback6 = net.IPv6loopback
)

// Profile is what a certificate says about its holder.
type Profile struct {
	CommonName    string
	Organizations []string
	DNSNames      []string
	IPs           []net.IP
	Usages        []x509.ExtKeyUsage
}

// Client is the profile of a user who is in groups.
func Client(user string, groups ...string) Profile {
	return Profile{CommonName: user, Organizations: groups, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// KubeletClient is the profile of a node towards the API server.
func KubeletClient(nodeName string) Profile {
	return Client(NodeUser+nodeName, nodesGroup)
}

// KubeletServing is the profile of a kubelet's own port.
func KubeletServing(nodeName string, ips []net.IP) Profile {
	return Profile{
		CommonName:    NodeUser + nodeName,
		Organizations: []string{nodesGroup},
		DNSNames:      []string{nodeName, "localhost"},
		IPs:           append([]net.IP{loopback4, loopback6}, ips...),
		Usages:        []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// template orders names and leaves out doubles, so that equal profiles make equal certificates.
func (p Profile) template() *x509.Certificate {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: p.CommonName, Organization: p.Organizations},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: p.Usages,
	}
	for _, name := range p.DNSNames {
		if name != "" && !slices.Contains(t.DNSNames, name) {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	for _, ip := range p.IPs {
		if ip != nil && !slices.ContainsFunc(t.IPAddresses, ip.Equal) {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	return t
}

// describes tells whether c says what the profile wants, no more and no less.
func (p Profile) describes(c *x509.Certificate) bool {
	want := p.template()
	return c.Subject.CommonName == want.Subject.CommonName &&
		slices.Equal(c.Subject.Organization, want.Subject.Organization) &&
		slices.Equal(c.DNSNames, want.DNSNames) &&
		slices.EqualFunc(c.IPAddresses, want.IPAddresses, net.IP.Equal) &&
		slices.Equal(c.ExtKeyUsage, want.ExtKeyUsage)
}

// Certificate is a certificate with its key that may be replaced at any time. It is a
// CertKeyContentProvider, and serves crypto/tls through its Get methods.
type Certificate struct {
	file    string // of file.crt and file.key
	ca      *Authority
	profile Profile

	current atomic.Pointer[pair]

	mu        sync.Mutex // guards listeners
	listeners []dynamiccertificates.Listener
}

// pair is a certificate and the key that fits it.
type pair struct {
	cert, key []byte
	tls       tls.Certificate
}

var _ dynamiccertificates.CertKeyContentProvider = (*Certificate)(nil)

// loadCertificate takes what is on disk if it still says and is what it should, and issues anew if not.
func loadCertificate(file string, ca *Authority, profile Profile) (*Certificate, error) {
	c := &Certificate{file: file, ca: ca, profile: profile}
	if p, err := readPair(file); err == nil && c.stillGood(p.tls.Leaf) {
		c.current.Store(p)
		return c, nil
	}
	if err := c.issue(); err != nil {
		return nil, err
	}
	return c, nil
}

func readPair(file string) (*pair, error) {
	certPEM, err := os.ReadFile(file + ".crt")
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(file + ".key")
	if err != nil {
		return nil, err
	}
	return newPair(certPEM, keyPEM)
}

func newPair(certPEM, keyPEM []byte) (*pair, error) {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	return &pair{cert: certPEM, key: keyPEM, tls: c}, nil
}

func (c *Certificate) stillGood(leaf *x509.Certificate) bool {
	return c.profile.describes(leaf) && leaf.CheckSignatureFrom(c.ca.cert) == nil && time.Now().Before(renewalTime(leaf))
}

// issue makes a new key and certificate, stores them, and tells the listeners.
func (c *Certificate) issue() error {
	key, keyPEM, err := generateKey()
	if err != nil {
		return fmt.Errorf("make a key for %s: %w", c.Name(), err)
	}
	certPEM, err := c.ca.Sign(c.profile, key.Public())
	if err != nil {
		return err
	}
	p, err := newPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("check the new certificate %s: %w", c.Name(), err)
	}
	if err := writeFile(c.file+".key", keyPEM, 0o600); err != nil {
		return err
	}
	if err := writeFile(c.file+".crt", certPEM, 0o644); err != nil {
		return err
	}
	c.current.Store(p)
	c.notify()
	return nil
}

func (c *Certificate) notify() {
	c.mu.Lock()
	listeners := slices.Clone(c.listeners)
	c.mu.Unlock()
	for _, l := range listeners {
		l.Enqueue()
	}
}

func (c *Certificate) renewAt() time.Time { return renewalTime(c.Leaf()) }

// renewalTime is after two thirds of the certificate's life.
func renewalTime(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
}

// Name is the file's, for logs.
func (c *Certificate) Name() string { return filepath.Base(c.file) }

// CurrentCertKeyContent is the pair in PEM form.
func (c *Certificate) CurrentCertKeyContent() (certPEM, keyPEM []byte) {
	p := c.current.Load()
	return p.cert, p.key
}

// AddListener asks for a call after every renewal.
func (c *Certificate) AddListener(l dynamiccertificates.Listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, l)
}

// Leaf is the certificate in use.
func (c *Certificate) Leaf() *x509.Certificate { return c.current.Load().tls.Leaf }

// Files are the paths, for components that want to read them themselves.
func (c *Certificate) Files() (certFile, keyFile string) { return c.file + ".crt", c.file + ".key" }

// GetCertificate goes into the tls.Config of a server.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.current.Load().tls, nil
}

// GetClientCertificate goes into the tls.Config of a client.
func (c *Certificate) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return &c.current.Load().tls, nil
}
