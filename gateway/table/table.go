// SPDX-License-Identifier: Apache-2.0

// Package table is what a gateway serves: an immutable description of listeners, routes and the endpoints behind them.
//
// Control planes (gateway/ingress for Ingress, another one for the Gateway API) translate API objects to a Table and hand it to
// the data plane, package gateway/proxy, with
//
//	// func (*proxy.Proxy) Set(owner string, t *table.Table) map[netip.AddrPort]error
//	failed := p.Set("gateway-api", t) // each control plane has a name, and its table stands beside the others'
//
// Set opens and closes sockets before it returns, and returns those that could not be opened; calling it again tries again.
// Nothing in a Table may change once it was given away. A new Table shares what stayed the same with the one before: where the
// pointer of a Listener, Route or Service is the same, its content is, and the data plane does not look at it again. So
// when endpoints change, only Services needs a new map with one new *Service in it, and all Listeners are kept.
//
// A Table is sound by construction, and the data plane does not check it again. In particular who makes it has
//   - dropped what is not valid, conflicts, or must not be referred to (a backend of that kind stays, with Invalid set: it answers 500);
//   - intersected the hostnames of routes and listeners (Intersect);
//   - compiled regular expressions (Regexp), and turned methods of gRPC into paths (GRPCMethod).
//
// Order in the table does not matter except where it says so: precedence among rules is the data plane's, see Route.
package table

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"regexp"
	"time"
)

// Table is all that one control plane wants served. The zero value serves nothing.
type Table struct {
	Listeners []*Listener
	// Services are the targets that Backend.Service names. A name that is missing has no endpoints.
	Services map[string]*Service
}

// Protocol is what a listener speaks with clients.
type Protocol string

// The protocols, as the Gateway API names them.
const (
	HTTP  Protocol = "HTTP"  // HTTP/1.1 and, with prior knowledge, HTTP/2, in clear
	HTTPS Protocol = "HTTPS" // HTTP/1.1 and HTTP/2 in TLS
	TLS   Protocol = "TLS"   // anything in TLS, told apart by server name
	TCP   Protocol = "TCP"
	UDP   Protocol = "UDP"
)

// Listener is where clients connect to, for one hostname or all.
//
// Any number of Listeners may have the same Bind address; they share a socket if their protocols can be told apart: HTTP with HTTP,
// HTTPS and TLS with each other, TCP alone. Among Listeners of one Gateway a request belongs to the one with the most specific
// Hostname, and only its Routes are looked at (the Gateway API's listener isolation). Routes of different Gateways on one
// socket are looked at together, as if they were one Gateway's.
type Listener struct {
	// Gateway is whose listener this is, e.g. "namespace/name". Listeners of one Gateway are isolated from each other.
	Gateway string
	// Name is unique within the Gateway. Logs and metrics show both.
	Name string
	// Bind is the socket. The unspecified address is all addresses of the machine, and includes the listeners of single ones.
	Bind netip.AddrPort
	// Port is what clients think they connect to, for redirects and X-Forwarded-Port. 0 means that of Bind.
	Port     uint16
	Protocol Protocol
	// Hostname is "" for all, "example.com", or "*.example.com" for all names that end so with one label or more before.
	// It is in lower case. Not for TCP and UDP.
	Hostname string
	// TLS is for the protocols HTTPS and TLS; without certificates, handshakes fail.
	TLS *ServerTLS

	// Routes are for the protocols HTTP and HTTPS.
	Routes []*Route
	// Streams are for the protocols TLS, TCP and UDP. With TCP and UDP the first one gets all connections.
	Streams []*Stream
}

