// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// owned is a listener and whose table it is from.
type owned struct {
	owner string
	*table.Listener
}

// kind is how the first bytes on a socket are understood.
type kind string

const (
	plain     kind = "HTTP"
	encrypted kind = "TLS"
	tcp       kind = "TCP"
	udp       kind = "UDP"
)

func kindOf(p table.Protocol) kind {
	switch p {
	case table.HTTP:
		return plain
	case table.HTTPS, table.TLS:
		return encrypted
	}
	return kind(p)
}

// bound is what is served on a socket: the same on all addresses, or, if it is bound to all, something particular on some.
type bound struct {
	kind   kind
	all    *view
	byAddr map[netip.Addr]*view
}

// on returns what connections to a local address see.
func (b *bound) on(local netip.Addr) *view {
	if v := b.byAddr[local]; v != nil {
		return v
	}
	return b.all
}

// views calls f for all of them.
func (s *state) views(f func(*view)) {
	for _, b := range s.bound {
		f(b.all)
		for _, v := range b.byAddr {
			f(v)
		}
	}
}

// socketOf returns the socket that serves an address.
func (s *state) socketOf(a netip.AddrPort) netip.AddrPort {
	if _, ok := s.bound[anyAddress(a)]; ok {
		return anyAddress(a)
	}
	return a
}

// anyAddress is the key of sockets for all addresses of the machine.
func anyAddress(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port())
}

// view is what is served on connections to one address: listeners, merged.
type view struct {
	listeners []owned // it was made of these
	plain     *index
	encrypted *tlsView
	stream    *stream
	slots     []*slot // which its rules refer to
}

// bind makes the state of all listeners. Parts of the previous one are taken over where their listeners are the same. A listener
// that cannot share its socket with those before it is left out, and why is returned.
func bind(listeners []owned, previous *state, targets *targets) (*state, map[owned]error) {
	next, conflicts := &state{bound: map[netip.AddrPort]*bound{}}, map[owned]error{}
	for _, l := range listeners {
		if l.Bind.Addr().IsUnspecified() {
			next.bound[anyAddress(l.Bind)] = &bound{kind: kindOf(l.Protocol)}
		}
	}
	type place struct {
		socket netip.AddrPort
		addr   netip.Addr // invalid: all
	}
	merged := map[place][]owned{}
	var first = map[netip.AddrPort]owned{}
	for _, l := range listeners {
		at := place{socket: next.socketOf(l.Bind)}
		if at.socket != l.Bind && !l.Bind.Addr().IsUnspecified() {
			at.addr = l.Bind.Addr()
		}
		if f, ok := first[at.socket]; !ok {
			first[at.socket] = l
			next.bound[at.socket] = &bound{kind: kindOf(l.Protocol)}
		} else if kindOf(f.Protocol) != kindOf(l.Protocol) {
			conflicts[l] = fmt.Errorf("port %d is used for %s by listener %s of %s", l.Bind.Port(), f.Protocol, f.Name, f.Gateway)
			continue
		}
		merged[at] = append(merged[at], l)
	}
	known := map[place]*view{}
	for socket, b := range previous.bound {
		known[place{socket: socket}] = b.all
		for addr, v := range b.byAddr {
			known[place{socket, addr}] = v
		}
	}
	viewOf := func(at place, listeners []owned) *view {
		if old := known[at]; old != nil && slices.Equal(old.listeners, listeners) {
			return old
		}
		return newView(listeners, targets)
	}
	for socket, b := range next.bound {
		b.all = viewOf(place{socket: socket}, merged[place{socket: socket}])
	}
	for at, own := range merged {
		if b := next.bound[at.socket]; at.addr.IsValid() {
			if b.byAddr == nil {
				b.byAddr = map[netip.Addr]*view{}
			}
			b.byAddr[at.addr] = viewOf(at, slices.Concat(own, merged[place{socket: at.socket}]))
		}
	}
	return next, conflicts
}

func newView(listeners []owned, targets *targets) *view {
	v := &view{listeners: listeners}
	b := builder{view: v, targets: targets}
	for _, l := range listeners {
		switch l.Protocol {
		case table.HTTP:
			v.plain = b.addHTTP(v.plain, l)
		case table.HTTPS:
			if v.encrypted == nil {
				v.encrypted = &tlsView{}
			}
			v.encrypted.https = b.addHTTP(v.encrypted.https, l)
			v.encrypted.add(l, nil)
		case table.TLS:
			if v.encrypted == nil {
				v.encrypted = &tlsView{}
			}
			v.encrypted.add(l, b.streams(l))
		case table.TCP, table.UDP:
			if v.stream == nil && len(l.Streams) > 0 {
				v.stream = b.stream(l, l.Streams[0])
			}
		}
	}
	v.plain.sort()
	if v.encrypted != nil {
		v.encrypted.https.sort()
		v.encrypted.configure()
	}
	return v
}

// builder makes the parts of a view.
type builder struct {
	view    *view
	targets *targets
}

// hostMap finds what belongs to a host name.
type hostMap[T any] struct {
	exact    map[string]*T
	wildcard map[string]*T // by what follows the "*"
	any      *T
}

// at returns the place of a hostname, which is made if it does not exist.
func (m *hostMap[T]) at(hostname string) *T {
	if hostname == "" {
		if m.any == nil {
			m.any = new(T)
		}
		return m.any
	}
	in, key := &m.exact, hostname
	if suffix, wild := strings.CutPrefix(hostname, "*"); wild {
		in, key = &m.wildcard, suffix
	}
	if *in == nil {
		*in = map[string]*T{}
	}
	if (*in)[key] == nil {
		(*in)[key] = new(T)
	}
	return (*in)[key]
}

