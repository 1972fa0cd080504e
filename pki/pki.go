// SPDX-License-Identifier: Apache-2.0

// Package pki makes the cluster's certificate authorities, certificates, service account
// signing key and kubeconfig, and keeps them valid.
//
// New makes whatever is missing, stale or broken below one directory; a second New finds it all
// there. Run re-issues a certificate after two thirds of its life and tells those who use it,
// without a restart. Authorities live for ten years and are never replaced, because everybody
// trusts them; Follow takes over what is added to the files of those by which callers are known.
//
// A key is written before its certificate and every file is written whole or not at all. So after
// a crash at any point there is a pair that fits, or one that New sees does not fit and re-issues.
// An authority whose key was taken away (an external CA) still verifies; it cannot issue.
//
// File names follow kubeadm where it has the same thing:
// https://kubernetes.io/docs/setup/best-practices/certificates/
package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

// Config says whom the certificates are for. Dir is the only field that must be set.
type Config struct {
	Dir           string   // holds everything but the kubeconfig: <data-dir>/server/tls
	NodeName      string   // this machine's Node
	NodeIPs       []net.IP // its addresses, IPv4 and IPv6
	ServiceIP     net.IP   // ClusterIP of the kubernetes Service
	ClusterDomain string   // cluster.local
	ExtraSANs     []string // more names and addresses under which clients reach the API server

	Endpoint       string      // URL in the kubeconfig: https://127.0.0.1:6443
	Kubeconfig     string      // the administrator's kubeconfig, not written if empty
	KubeconfigMode os.FileMode // 0600 if 0
}

// PKI is everything that is secret or trusted in one cluster, as seen by one server.
type PKI struct {
	ServerCA        *Authority // signs what the API server shows
	KubeletCA       *Authority // signs what kubelets show; nobody but the API server trusts it
	ClientCA        *Authority // signs users, nodes and components
	RequestHeaderCA *Authority // signs the API server towards aggregated API servers
	EtcdPeerCA      *Authority // signs etcd members towards each other

	APIServer              *Certificate // the API server's serving certificate
	APIServerKubeletClient *Certificate // the API server towards kubelets
	FrontProxyClient       *Certificate // the API server towards aggregated API servers
	Admin                  *Certificate // the person with the kubeconfig
	KubeletServing         *Certificate
	KubeletClient          *Certificate // this machine's system:node:<name>
	EtcdPeer               *Certificate // both serves and dials

	ServiceAccountKey *ServiceAccountKey

	cfg Config
}

// New loads what there is and makes the rest.
func New(cfg Config) (*PKI, error) {
	if cfg.KubeconfigMode == 0 {
		cfg.KubeconfigMode = 0o600
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "etcd"), 0o700); err != nil {
		return nil, fmt.Errorf("make certificate directory: %w", err)
	}
	p := &PKI{cfg: cfg}
	for _, step := range []func() error{p.loadKeys, p.loadCertificates, p.writeKubeconfig} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// loadKeys makes the authorities and the service account key, which depend on nothing.
func (p *PKI) loadKeys() error {
	var g errgroup.Group
	authority := func(to **Authority, file, commonName string) {
		g.Go(func() (err error) {
			*to, err = loadAuthority(filepath.Join(p.cfg.Dir, file), commonName)
			return err
		})
	}
	authority(&p.ServerCA, "server-ca", "skiff-server-ca")
	authority(&p.KubeletCA, "kubelet-ca", "skiff-kubelet-ca")
	authority(&p.ClientCA, "client-ca", "skiff-client-ca")
	authority(&p.RequestHeaderCA, "request-header-ca", "skiff-request-header-ca")
	authority(&p.EtcdPeerCA, "etcd/peer-ca", "skiff-etcd-peer-ca")
	g.Go(func() (err error) {
		p.ServiceAccountKey, err = loadServiceAccountKey(filepath.Join(p.cfg.Dir, "sa"))
		return err
	})
	return g.Wait()
}

