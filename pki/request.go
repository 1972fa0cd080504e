// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Of certificates that are signed on request. A short one is valid for as long as was asked for, a longer one for
// that long with the backdating included.
const (
	requestBackdate = 5 * time.Minute
	shortLife       = 8 * time.Hour
	minRequested    = 2 * requestBackdate
)

// NodeUser is the user name of a node; a kubelet's certificates have it as common name.
const NodeUser = "system:node:"

// ParseRequest reads a request in PEM form.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// CheckKubeletClient tells why a request is not for a node's client certificate. The words are upstream's: they
// stand in the condition of a request that was approved and cannot be signed.
func CheckKubeletClient(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !isNodesGroup(request):
		return errNotNodes
	case len(request.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(request.EmailAddresses) > 0:
		return errEmail
	case len(request.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(request.URIs) > 0:
		return errURI
	case !strings.HasPrefix(request.Subject.CommonName, NodeUser):
		return errNotNode
	}
	return checkUsages(usages, certificatesv1.UsageClientAuth)
}

// CheckKubeletServing is the same for the certificate of a kubelet's port.
func CheckKubeletServing(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !isNodesGroup(request):
		return errNotNodes
	case len(request.DNSNames) == 0 && len(request.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(request.EmailAddresses) > 0:
		return errEmail
	case len(request.URIs) > 0:
		return errURI
	}
	if err := checkUsages(usages, certificatesv1.UsageServerAuth); err != nil {
		return err
	}
	if !strings.HasPrefix(request.Subject.CommonName, NodeUser) {
		return errNotNode
	}
	return nil
}

var (
	errNotNodes = errors.New("subject organization is not system:nodes")
	errNotNode  = errors.New("subject common name does not begin with system:node:")
	errEmail    = errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's words
	errURI      = errors.New("URI subjectAltNames are not allowed")
)

func isNodesGroup(request *x509.CertificateRequest) bool {
	return slices.Equal(request.Subject.Organization, []string{nodesGroup})
}

// checkUsages wants exactly a digital signature and the purpose, perhaps with what RSA keys need besides.
func checkUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	all := []certificatesv1.KeyUsage{purpose, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment}
	slices.Sort(all)
	given := slices.Compact(slices.Sorted(slices.Values(usages)))
	withoutRSA := slices.DeleteFunc(slices.Clone(all), func(u certificatesv1.KeyUsage) bool { return u == certificatesv1.UsageKeyEncipherment })
	if !slices.Equal(given, all) && !slices.Equal(given, withoutRSA) {
		return fmt.Errorf("usages did not match %v", all)
	}
	return nil
}

// SignRequest issues the certificate that was asked for, in PEM form. It is valid for life, or for as long as was
// asked for if that is shorter.
func (a *Authority) SignRequest(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, life time.Duration, seconds *int32) ([]byte, error) {
	if a.key == nil {
		return nil, fmt.Errorf("%s.key is not on this machine", a.file)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the request's signature: %w", err)
	}
	now := time.Now()
	if !now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("the signer has expired: NotAfter=%v", a.cert.NotAfter)
	}
	template := &x509.Certificate{
		SerialNumber:          serialNumber(),
		Subject:               request.Subject,
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPAddresses,
		EmailAddresses:        request.EmailAddresses,
		URIs:                  request.URIs,
		BasicConstraintsValid: true,
		NotBefore:             now.Add(-requestBackdate),
	}
	var err error
	if template.KeyUsage, template.ExtKeyUsage, err = x509Usages(usages); err != nil {
		return nil, err
	}
	if seconds != nil {
		life = min(life, max(minRequested, time.Duration(*seconds)*time.Second))
	}
	if life >= shortLife {
		life -= requestBackdate
	}
	template.NotAfter = earliest(now.Add(life), a.cert.NotAfter)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, request.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(der), nil
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning:           x509.KeyUsageDigitalSignature,
	certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign:          x509.KeyUsageCertSign,
	certificatesv1.UsageCRLSign:           x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
	certificatesv1.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
}

var extKeyUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny:             x509.ExtKeyUsageAny,
	certificatesv1.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
	certificatesv1.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
	certificatesv1.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// x509Usages says usages in the terms of certificates.
func x509Usages(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var bits x509.KeyUsage
	var extended []x509.ExtKeyUsage
	for _, usage := range usages {
		if bit, ok := keyUsages[usage]; ok {
			bits |= bit
		} else if purpose, ok := extKeyUsages[usage]; !ok {
			return 0, nil, fmt.Errorf("unrecognized usage values: %q", usage)
		} else if !slices.Contains(extended, purpose) {
			extended = append(extended, purpose)
		}
	}
	slices.Sort(extended)
	return bits, extended, nil
}
