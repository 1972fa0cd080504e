// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// How the gateway connects to endpoints.
const (
	dialTimeout          = 3 * time.Second // the same network: who does not answer by then is not there
	idleConnections      = 64              // kept for each endpoint
	idleTimeout          = time.Minute
	maxAnswerHeaderBytes = 256 << 10
)

// slot is where rules find the target of a Service. What is in it changes without the rules.
type slot struct{ target atomic.Pointer[target] }

type slotKey struct{ owner, service string }

// target is a Service with endpoints, and the way to them.
type target struct {
	service   *table.Service
	addresses []string // of the endpoints
	scheme    string
	transport *http.Transport
	grpc      *http.Transport // for requests of GRPC routes
	next      atomic.Uint32
	affinity  maphash.Seed // as in targets
}

// first returns which endpoint a client's request is for; those after it are next, should it not be there.
func (t *target) first(client string) uint32 {
	if t.service.ClientIP {
		return t.favourite(client)
	}
	return t.next.Add(1)
}

// endpoint returns the address of the n-th endpoint, counted on and on.
func (t *target) endpoint(n uint32) string { return t.addresses[n%uint32(len(t.addresses))] }

// favourite is the index of the endpoint that a client gets: the one that it likes best of those there are. So it keeps it while
// others come and go.
func (t *target) favourite(client string) uint32 {
	var best uint64
	var at int
	for i, address := range t.addresses {
		if h := maphash.String(t.affinity, client+" "+address); h > best {
			best, at = h, i
		}
	}
	return uint32(at)
}

// targets has the slots of all Services that rules refer to. Proxy.mu guards it.
type targets struct {
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	affinity maphash.Seed // makes clients' favourites last as long as the proxy
	tables   map[string]*table.Table
	slots    map[slotKey]*slot
	plain    *http.Transport
	h2c      *http.Transport
	secure   map[*table.ClientTLS]*http.Transport
}

// slot returns the place of a Service of an owner's table.
func (t *targets) slot(owner, service string) *slot {
	key := slotKey{owner, service}
	s := t.slots[key]
	if s == nil {
		s = &slot{}
		if t.slots == nil {
			t.slots = map[slotKey]*slot{}
		}
		t.slots[key] = s
		t.fill(key, s)
	}
	return s
}

// update fills all slots from tables.
func (t *targets) update(tables map[string]*table.Table) {
	t.tables = tables
	for key, s := range t.slots {
		t.fill(key, s)
	}
}

func (t *targets) fill(key slotKey, s *slot) {
	var service *table.Service
	if of := t.tables[key.owner]; of != nil {
		service = of.Services[key.service]
	}
	old := s.target.Load()
	switch {
	case service == nil || len(service.Endpoints) == 0:
		s.target.Store(nil)
	case old == nil || old.service != service:
		s.target.Store(t.newTarget(service))
	}
}

func (t *targets) newTarget(service *table.Service) *target {
	n := &target{service: service, scheme: "http", affinity: t.affinity}
	for _, e := range service.Endpoints {
		n.addresses = append(n.addresses, e.String())
	}
	n.next.Store(rand.Uint32())
	switch {
	case service.TLS != nil:
		n.scheme = "https"
		n.transport = t.secured(service.TLS)
		n.grpc = n.transport
	case service.Protocol == table.AppH2C:
		n.transport = t.clear(&t.h2c, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
		n.grpc = n.transport
	default:
		n.transport = t.clear(&t.plain, func(p *http.Protocols) { p.SetHTTP1(true) })
		n.grpc = t.clear(&t.h2c, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	}
	return n
}

// clear returns a transport without TLS, which is made when first asked for.
func (t *targets) clear(transport **http.Transport, speak func(*http.Protocols)) *http.Transport {
	if *transport == nil {
		*transport = t.newTransport()
		speak((*transport).Protocols)
	}
	return *transport
}

func (t *targets) secured(config *table.ClientTLS) *http.Transport {
	if known := t.secure[config]; known != nil {
		return known
	}
	transport := t.newTransport()
	transport.Protocols.SetHTTP1(true)
	transport.Protocols.SetHTTP2(true)
	transport.TLSClientConfig = clientConfig(config)
	if t.secure == nil {
		t.secure = map[*table.ClientTLS]*http.Transport{}
	}
	t.secure[config] = transport
	return transport
}

func (t *targets) newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            t.dial,
		Protocols:              &http.Protocols{},
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        idleTimeout,
		TLSHandshakeTimeout:    dialTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxAnswerHeaderBytes,
		DisableCompression:     true, // answers go to clients as they are
	}
}

