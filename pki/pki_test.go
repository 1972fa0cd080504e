// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func testConfig(t *testing.T) Config {
	dir := t.TempDir()
	return Config{
		Dir: filepath.Join(dir, "tls"), NodeName: "node-1", NodeIPs: []net.IP{net.IPv4(192, 0, 2, 7)},
		ServiceIP: net.IPv4(10, 43, 0, 1), ClusterDomain: "cluster.local", ExtraSANs: []string{"k8s.example", "192.0.2.9"},
		Endpoint: "https://127.0.0.1:6443", Kubeconfig: filepath.Join(dir, "etc", "skiff.yaml"),
	}
}

func mustNew(t *testing.T, cfg Config) *PKI {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPIServerNames(t *testing.T) {
	p := mustNew(t, testConfig(t))
	roots := x509.NewCertPool()
	roots.AddCert(p.ServerCA.Certificate())
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "192.0.2.7", "192.0.2.9", "node-1", "kubernetes",
		"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "10.43.0.1", "k8s.example"} {
		if _, err := p.APIServer.Leaf().Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("the API server's certificate for %s: %v", name, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	p := mustNew(t, testConfig(t))
	for _, tc := range []struct {
		cert     *Certificate
		ca       *Authority
		cn       string
		org      string
		wantAuth x509.ExtKeyUsage
	}{
		{p.Admin, p.ClientCA, "kubernetes-admin", "system:masters", x509.ExtKeyUsageClientAuth},
		{p.APIServerKubeletClient, p.ClientCA, "kube-apiserver-kubelet-client", "system:masters", x509.ExtKeyUsageClientAuth},
		{p.KubeletClient, p.ClientCA, "system:node:node-1", "system:nodes", x509.ExtKeyUsageClientAuth},
		{p.KubeletServing, p.KubeletCA, "system:node:node-1", "system:nodes", x509.ExtKeyUsageServerAuth},
		{p.FrontProxyClient, p.RequestHeaderCA, "front-proxy-client", "", x509.ExtKeyUsageClientAuth},
		{p.EtcdPeer, p.EtcdPeerCA, "node-1", "", x509.ExtKeyUsageServerAuth},
	} {
		leaf := tc.cert.Leaf()
		roots := x509.NewCertPool()
		roots.AddCert(tc.ca.Certificate())
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{tc.wantAuth}}); err != nil {
			t.Errorf("%s: %v", tc.cert.Name(), err)
		}
		org := ""
		if len(leaf.Subject.Organization) > 0 {
			org = leaf.Subject.Organization[0]
		}
		if leaf.Subject.CommonName != tc.cn || org != tc.org {
			t.Errorf("%s is for CN=%s O=%s, want CN=%s O=%s", tc.cert.Name(), leaf.Subject.CommonName, org, tc.cn, tc.org)
		}
	}
}

func TestSecondStartChangesNothing(t *testing.T) {
	cfg := testConfig(t)
	mustNew(t, cfg)
	before := snapshot(t, cfg.Dir)
	mustNew(t, cfg)
	for name, data := range snapshot(t, cfg.Dir) {
		if before[name] != data {
			t.Errorf("%s changed", name)
		}
	}
}

func TestStartRepairs(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, cfg *Config){
		"a new SAN":  func(t *testing.T, cfg *Config) { cfg.ExtraSANs = append(cfg.ExtraSANs, "other.example") },
		"a SAN less": func(t *testing.T, cfg *Config) { cfg.ExtraSANs = nil },
		"key written, certificate not": func(t *testing.T, cfg *Config) {
			copyFile(t, filepath.Join(cfg.Dir, "admin.key"), filepath.Join(cfg.Dir, "apiserver.key"))
		},
		"half a certificate": func(t *testing.T, cfg *Config) {
			if err := os.Truncate(filepath.Join(cfg.Dir, "apiserver.crt"), 100); err != nil {
				t.Fatal(err)
			}
		},
		"certificate lost": func(t *testing.T, cfg *Config) {
			if err := os.Remove(filepath.Join(cfg.Dir, "apiserver.crt")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			old := mustNew(t, cfg)
			damage(t, &cfg)
			p := mustNew(t, cfg)
			if p.APIServer.Leaf().Equal(old.APIServer.Leaf()) {
				t.Error("the certificate was not re-issued")
			}
			if !p.ServerCA.Certificate().Equal(old.ServerCA.Certificate()) {
				t.Error("the authority was replaced")
			}
			if _, err := readPair(filepath.Join(cfg.Dir, "apiserver")); err != nil {
				t.Errorf("what is on disk: %v", err)
			}
		})
	}
}

// An authority without its key verifies and refuses to sign; with the wrong key nothing starts.
func TestExternalAuthority(t *testing.T) {
	cfg := testConfig(t)
	mustNew(t, cfg)
	if err := os.Remove(filepath.Join(cfg.Dir, "server-ca.key")); err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, cfg)
	if _, err := p.ServerCA.Sign(Client("x"), p.Admin.Leaf().PublicKey); err == nil {
		t.Error("signed without a key")
	}
	copyFile(t, filepath.Join(cfg.Dir, "client-ca.key"), filepath.Join(cfg.Dir, "server-ca.key"))
	if _, err := New(cfg); err == nil {
		t.Error("started with a key that is another authority's")
	}
}

// A crash between an authority's key and its certificate leaves the key; the authority keeps it.
func TestAuthorityCrash(t *testing.T) {
	cfg := testConfig(t)
	old := mustNew(t, cfg)
	if err := os.Remove(filepath.Join(cfg.Dir, "server-ca.crt")); err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, cfg)
	if !samePublicKey(old.ServerCA.Certificate().PublicKey, p.ServerCA.Certificate().PublicKey) {
		t.Error("the authority's key changed")
	}
}