// each calls f with what belongs to host, the most specific first, until f returns true. It says whether f has.
func (m *hostMap[T]) each(host string, f func(*T) bool) bool {
	if v := m.exact[host]; v != nil && f(v) {
		return true
	}
	if len(m.wildcard) > 0 {
		for rest := host; ; {
			dot := strings.IndexByte(rest, '.')
			if dot < 0 {
				break
			}
			if v := m.wildcard[rest[dot:]]; v != nil && dot+len(host)-len(rest) > 0 && f(v) {
				return true
			}
			rest = rest[dot+1:]
		}
	}
	return m.any != nil && f(m.any)
}

// all calls f for everything.
func (m *hostMap[T]) all(f func(*T)) {
	for _, v := range m.exact {
		f(v)
	}
	for _, v := range m.wildcard {
		f(v)
	}
	if m.any != nil {
		f(m.any)
	}
}

// index finds the rule for a request.
type index struct {
	hosts     hostMap[hostNode]
	listeners []*listener
}

// apart says whether host belongs to a listener, but to none that connections with the server name belong to.
func (ix *index) apart(serverName, host string) bool {
	if ix == nil {
		return false
	}
	apart := false
	for _, l := range ix.listeners {
		if !l.owns(host) {
			continue
		}
		if l.owns(serverName) {
			return false
		}
		apart = true
	}
	return apart
}

// hostNode has the rules of one hostname, by their paths. In each list what comes first has precedence.
type hostNode struct {
	exact    map[string][]*entry
	regexps  []*entry
	prefixes map[string][]*entry // without the slash at the end
}

// listener is a listener of HTTP among others on its socket.
type listener struct {
	*table.Listener
	port     uint16
	shadowed []string // hostnames of listeners of the same Gateway that are more specific
}

// owns says whether requests for host belong to l rather than to others of its Gateway.
func (l *listener) owns(host string) bool {
	if !table.Covers(l.Hostname, host) {
		return false
	}
	for _, other := range l.shadowed {
		if table.Covers(other, host) {
			return false
		}
	}
	return true
}

// rule is a rule of a route as it is attached to a listener.
type rule struct {
	*table.Rule
	route    *table.Route
	listener *listener
	place    int // in the route
	backends shares
	mirrors  []*slot // as Filters.Mirrors
}

// entry is one match of a rule.
type entry struct {
	*rule
	match  *table.Match
	prefix string // of the path, if that is how it matches, without the slash at the end
}

// addHTTP adds a listener and its routes to an index, which is made if it does not exist.
func (b *builder) addHTTP(ix *index, of owned) *index {
	if ix == nil {
		ix = &index{}
	}
	l := &listener{Listener: of.Listener, port: cmp.Or(of.Port, of.Bind.Port())}
	for _, other := range ix.listeners {
		if other.Gateway == l.Gateway && other.Hostname != l.Hostname {
			if table.Covers(l.Hostname, other.Hostname) {
				l.shadowed = append(l.shadowed, other.Hostname)
			} else if table.Covers(other.Hostname, l.Hostname) {
				other.shadowed = append(other.shadowed, l.Hostname)
			}
		}
	}
	ix.listeners = append(ix.listeners, l)
	for _, route := range of.Routes {
		for i, r := range route.Rules {
			compiled := &rule{Rule: r, route: route, listener: l, place: i, backends: b.shares(of.owner, r.Backends)}
			for _, m := range r.Filters.Mirrors {
				compiled.mirrors = append(compiled.mirrors, b.slot(of.owner, m.Service))
			}
			for _, hostname := range route.Hostnames {
				ix.hosts.at(hostname).add(compiled)
			}
		}
	}
	return ix
}

func (n *hostNode) add(r *rule) {
	matches := r.Matches
	if len(matches) == 0 {
		matches = []table.Match{{}}
	}
	for i := range matches {
		e := &entry{rule: r, match: canonical(matches[i])}
		switch path := e.match.Path; path.Type {
		case table.PathExact:
			put(&n.exact, path.Value, e)
		case table.PathRegexp:
			n.regexps = append(n.regexps, e)
		default:
			e.prefix = strings.TrimSuffix(path.Value, "/")
			put(&n.prefixes, e.prefix, e)
		}
	}
}

func put(in *map[string][]*entry, key string, e *entry) {
	if *in == nil {
		*in = map[string][]*entry{}
	}
	(*in)[key] = append((*in)[key], e)
}

// canonical returns m with the names of headers as net/http has them.
func canonical(m table.Match) *table.Match {
	m.Headers = slices.Clone(m.Headers)
	for i := range m.Headers {
		m.Headers[i].Name = textproto.CanonicalMIMEHeaderKey(m.Headers[i].Name)
	}
	return &m
}

// sort puts all lists in order of precedence.
func (ix *index) sort() {
	if ix == nil {
		return
	}
	ix.hosts.all(func(n *hostNode) {
		for _, list := range n.exact {
			slices.SortStableFunc(list, compare)
		}
		for _, list := range n.prefixes {
			slices.SortStableFunc(list, compare)
		}
		slices.SortStableFunc(n.regexps, func(x, y *entry) int {
			return cmp.Or(len(y.match.Path.Value)-len(x.match.Path.Value), compare(x, y))
		})
	})
}

// compare is negative if x has precedence over y, where both match the same paths.
func compare(x, y *entry) int {
	method := func(e *entry) int { return min(1, len(e.match.Method)) }
	return cmp.Or(
		method(y)-method(x),
		len(y.match.Headers)-len(x.match.Headers),
		len(y.match.Query)-len(x.match.Query),
		x.route.Created.Compare(y.route.Created),
		strings.Compare(x.route.Name, y.route.Name),
		x.place-y.place,
	)
}