// ServerTLS is how a listener proves who it is, and asks who clients are.
type ServerTLS struct {
	// Passthrough leaves TLS to the backends: all Streams of the listener get the bytes as the client sent them. Only with protocol TLS.
	Passthrough bool
	// Certificates are chosen from by the client's server name and abilities; the first is for those whom none fits.
	// With Leaf set the choice is quick.
	Certificates []*tls.Certificate
	// ByName are preferred to them for particular server names, "example.com" or "*.example.com" for exactly one label more.
	ByName map[string][]*tls.Certificate
	// ClientCAs, if set, makes client certificates necessary, signed by one of these.
	ClientCAs *x509.CertPool
	// AllowInsecureClients takes connections even without a valid client certificate (AllowInsecureFallback).
	AllowInsecureClients bool
}

// Route is one HTTPRoute, GRPCRoute or Ingress, as far as it is attached to a listener. The same *Route may be attached to many, if its
// Hostnames are the same there.
//
// Of all rules that match a request the first in this order serves it: exact hostname before wildcard, then longer hostname
// before shorter; exact path before regular expression (longer expression first) before prefix (longer first); with a method
// before without; more headers; more query parameters; the older Route; the Name of the Route in the alphabet; the rule's place in
// it. A rule of a less specific hostname serves what none of a more specific one matches.
type Route struct {
	// Name is namespace/name; Created is when the object was. They decide ties.
	Name    string
	Created time.Time
	// Hostnames are as in Listener, at least one. They are already narrowed to the listener's Hostname.
	Hostnames []string
	// SingleLabel makes "*" in Hostnames stand for exactly one label, as Ingress means it.
	SingleLabel bool
	// GRPC makes errors of the gateway itself gRPC statuses: UNAVAILABLE for a backend that cannot be had, UNIMPLEMENTED for no match.
	GRPC  bool
	Rules []*Rule
}

// Rule says what is done with requests that match.
type Rule struct {
	// Matches are alternatives. None at all matches everything, as a prefix "/".
	Matches []Match
	Filters Filters
	// Backends share the requests by Weight. Without any, and without a Redirect, the answer is 500; so it is where the one that is
	// chosen is Invalid. Where the one chosen has no endpoints it is 503.
	Backends []Backend

	// RequestTimeout is for the whole of a request, retries included; BackendTimeout is for one attempt. Then the answer is 504.
	// 0 means no limit. Neither ends a connection that was upgraded (WebSocket).
	RequestTimeout, BackendTimeout time.Duration
	// Retry repeats requests; nil means only those that reached no backend: they go to other endpoints.
	Retry *Retry
}

// Match matches a request if all of its parts do.
type Match struct {
	Path    PathMatch
	Method  string // "" matches all
	Headers []ValueMatch
	Query   []ValueMatch
}

// PathMatch compares with the path of a request after %-escapes and the elements "." and ".." were resolved.
type PathMatch struct {
	// Type says how; "" is a prefix "/".
	Type PathType
	// Value is the path, or the source of Regexp.
	Value  string
	Regexp *regexp.Regexp
}

// PathType is how paths are compared.
type PathType string

// The path types, as the Gateway API names them.
const (
	PathExact  PathType = "Exact"
	PathPrefix PathType = "PathPrefix" // by whole elements: /a matches /a, /a/ and /a/b, but not /ab. A slash at its end means nothing.
	PathRegexp PathType = "RegularExpression"
)

// ValueMatch compares one header (by its name in any case) or one query parameter (by its exact name). The first of several values of
// a query parameter counts; several headers of a name count as one, joined by commas.
type ValueMatch struct {
	Name   string
	Value  string
	Regexp *regexp.Regexp // if set, instead of Value
}

// Filters change requests and responses on the way, or answer at once.
type Filters struct {
	RequestHeaders  *HeaderFilter
	ResponseHeaders *HeaderFilter
	Redirect        *Redirect // answers; excludes Rewrite and needs no Backends
	Rewrite         *Rewrite
	Mirrors         []Mirror
	CORS            *CORS
}

// HeaderFilter changes headers: first Set, then Add, then Remove.
type HeaderFilter struct {
	Set, Add []Header
	Remove   []string
}

// Header is one header line.
type Header struct{ Name, Value string }

