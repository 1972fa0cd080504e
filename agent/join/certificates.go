// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
)

// certificates are a node's own, on disk and as they are in use. They are renewed while the agent runs.
type certificates struct {
	client, serving *store
}

// store is a certificate.Store that others look into.
type store struct {
	certificate.Store
	current atomic.Pointer[tls.Certificate]
	renewed func() // called after current has changed; optional
}

func openStore(dir, name string) (*store, error) {
	files, err := certificate.NewFileStore(name, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open the node's certificates: %w", err)
	}
	s := &store{Store: files}
	now, err := files.Current()
	var none *certificate.NoCertKeyError
	if err != nil && !errors.As(err, &none) {
		return nil, fmt.Errorf("open the node's certificate %s: %w", name, err)
	}
	s.current.Store(now)
	return s, nil
}

func (s *store) Update(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	now, err := s.Store.Update(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	s.current.Store(now)
	if s.renewed != nil {
		s.renewed()
	}
	return now, nil
}

// certificate is the one in use; an error if there is none yet.
func (s *store) certificate() (*tls.Certificate, error) {
	if c := s.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("this node has not got its certificate yet")
}

func (s *store) forServer(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate() }

func (s *store) forClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return s.certificate()
}

func openCertificates(dir string) (*certificates, error) {
	client, err := openStore(dir, "kubelet-client")
	if err != nil {
		return nil, err
	}
	serving, err := openStore(dir, "kubelet-server")
	return &certificates{client: client, serving: serving}, err
}

// renew keeps both valid until ctx ends: it asks for the serving certificate that there is not yet, and for new ones
// after some two thirds of their lives. client acts as the node.
func (c *certificates) renew(ctx context.Context, client kubernetes.Interface, nodeName string, nodeIPs ...net.IP) error {
	subject := nodeSubject(nodeName)
	for _, config := range []certificate.Config{
		{
			CertificateStore: c.client, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Usages: clientUsages,
			Template: &x509.CertificateRequest{Subject: subject},
		},
		{
			CertificateStore: c.serving, SignerName: certificatesv1.KubeletServingSignerName, Usages: servingUsages,
			Template: &x509.CertificateRequest{Subject: subject, DNSNames: []string{nodeName}, IPAddresses: slices.DeleteFunc(nodeIPs, func(ip net.IP) bool { return ip == nil })},
		},
	} {
		config.Ctx = &ctx
		config.ClientsetFn = func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil }
		manager, err := certificate.NewManager(&config)
		if err != nil {
			return fmt.Errorf("renew certificates: %w", err)
		}
		manager.Start() // and ends with ctx
	}
	<-ctx.Done()
	return nil
}