// loadCertificates makes the certificates that the authorities sign.
func (p *PKI) loadCertificates() error {
	var g errgroup.Group
	certificate := func(to **Certificate, ca *Authority, file string, profile Profile) {
		g.Go(func() (err error) {
			*to, err = loadCertificate(filepath.Join(p.cfg.Dir, file), ca, profile)
			return err
		})
	}
	certificate(&p.APIServer, p.ServerCA, "apiserver", p.cfg.apiServer())
	// The kubelet asks the API server what this user may do. Upstream's roles let only a member of
	// system:masters, or somebody an administrator bound to system:kubelet-api-admin, use all of it.
	certificate(&p.APIServerKubeletClient, p.ClientCA, "apiserver-kubelet-client",
		Client("kube-apiserver-kubelet-client", "system:masters"))
	certificate(&p.FrontProxyClient, p.RequestHeaderCA, "front-proxy-client", Client("front-proxy-client"))
	certificate(&p.Admin, p.ClientCA, "admin", Client("kubernetes-admin", "system:masters"))
	certificate(&p.KubeletServing, p.KubeletCA, "kubelet", KubeletServing(p.cfg.NodeName, p.cfg.NodeIPs))
	certificate(&p.KubeletClient, p.ClientCA, "kubelet-client", KubeletClient(p.cfg.NodeName))
	certificate(&p.EtcdPeer, p.EtcdPeerCA, "etcd/peer", p.cfg.etcdPeer())
	return g.Wait()
}

func (p *PKI) certificates() []*Certificate {
	return []*Certificate{p.APIServer, p.APIServerKubeletClient, p.FrontProxyClient, p.Admin,
		p.KubeletServing, p.KubeletClient, p.EtcdPeer}
}

// wakeEvery bounds one sleep of Run: timers stand still while a laptop is suspended, its
// certificates grow old nevertheless.
const wakeEvery = time.Hour

// Run renews certificates as they come of age, until ctx ends. A renewal that did not work is
// tried again an hour later; there are months left by then.
func (p *PKI) Run(ctx context.Context) error {
	timer := time.NewTimer(p.untilRenewal())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := p.renew(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Certificate renewal failed, trying again", "in", wakeEvery)
			timer.Reset(wakeEvery)
			continue
		}
		timer.Reset(p.untilRenewal())
	}
}

func (p *PKI) untilRenewal() time.Duration {
	wait := wakeEvery
	for _, c := range p.certificates() {
		wait = min(wait, time.Until(c.renewAt()))
	}
	return max(wait, 0)
}

// renew re-issues the certificates that are due, and the kubeconfig with the administrator's.
func (p *PKI) renew(ctx context.Context) error {
	var errs []error
	for _, c := range p.certificates() {
		if time.Now().Before(c.renewAt()) {
			continue
		}
		if err := c.issue(); err != nil {
			errs = append(errs, err)
			continue
		}
		klog.FromContext(ctx).Info("Certificate renewed", "name", c.Name(), "expires", c.Leaf().NotAfter)
		if c == p.Admin {
			errs = append(errs, p.writeKubeconfig())
		}
	}
	return errors.Join(errs...)
}

func (c Config) apiServer() Profile {
	p := Profile{
		CommonName: "kube-apiserver",
		DNSNames: []string{"localhost", c.NodeName, "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain},
		IPs:    append([]net.IP{loopback4, loopback6, c.ServiceIP}, c.NodeIPs...),
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, san := range c.ExtraSANs {
		if ip := net.ParseIP(san); ip != nil {
			p.IPs = append(p.IPs, ip)
		} else {
			p.DNSNames = append(p.DNSNames, san)
		}
	}
	return p
}

func (c Config) etcdPeer() Profile {
	return Profile{
		CommonName: c.NodeName,
		DNSNames:   []string{"localhost", c.NodeName},
		IPs:        append([]net.IP{loopback4, loopback6}, c.NodeIPs...),
		Usages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// Follow has further authorities trusted that are added to the files of the client CA and of the request header CA,
// until ctx ends.
func (p *PKI) Follow(ctx context.Context) error {
	var following sync.WaitGroup
	for _, a := range []*Authority{p.ClientCA, p.RequestHeaderCA} {
		following.Go(func() { a.follow(ctx) })
	}
	following.Wait()
	return nil
}