// Redirect answers with a Location.
type Redirect struct {
	Scheme   string // "" is that of the request
	Hostname string // "" is that of the request
	Path     *PathModifier
	Port     uint16 // 0: that of Scheme if it is set, otherwise that of the Listener
	Status   int    // 301, 302, 303, 307, 308
}

// Rewrite changes where a request goes.
type Rewrite struct {
	Hostname string // the Host that the backend sees; "" leaves it
	Path     *PathModifier
}

// PathModifier makes a new path: Replacement instead of all of it, or, if Prefix, instead of the prefix by which the rule matched.
type PathModifier struct {
	Prefix      bool
	Replacement string
}

// Mirror sends a copy of some requests to Service and ignores what it answers.
type Mirror struct {
	Service string
	// Numerator of Denominator requests are mirrored; both 0 means all, 0 of 1 means none.
	Numerator, Denominator int32
}

// CORS answers preflight requests, and tells browsers whose scripts may read the answers.
type CORS struct {
	AllowOrigins     []string // "*", or scheme://host[:port] where the host may begin with "*"
	AllowMethods     []string // "*" for all
	AllowHeaders     []string // "*" for all
	ExposeHeaders    []string
	AllowCredentials bool
	MaxAge           time.Duration // 0 means 5 seconds
}

// Retry says when a request is sent again. Requests whose body is not small and known are sent once.
type Retry struct {
	// Codes are answers that are not taken as such. Connections that fail are always retried, and attempts that time out.
	Codes []int
	// Attempts is how many more there may be; 0 means 2.
	Attempts int
	// Backoff is the time before the next attempt; 0 means 25 ms.
	Backoff time.Duration
}

// Backend is a share of a rule's requests, or of a stream's connections.
type Backend struct {
	// Service is a name in Table.Services.
	Service string
	// Weight is the share out of the sum of all weights; 0 gets nothing.
	Weight int32
	// Invalid is a backend that does not exist, or that may not be referred to. Its share is answered with 500.
	Invalid bool

	RequestHeaders, ResponseHeaders *HeaderFilter // after those of the rule
}

// Stream is a TLSRoute, TCPRoute or UDPRoute.
type Stream struct {
	Name      string // namespace/name
	Hostnames []string
	Backends  []Backend
}

// Service is one port of a Service: where its endpoints are and what they speak. gateway/backend makes them from EndpointSlices.
type Service struct {
	// Name is for logs and metrics: namespace/name:port.
	Name      string
	Endpoints []netip.AddrPort
	Protocol  AppProtocol
	// TLS, if set, is how the gateway connects.
	TLS *ClientTLS
	// ClientIP sends all requests of a client to the same endpoint, as long as it is there (spec.sessionAffinity).
	ClientIP bool
}

// AppProtocol is what a backend speaks.
type AppProtocol string

// The protocols of backends.
const (
	// AppHTTP is HTTP/1.1, and HTTP/2 if TLS agrees on it. WebSocket is it, too. Requests of GRPC routes use AppH2C instead.
	AppHTTP AppProtocol = ""
	// AppH2C is HTTP/2 in clear, with prior knowledge (kubernetes.io/h2c).
	AppH2C AppProtocol = "h2c"
)

// ClientTLS is how a backend has to prove who it is (BackendTLSPolicy), and how the gateway does. Services with an equal pointer share
// connections.
type ClientTLS struct {
	// ServerName is asked for, and must be in the certificate unless SubjectAltNames are given.
	ServerName string
	// SubjectAltNames, if any, are names of which one must be in the certificate: DNS names, or URIs with their scheme.
	SubjectAltNames []string
	// Roots are trusted; nil means those of the machine.
	Roots *x509.CertPool
	// Certificate is the gateway's own, if any.
	Certificate *tls.Certificate
	// Insecure takes any certificate. Only for Ingress, whose backends nothing describes.
	Insecure bool
}
