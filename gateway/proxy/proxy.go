// SPDX-License-Identifier: Apache-2.0

// Package proxy is the data plane of Ingress and the Gateway API: it serves what tables (package table) describe.
//
// Set takes a table; from then on new requests go by it, while those under way end as they began. In reading order:
//
//   - proxy.go: the Proxy, and how one table replaces another
//   - index.go: a table made searchable; match.go: the rule for a request
//   - socket.go: listening sockets, and who is served on a connection; tls.go, stream.go: what is not HTTP in clear
//   - exchange.go: a request and its answer; attempt.go: getting the answer from one of the endpoints
//   - filters.go, cors.go, mirror.go: what routes do to requests and answers
//   - target.go: endpoints, and the connections to them
//
// HTTP itself is net/http's and httputil.ReverseProxy's: requests are parsed and written anew, so what a backend sees is one
// well-formed request, however odd the client's was. Nothing runs, and no socket is open, before the first table has a listener.
package proxy

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// Config is how a Proxy treats clients and endpoints. The zero value is sensible.
type Config struct {
	// Dial connects to endpoints; nil means directly.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Listen listens for TCP clients; nil means net.Listen.
	Listen func(network, address string) (net.Listener, error)
	// TrustedProxies are clients whose X-Forwarded headers are believed and extended. All others' are replaced.
	TrustedProxies []netip.Prefix
	// MaxConnections of clients at a time; more wait to be accepted. 0 means 8192.
	MaxConnections int
	// DrainTimeout is how long requests may go on whose listener is gone, or when Run ends; 0 means 10 seconds.
	DrainTimeout time.Duration
	// Metrics are counted in; nil means nowhere. See NewMetrics.
	Metrics *Metrics
}

// Proxy serves tables.
type Proxy struct {
	cfg         Config
	state       atomic.Pointer[state]
	connections chan struct{} // one is in it for each connection of a client
	mirrors     chan struct{} // one is in it for each mirrored request under way
	buffers     bufferPool

	ctx    context.Context // of all connections; ended by cancel, when Run has drained them
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines of sockets

	mu       sync.Mutex
	tables   map[string]*table.Table // by owner
	sockets  map[netip.AddrPort]*socket
	targets  targets
	finished bool // Run has ended: Set does nothing any more
}

// state is all that is served; it is replaced as a whole.
type state struct {
	bound map[netip.AddrPort]*bound
}

// New makes a Proxy that serves nothing yet.
func New(cfg Config) *Proxy {
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 8192
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 10 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if cfg.Listen == nil {
		cfg.Listen = net.Listen
	}
	p := &Proxy{
		cfg:         cfg,
		connections: make(chan struct{}, cfg.MaxConnections),
		mirrors:     make(chan struct{}, maxMirrors),
		tables:      map[string]*table.Table{},
		sockets:     map[netip.AddrPort]*socket{},
	}
	p.targets.dial, p.targets.affinity = cfg.Dial, maphash.MakeSeed()
	p.buffers.New = func() any { return new([bufferSize]byte) }
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.state.Store(&state{})
	return p
}

// Run waits until ctx ends, then lets requests end and closes all. A Proxy runs once.
func (p *Proxy) Run(ctx context.Context) error {
	<-ctx.Done()
	p.mu.Lock()
	p.finished = true
	for key := range p.sockets {
		p.close(key)
	}
	p.mu.Unlock()
	p.work.Wait() // each socket drains within DrainTimeout
	p.cancel()
	for range cap(p.mirrors) { // nobody begins one any more: this waits for those under way
		p.mirrors <- struct{}{}
	}
	p.targets.close()
	return nil
}

// Set serves t for owner from now on, instead of what owner gave before; nil means nothing. It returns why sockets of
// t could not be opened; all others are open when it returns.
func (p *Proxy) Set(owner string, t *table.Table) map[netip.AddrPort]error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return nil
	}
	if t == nil {
		delete(p.tables, owner)
	} else {
		p.tables[owner] = t
	}
	listeners := p.listeners()
	p.targets.update(p.tables)
	next, conflicts := bind(listeners, p.state.Load(), &p.targets)
	p.targets.forget(next)
	failed := p.reopen(next)
	p.cfg.Metrics.keepRoutes(next)

	mine := map[netip.AddrPort]error{}
	for _, l := range listeners {
		err := conflicts[l]
		if err == nil {
			err = failed[next.socketOf(l.Bind)]
		}
		if l.owner == owner && err != nil {
			mine[l.Bind] = err
		}
	}
	return mine
}

// Listens says whether a port of this machine is ours now.
func (p *Proxy) Listens(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := range p.sockets {
		if at.Port() == port {
			return true
		}
	}
	return false
}

// listeners returns those of all tables, in an order that stays.
func (p *Proxy) listeners() []owned {
	var all []owned
	for _, owner := range slices.Sorted(maps.Keys(p.tables)) {
		for _, l := range p.tables[owner].Listeners {
			all = append(all, owned{owner, l})
		}
	}
	return all
}

// reopen makes next the state, closes sockets that are not in it and opens those that are not open. It returns the errors.
func (p *Proxy) reopen(next *state) map[netip.AddrPort]error {
	for key, s := range p.sockets {
		if b := next.bound[key]; b == nil || b.kind != s.kind {
			p.close(key)
		}
	}
	p.state.Store(next)
	failed := map[netip.AddrPort]error{}
	for key, b := range next.bound {
		if p.sockets[key] != nil {
			continue
		}
		s, err := p.open(key, b.kind)
		if err != nil {
			failed[key] = fmt.Errorf("listen on %s: %w", key, err)
			continue
		}
		p.sockets[key] = s
	}
	return failed
}

// close ends a socket. Requests on it go on for a while.
func (p *Proxy) close(key netip.AddrPort) {
	s := p.sockets[key]
	delete(p.sockets, key)
	s.stop()
}
