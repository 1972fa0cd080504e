// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	udpIdle     = time.Minute // without a packet, a client's session ends
	udpSessions = 4096        // at a time; packets of further clients are dropped
	udpPacket   = 64 << 10
)

// listenUDP opens a UDP socket and serves it.
func (s *socket) listenUDP(address string) error {
	var config net.ListenConfig
	packets, err := config.ListenPacket(s.ctx, "udp", address)
	if err != nil {
		s.cancel()
		return err
	}
	s.listener = packets
	r := &relay{socket: s, clients: packets.(*net.UDPConn), sessions: map[netip.AddrPort]net.Conn{}}
	s.streams.Go(r.run)
	return nil
}

// relay passes packets between clients and backends. A client has one backend as long as it does not pause.
type relay struct {
	socket  *socket
	clients *net.UDPConn

	mu       sync.Mutex
	sessions map[netip.AddrPort]net.Conn // to the backends, by client
}

func (r *relay) run() {
	defer r.end()
	packet := make([]byte, udpPacket)
	for {
		n, client, err := r.clients.ReadFromUDPAddrPort(packet)
		if err != nil {
			return // closed
		}
		if backend := r.session(client); backend != nil {
			_, _ = backend.Write(packet[:n])
		}
	}
}

// session returns a client's connection to its backend, or nil if there can be none.
func (r *relay) session(client netip.AddrPort) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if backend := r.sessions[client]; backend != nil {
		_ = backend.SetReadDeadline(time.Now().Add(udpIdle))
		return backend
	}
	v := r.socket.view(r.clients.LocalAddr())
	if v == nil || len(r.sessions) >= udpSessions {
		return nil
	}
	n, err := v.stream.target()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.socket.ctx, dialTimeout)
	defer cancel()
	backend, err := r.socket.proxy.cfg.Dial(ctx, "udp", n.endpoint(n.first(client.Addr().Unmap().String())))
	if err != nil {
		return nil
	}
	_ = backend.SetReadDeadline(time.Now().Add(udpIdle))
	r.sessions[client] = backend
	r.socket.streams.Go(func() { r.answer(client, backend) })
	return backend
}

// answer passes what a backend says to its client until there is nothing for a while.
func (r *relay) answer(client netip.AddrPort, backend net.Conn) {
	packet := make([]byte, udpPacket)
	for {
		n, err := backend.Read(packet)
		if err != nil {
			break
		}
		_, _ = r.clients.WriteToUDPAddrPort(packet[:n], client)
		_ = backend.SetReadDeadline(time.Now().Add(udpIdle))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, client)
	_ = backend.Close()
}

// end ends all sessions.
func (r *relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, backend := range r.sessions {
		_ = backend.Close()
	}
}
