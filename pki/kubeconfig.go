// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

// Kubeconfig is a kubeconfig file for the holder of c.
func (p *PKI) Kubeconfig(endpoint string, c *Certificate) ([]byte, error) {
	certPEM, keyPEM := c.CurrentCertKeyContent()
	const name = "default"
	config := clientcmdapi.NewConfig()
	config.CurrentContext = name
	config.Clusters[name] = &clientcmdapi.Cluster{Server: endpoint, CertificateAuthorityData: p.ServerCA.PEM()}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	return clientcmd.Write(*config)
}

// writeKubeconfig brings the administrator's kubeconfig up to date.
func (p *PKI) writeKubeconfig() error {
	file, mode := p.cfg.Kubeconfig, p.cfg.KubeconfigMode
	if file == "" {
		return nil
	}
	data, err := p.Kubeconfig(p.cfg.Endpoint, p.Admin)
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w (set --write-kubeconfig)", err)
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return os.Chmod(file, mode)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write kubeconfig: %w (set --write-kubeconfig)", err)
	}
	return writeFile(file, data, mode)
}

func encodePublicKey(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyutil.PublicKeyBlockType, Bytes: der}), nil
}
