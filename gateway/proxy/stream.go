// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"time"

	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// stream is where connections go whose content is not looked at.
type stream struct {
	*table.Stream
	backends shares
}

func (b *builder) streams(l owned) []*stream {
	var all []*stream
	for _, s := range l.Streams {
		all = append(all, b.stream(l, s))
	}
	return all
}

func (b *builder) stream(l owned, s *table.Stream) *stream {
	return &stream{Stream: s, backends: b.shares(l.owner, s.Backends)}
}

// sort finds out what name a client of TLS asks for, and gives its connection to the stream or server of that name.
func (s *socket) sort(conn *clientConn, v *tlsView) {
	_ = conn.SetReadDeadline(time.Now().Add(headerTimeout))
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	var seen bytes.Buffer
	name, err := serverName(reading{conn, io.TeeReader(conn, &seen)})
	stop()
	_ = conn.SetReadDeadline(time.Time{})
	host := v.host(name)
	if err != nil || host == nil {
		klog.Background().V(4).Info("Connection refused", "client", conn.RemoteAddr(), "serverName", name, "err", err)
		_ = conn.Close()
		return
	}
	again := &replayed{clientConn: conn, seen: &seen}
	switch {
	case host.stream == nil:
		s.hand(tls.Server(again, s.encrypt))
	case host.terminate == nil:
		s.splice(again, host.stream)
	default:
		s.splice(tls.Server(again, host.terminate), host.stream)
	}
}

// splice connects a client with a backend until both have said all.
func (s *socket) splice(client net.Conn, to *stream) {
	defer client.Close()
	backend, err := s.dial(client, to)
	if err != nil {
		klog.Background().V(4).Info("Connection refused", "client", client.RemoteAddr(), "err", err)
		return
	}
	defer backend.Close()
	if encrypted, ok := client.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(s.ctx, headerTimeout)
		defer cancel()
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return
		}
	}
	defer context.AfterFunc(s.ctx, func() {
		_ = client.Close()
		_ = backend.Close()
	})()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(backend, client)
	}()
	pass(client, backend)
	<-done
}

// pass copies until from ends, and tells to. If to fails, from has nobody to speak to any more.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	} else {
		_ = to.Close()
	}
}

// dial connects to one of a stream's endpoints.
func (s *socket) dial(client net.Conn, to *stream) (net.Conn, error) {
	n, err := to.target()
	if err != nil {
		return nil, err
	}
	first := n.first(ipOf(client.RemoteAddr()).String())
	for tried := 0; ; tried++ {
		ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
		backend, err := s.proxy.cfg.Dial(ctx, "tcp", n.endpoint(first+uint32(tried)))
		cancel()
		if err == nil || tried >= min(maxMoves, len(n.addresses)-1) || s.ctx.Err() != nil {
			return backend, err
		}
	}
}

// target returns a target of one of the backends.
func (s *stream) target() (*target, error) {
	if s != nil {
		if b := s.backends.pick(); b != nil && !b.Invalid {
			if n := b.slot.target.Load(); n != nil {
				return n, nil
			}
		}
	}
	return nil, errNoEndpoints
}

// reading is a connection of which only the given reader is used.
type reading struct {
	net.Conn
	from io.Reader
}

func (r reading) Read(b []byte) (int, error)  { return r.from.Read(b) }
func (r reading) Write(b []byte) (int, error) { return 0, io.ErrClosedPipe }
func (r reading) Close() error                { return nil }

// replayed is a connection from which what has been seen is read once more.
type replayed struct {
	*clientConn
	seen *bytes.Buffer // nil when it was read
}

func (r *replayed) Read(b []byte) (int, error) {
	if r.seen != nil {
		if n, _ := r.seen.Read(b); n > 0 {
			return n, nil
		}
		r.seen = nil
	}
	return r.clientConn.Read(b)
}