// forget drops slots that nothing in s refers to, and connections that no Service uses.
func (t *targets) forget(s *state) {
	used := map[*slot]bool{}
	s.views(func(v *view) {
		for _, s := range v.slots {
			used[s] = true
		}
	})
	secure := map[*table.ClientTLS]bool{}
	for key, s := range t.slots {
		if !used[s] {
			delete(t.slots, key)
		} else if n := s.target.Load(); n != nil && n.service.TLS != nil {
			secure[n.service.TLS] = true
		}
	}
	for config, transport := range t.secure {
		if !secure[config] {
			transport.CloseIdleConnections()
			delete(t.secure, config)
		}
	}
}

// close closes all connections that are not in use.
func (t *targets) close() {
	for _, transport := range t.secure {
		transport.CloseIdleConnections()
	}
	for _, transport := range []*http.Transport{t.plain, t.h2c} {
		if transport != nil {
			transport.CloseIdleConnections()
		}
	}
}

func clientConfig(c *table.ClientTLS) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, RootCAs: c.Roots, InsecureSkipVerify: c.Insecure} //nolint:gosec // see ClientTLS.Insecure
	if c.Certificate != nil {
		config.Certificates = []tls.Certificate{*c.Certificate}
	}
	if len(c.SubjectAltNames) > 0 && !c.Insecure {
		config.InsecureSkipVerify = true // it is VerifyConnection that verifies, other names than ServerName
		config.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, c) }
	}
	return config
}

// verify verifies a backend's certificate for the names of which one must be in it.
func verify(s tls.ConnectionState, c *table.ClientTLS) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the backend has no certificate")
	}
	leaf, intermediates := s.PeerCertificates[0], x509.NewCertPool()
	for _, cert := range s.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.Roots, Intermediates: intermediates}); err != nil {
		return err
	}
	for _, name := range c.SubjectAltNames {
		if !strings.Contains(name, "://") && leaf.VerifyHostname(name) == nil {
			return nil
		}
		for _, uri := range leaf.URIs {
			if uri.String() == name {
				return nil
			}
		}
	}
	return fmt.Errorf("the backend's certificate is for none of %s", strings.Join(c.SubjectAltNames, ", "))
}

// shares are backends to choose from by weight.
type shares struct {
	total    uint32
	backends []share
}

type share struct {
	*table.Backend
	slot *slot
	upTo uint32 // the sum of the weights as far as this one
}

func (b *builder) slot(owner, service string) *slot {
	s := b.targets.slot(owner, service)
	b.view.slots = append(b.view.slots, s)
	return s
}

func (b *builder) shares(owner string, backends []table.Backend) shares {
	var s shares
	for i := range backends {
		if backends[i].Weight <= 0 {
			continue
		}
		s.total += uint32(backends[i].Weight)
		s.backends = append(s.backends, share{Backend: &backends[i], slot: b.slot(owner, backends[i].Service), upTo: s.total})
	}
	return s
}

// pick returns one of them, or nil if there is none.
func (s *shares) pick() *share {
	if len(s.backends) <= 1 {
		if s.total == 0 {
			return nil
		}
		return &s.backends[0]
	}
	n := rand.Uint32N(s.total)
	for i := range s.backends {
		if n < s.backends[i].upTo {
			return &s.backends[i]
		}
	}
	return nil // not reached: upTo of the last one is total
}
