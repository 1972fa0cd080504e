// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// tlsView is what is served in TLS, by the names that clients ask for.
type tlsView struct {
	hosts hostMap[tlsHost]
	https *index
	peek  bool // some connections are not for the HTTP server: the name must be known first
}

// tlsHost is a name. If a stream is there its connections are the stream's, otherwise they are HTTP.
type tlsHost struct {
	https     []*table.ServerTLS // of listeners of this very name
	config    *tls.Config        // made of https
	stream    *stream
	terminate *tls.Config // for stream; nil passes the bytes on as they are
}

// add adds a listener.
func (v *tlsView) add(l owned, streams []*stream) {
	server := l.TLS
	if server == nil {
		server = &table.ServerTLS{}
	}
	host := v.hosts.at(l.Hostname)
	if l.Protocol == table.HTTPS {
		host.https = append(host.https, server)
		return
	}
	v.peek = true
	var terminate *tls.Config
	if !server.Passthrough {
		terminate = serverConfig(server)
	}
	for _, s := range streams {
		for _, name := range s.Hostnames {
			if h := v.hosts.at(name); h.stream == nil { // the first is the oldest
				h.stream, h.terminate = s, terminate
			}
		}
	}
}

// configure makes the configurations of HTTPS, when all listeners have been added.
func (v *tlsView) configure() {
	v.hosts.all(func(h *tlsHost) {
		if len(h.https) == 0 {
			return
		}
		h.config = serverConfig(merge(h.https))
		h.config.NextProtos = []string{"h2", "http/1.1"}
	})
}

// merge makes one of listeners of different Gateways for the same name. Clients have to satisfy the strictest.
func merge(all []*table.ServerTLS) *table.ServerTLS {
	if len(all) == 1 {
		return all[0]
	}
	merged := &table.ServerTLS{ByName: map[string][]*tls.Certificate{}, AllowInsecureClients: true}
	for _, s := range all {
		merged.Certificates = append(merged.Certificates, s.Certificates...)
		for name, certificates := range s.ByName {
			merged.ByName[name] = append(merged.ByName[name], certificates...)
		}
		if s.ClientCAs != nil && merged.AllowInsecureClients {
			merged.ClientCAs, merged.AllowInsecureClients = s.ClientCAs, s.AllowInsecureClients
		}
	}
	return merged
}

func serverConfig(s *table.ServerTLS) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: newCertificates(s).choose}
	if s.ClientCAs != nil {
		config.ClientCAs, config.ClientAuth = s.ClientCAs, tls.RequireAndVerifyClientCert
		if s.AllowInsecureClients {
			config.ClientAuth = tls.RequestClientCert
		}
		config.SessionTicketsDisabled = true // a ticket must not stand for a certificate that another listener asked for
	}
	return config
}

// certificates finds the one for a client.
type certificates struct {
	byName map[string][]*tls.Certificate // names that were given, then those in the certificates
	first  *tls.Certificate
}

func newCertificates(s *table.ServerTLS) *certificates {
	c := &certificates{byName: map[string][]*tls.Certificate{}}
	for name, list := range s.ByName {
		c.byName[name] = append(c.byName[name], list...)
	}
	for _, cert := range s.Certificates {
		if c.first == nil {
			c.first = cert
		}
		if cert.Leaf == nil {
			continue
		}
		for _, name := range cert.Leaf.DNSNames {
			name = strings.ToLower(name)
			c.byName[name] = append(c.byName[name], cert)
		}
	}
	return c
}

func (c *certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	_, parent, _ := strings.Cut(name, ".")
	for _, list := range [][]*tls.Certificate{c.byName[name], c.byName["*."+parent]} {
		for _, cert := range list {
			if len(list) == 1 || hello.SupportsCertificate(cert) == nil {
				return cert, nil
			}
		}
	}
	if c.first == nil {
		return nil, fmt.Errorf("there is no certificate for %q", hello.ServerName)
	}
	return c.first, nil
}

// configForClient returns how to encrypt for a client, when its first message has come.
func (s *socket) configForClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	v := s.view(hello.Conn.LocalAddr())
	if v == nil || v.encrypted == nil {
		return nil, net.ErrClosed
	}
	if h := v.encrypted.host(hello.ServerName); h != nil && h.config != nil {
		return h.config, nil
	}
	return nil, fmt.Errorf("there is no listener for %q", hello.ServerName)
}

// host returns who serves a server name, or nil.
func (v *tlsView) host(serverName string) *tlsHost {
	var found *tlsHost
	v.hosts.each(strings.ToLower(strings.TrimSuffix(serverName, ".")), func(h *tlsHost) bool {
		if h.stream != nil || h.config != nil {
			found = h
		}
		return found != nil
	})
	return found
}

var errSeen = errors.New("seen")

// serverName reads the first message of a TLS client and returns the name in it. conn can only be read from.
func serverName(conn net.Conn) (string, error) {
	var name string
	err := tls.Server(conn, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { //nolint:gosec // no handshake comes out of it
		name = hello.ServerName
		return nil, errSeen
	}}).Handshake()
	if errors.Is(err, errSeen) {
		err = nil
	}
	return name, err
}
