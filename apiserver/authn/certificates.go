// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto/x509"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/utils/lru"
)

const (
	// certificateTTL is how long a certificate that was good is taken for good without a look at its signature, which
	// is a quarter of the work that a small request makes.
	certificateTTL = time.Minute
	// mostCertificates bounds how many are remembered, of as many connections.
	mostCertificates = 1024
)

// certificates recognizes users by the certificates of their connections.
type certificates struct {
	options x509request.VerifyOptionFunc
	verify  authenticator.Request
	good    *lru.Cache // of shown to verified
}

// shown is a certificate of a connection, which is the same pointer for all its requests, and those that it was
// verified with.
type shown struct {
	leaf  *x509.Certificate
	roots *x509.CertPool
}

type verified struct {
	response *authenticator.Response
	until    time.Time
}

func newCertificates(options x509request.VerifyOptionFunc) *certificates {
	return &certificates{
		options: options, good: lru.New(mostCertificates),
		verify: x509request.NewDynamic(options, x509request.CommonNameUserConversion),
	}
}

// AuthenticateRequest implements authenticator.Request.
func (c *certificates) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	options, ok := c.options()
	if !ok {
		return c.verify.AuthenticateRequest(r)
	}
	key := shown{r.TLS.PeerCertificates[0], options.Roots}
	if known, ok := c.good.Get(key); ok {
		if v := known.(verified); time.Now().Before(v.until) {
			return v.response, true, nil
		}
	}
	response, ok, err := c.verify.AuthenticateRequest(r)
	if ok && err == nil {
		until := time.Now().Add(certificateTTL)
		for _, cert := range r.TLS.PeerCertificates {
			if cert.NotAfter.Before(until) {
				until = cert.NotAfter
			}
		}
		c.good.Add(key, verified{response, until})
	}
	return response, ok, err
}
