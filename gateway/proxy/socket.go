// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Limits for clients. A client that is slower holds a connection for nothing.
const (
	headerTimeout  = 10 * time.Second // for the head of a request, and for a TLS handshake
	clientIdle     = 2 * time.Minute  // between requests
	stallTimeout   = time.Minute      // without a byte of a body getting anywhere
	maxHeaderBytes = 64 << 10
	maxStreams     = 250 // of HTTP/2 on one connection
)

// socket is an open listening socket with what serves its connections.
type socket struct {
	proxy    *Proxy
	key      netip.AddrPort
	kind     kind
	listener io.Closer // a net.Listener, or a *net.UDPConn
	server   *http.Server
	encrypt  *tls.Config

	queue   chan net.Conn // for server
	ctx     context.Context
	cancel  context.CancelFunc // ends what is still going on
	stopped chan struct{}      // closed when no connection is taken any more
	streams sync.WaitGroup     // accept, and what is not left to server
}

// open opens a socket and serves it.
func (p *Proxy) open(key netip.AddrPort, kind kind) (*socket, error) {
	s := &socket{proxy: p, key: key, kind: kind, queue: make(chan net.Conn), stopped: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(p.ctx)
	address := key.String()
	if key.Addr().IsUnspecified() {
		address = ":" + strconv.Itoa(int(key.Port())) // of both IP families, or the one that there is
	}
	if kind == udp {
		return s, s.listenUDP(address)
	}
	listener, err := s.proxy.cfg.Listen("tcp", address)
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.listener = listener
	if kind != tcp {
		s.server = s.newServer()
		s.encrypt = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.configForClient}
		p.work.Go(func() { _ = s.server.Serve(handedOver{s}) })
	}
	s.streams.Go(func() { s.accept(listener) })
	return s, nil
}

func (s *socket) newServer() *http.Server {
	server := &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  clientIdle,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		Protocols:                    &http.Protocols{},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: clientIdle / 2, PingTimeout: headerTimeout, WriteByteTimeout: stallTimeout,
		},
		BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog:    quietLog,
	}
	server.Protocols.SetHTTP1(true)
	if s.kind == plain {
		server.Protocols.SetUnencryptedHTTP2(true)
	} else {
		server.Protocols.SetHTTP2(true)
	}
	return server
}

// stop takes no more connections, and ends those there are as their requests end, or after a while.
func (s *socket) stop() {
	close(s.stopped)
	_ = s.listener.Close()
	s.proxy.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, s.proxy.cfg.DrainTimeout)
		defer cancel()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			if s.server != nil {
				_ = s.server.Shutdown(ctx)
			}
			s.streams.Wait()
		}()
		select {
		case <-drained:
		case <-ctx.Done():
		}
		s.cancel()
		if s.server != nil {
			_ = s.server.Close()
		}
		<-drained
	})
}

// accept takes connections, as many at a time as the proxy may have.
func (s *socket) accept(listener net.Listener) {
	for {
		select {
		case s.proxy.connections <- struct{}{}:
		case <-s.stopped:
			return
		}
		conn, err := listener.Accept()
		if err != nil {
			<-s.proxy.connections
			if errors.Is(err, net.ErrClosed) {
				return
			}
			klog.Background().Error(err, "Cannot take connections", "address", s.key)
			select { // out of file descriptors, most likely: others have to end first
			case <-time.After(100 * time.Millisecond):
			case <-s.stopped:
			}
			continue
		}
		s.proxy.cfg.Metrics.connection(s.kind)
		s.take(&clientConn{Conn: conn, release: sync.OnceFunc(func() { <-s.proxy.connections })})
	}
}

// take gives a connection to who serves it.
func (s *socket) take(conn *clientConn) {
	v := s.view(conn.LocalAddr())
	switch {
	case v == nil:
		_ = conn.Close()
	case s.kind == plain:
		s.hand(conn)
	case s.kind == encrypted && !v.encrypted.peek:
		s.hand(tls.Server(conn, s.encrypt))
	case s.kind == encrypted:
		s.streams.Go(func() { s.sort(conn, v.encrypted) })
	default:
		s.streams.Go(func() { s.splice(conn, v.stream) })
	}
}

// hand gives a connection to the HTTP server.
func (s *socket) hand(conn net.Conn) {
	select {
	case s.queue <- conn:
	case <-s.stopped:
		_ = conn.Close()
	}
}

// view returns what is served on connections to a local address now; nil if the socket is about to be closed.
func (s *socket) view(local net.Addr) *view {
	b := s.proxy.state.Load().bound[s.key]
	if b == nil || b.kind != s.kind {
		return nil
	}
	if len(b.byAddr) == 0 {
		return b.all
	}
	return b.on(ipOf(local))
}

func ipOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// handedOver is a listener of connections that a socket has accepted.
type handedOver struct{ *socket }

func (h handedOver) Accept() (net.Conn, error) {
	select {
	case conn := <-h.queue:
		return conn, nil
	case <-h.stopped:
		return nil, net.ErrClosed
	}
}

func (h handedOver) Close() error   { return nil } // stop closes
func (h handedOver) Addr() net.Addr { return net.TCPAddrFromAddrPort(h.key) }

// clientConn is a client's connection. It fails when the client does not take what is written for too long.
type clientConn struct {
	net.Conn
	release  func()
	deadline time.Time // of writes, unless it was set from outside
}

// Write has one caller at a time, as all who write here serialize.
func (c *clientConn) Write(b []byte) (int, error) {
	if now := time.Now(); c.deadline.Sub(now) < stallTimeout*3/4 { // setting it costs more than looking
		c.deadline = now.Add(stallTimeout)
		_ = c.Conn.SetWriteDeadline(c.deadline)
	}
	return c.Conn.Write(b)
}

func (c *clientConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// CloseWrite tells the client that nothing more comes.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

var quietLog = log.New(quiet{}, "", 0)

// quiet logs what net/http says about bad clients, for those who look for it.
type quiet struct{}

func (quiet) Write(b []byte) (int, error) {
	klog.Background().V(4).Info(string(b))
	return len(b), nil
}