type listener int

func (l *listener) Enqueue() { *l++ }

func TestRunRenews(t *testing.T) {
	cfg := testConfig(t)
	synctest.Test(t, func(t *testing.T) {
		p := mustNew(t, cfg)
		first := p.APIServer.Leaf()
		var told listener
		p.APIServer.AddListener(&told)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()

		time.Sleep(time.Until(renewalTime(first)) - time.Minute)
		synctest.Wait()
		if !p.APIServer.Leaf().Equal(first) || told != 0 {
			t.Error("renewed early")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if p.APIServer.Leaf().Equal(first) || told != 1 {
			t.Errorf("not renewed after two thirds of its life; told %d times", told)
		}
		for _, c := range p.certificates() {
			if c.Leaf().NotAfter.Before(time.Now().Add(certificateLife - time.Hour)) {
				t.Errorf("%s was not renewed", c.Name())
			}
		}
		checkKubeconfig(t, p, cfg)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRenewalSurvivesErrors(t *testing.T) {
	cfg := testConfig(t)
	synctest.Test(t, func(t *testing.T) {
		p := mustNew(t, cfg)
		key := p.ServerCA.key
		p.ServerCA.key = nil
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		first := p.APIServer.Leaf()
		time.Sleep(time.Until(renewalTime(first)) + time.Minute)
		synctest.Wait()
		if !p.APIServer.Leaf().Equal(first) || p.Admin.Leaf().NotAfter.Equal(first.NotAfter) {
			t.Error("one authority without a key stopped the others")
		}
		p.ServerCA.key = key
		time.Sleep(wakeEvery)
		synctest.Wait()
		if p.APIServer.Leaf().Equal(first) {
			t.Error("not tried again")
		}
	})
}

func TestKubeconfig(t *testing.T) {
	cfg := testConfig(t)
	checkKubeconfig(t, mustNew(t, cfg), cfg)
	if mode := fileMode(t, cfg.Kubeconfig); mode != 0o600 {
		t.Errorf("mode is %o, want 600", mode)
	}
	cfg.KubeconfigMode = 0o644
	mustNew(t, cfg)
	if mode := fileMode(t, cfg.Kubeconfig); mode != 0o644 {
		t.Errorf("mode is %o, want 644", mode)
	}
}

func TestSecretsArePrivate(t *testing.T) {
	cfg := testConfig(t)
	mustNew(t, cfg)
	for name := range snapshot(t, cfg.Dir) {
		if filepath.Ext(name) == ".key" && fileMode(t, name) != 0o600 {
			t.Errorf("%s has mode %o", name, fileMode(t, name))
		}
	}
}

// Tokens signed with a key that was replaced are accepted as long as it is in sa.pub.
func TestServiceAccountKeyRotation(t *testing.T) {
	cfg := testConfig(t)
	old := mustNew(t, cfg).ServiceAccountKey
	if err := os.Remove(filepath.Join(cfg.Dir, "sa.key")); err != nil {
		t.Fatal(err)
	}
	now := mustNew(t, cfg).ServiceAccountKey
	if samePublicKey(now.Private.Public(), old.Private.Public()) {
		t.Fatal("same key")
	}
	if len(now.Public) != 2 || !samePublicKey(now.Public[0], now.Private.Public()) || !samePublicKey(now.Public[1], old.Private.Public()) {
		t.Errorf("accepts %d keys, want the new and the old one", len(now.Public))
	}
}

func checkKubeconfig(t *testing.T, p *PKI, cfg Config) {
	t.Helper()
	rest, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(rest.CertData, rest.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	if !pair.Leaf.Equal(p.Admin.Leaf()) || rest.Host != cfg.Endpoint || string(rest.CAData) != string(p.ServerCA.PEM()) {
		t.Error("the kubeconfig is not that of the administrator")
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func fileMode(t *testing.T, name string) os.FileMode {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// What is added to an authority's file is trusted without a restart, unless it is no certificate or the one that signs
// is gone.
func TestFollowTrustsMore(t *testing.T) {
	cfg := testConfig(t)
	p, other := mustNew(t, cfg), mustNew(t, testConfig(t))
	told := make(chan struct{}, 10)
	p.ClientCA.AddListener(listenerFunc(func() { told <- struct{}{} }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Follow(ctx) }()
	file, own := filepath.Join(cfg.Dir, "client-ca.crt"), p.ClientCA.PEM()
	write := func(bundle []byte) {
		t.Helper()
		if err := writeFile(file, bundle, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	both := append(slices.Clone(own), other.ClientCA.PEM()...)
	for deadline := time.After(time.Minute); string(p.ClientCA.PEM()) != string(both); {
		write(both) // again: it may not be watched yet
		select {
		case <-told:
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatal("the other authority is not trusted")
		}
	}
	options, _ := p.ClientCA.VerifyOptions()
	options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := other.Admin.Leaf().Verify(options); err != nil {
		t.Errorf("a certificate of the other authority: %v", err)
	}
	if !p.ClientCA.Certificate().Equal(mustNew(t, cfg).ClientCA.Certificate()) {
		t.Error("it signs with another certificate")
	}
	for name, bundle := range map[string][]byte{"nothing": nil, "no certificate": []byte("x"), "only the other": other.ClientCA.PEM()} {
		write(bundle)
		if err := p.ClientCA.reload(ctx); err == nil || string(p.ClientCA.PEM()) != string(both) {
			t.Errorf("%s: %v, and it is trusted", name, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type listenerFunc func()

func (f listenerFunc) Enqueue() { f() }
