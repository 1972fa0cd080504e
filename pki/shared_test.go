// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Another server that has adopted the keys issues certificates that the first one trusts, and has the same service
// account key.
func TestAdopt(t *testing.T) {
	first, err := New(Config{Dir: t.TempDir(), NodeName: "a"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := first.Shared()
	if err != nil || len(files) != len(shared) {
		t.Fatalf("%d files, %v; want %d", len(files), err, len(shared))
	}
	dir := filepath.Join(t.TempDir(), "tls")
	for range 2 { // a start that was cut short does it again
		if err := Adopt(dir, files); err != nil {
			t.Fatal(err)
		}
	}
	second, err := New(Config{Dir: dir, NodeName: "b"})
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]*Authority{
		"server": {first.ServerCA, second.ServerCA}, "kubelet": {first.KubeletCA, second.KubeletCA}, "client": {first.ClientCA, second.ClientCA},
		"front proxy": {first.RequestHeaderCA, second.RequestHeaderCA}, "etcd": {first.EtcdPeerCA, second.EtcdPeerCA},
	} {
		if !pair[0].Certificate().Equal(pair[1].Certificate()) {
			t.Errorf("%s: another authority", name)
		}
	}
	if !samePublicKey(first.ServiceAccountKey.Private.Public(), second.ServiceAccountKey.Private.Public()) {
		t.Error("another service account key")
	}
	roots := x509.NewCertPool()
	roots.AddCert(first.EtcdPeerCA.Certificate())
	if _, err := second.EtcdPeer.Leaf().Verify(x509.VerifyOptions{Roots: roots, DNSName: "b"}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "client-ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("client-ca.key: %v, %v", info.Mode(), err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	first, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if _, err := New(Config{Dir: other}); err != nil {
		t.Fatal(err)
	}
	files, err := first.Shared()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(filepath.Join(other, "sa.key"))
	if err := Adopt(other, files); err == nil || !strings.Contains(err.Error(), "of another cluster") {
		t.Errorf("over keys of another cluster: %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(other, "sa.key")); !bytes.Equal(before, after) {
		t.Error("a key was replaced")
	}
	if err := Adopt(t.TempDir(), map[string][]byte{"../x": nil}); err == nil {
		t.Error("a file outside is accepted")
	}
}
