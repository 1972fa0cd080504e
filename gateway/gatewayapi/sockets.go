// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"hash/fnv"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// The ports of the node on which the data plane listens for Gateways. They are below the node ports and what the kernel
// gives to clients.
const (
	firstSocket = 28000
	lastSocket  = 29999
)

// sockets gives each port of each Gateway a port of the node. A Gateway's Service leads there.
type sockets struct {
	address netip.Addr
	ports   map[Socket]uint16
	taken   map[nodePort]bool // by ports
	bad     map[nodePort]bool // somebody else listens there
}

type nodePort struct {
	port     uint16
	protocol corev1.Protocol
}

func newSockets(address netip.Addr) *sockets {
	return &sockets{address: address, ports: map[Socket]uint16{}, taken: map[nodePort]bool{}, bad: map[nodePort]bool{}}
}

// of returns where a port of a Gateway is listened for. The same one gets the same again after a restart, as a rule.
func (s *sockets) of(socket Socket) netip.AddrPort {
	if port, ok := s.ports[socket]; ok {
		return netip.AddrPortFrom(s.address, port)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(socket.Gateway.String() + string(socket.Protocol)))
	const size = lastSocket - firstSocket + 1
	start := (h.Sum32() + uint32(socket.Port)) % size
	for i := range uint32(size) {
		p := nodePort{uint16(firstSocket + (start+i)%size), socket.Protocol}
		if s.taken[p] || s.bad[p] {
			continue
		}
		s.taken[p], s.ports[socket] = true, p.port
		return netip.AddrPortFrom(s.address, p.port)
	}
	return netip.AddrPort{}
}

// keep gives back the ports that are not wanted any more.
func (s *sockets) keep(wanted map[Socket]bool) {
	for socket, port := range s.ports {
		if !wanted[socket] {
			delete(s.taken, nodePort{port, socket.Protocol})
			delete(s.ports, socket)
		}
	}
}

// avoid takes other ports for sockets that could not be opened.
func (s *sockets) avoid(failed map[netip.AddrPort]error) {
	for socket, port := range s.ports {
		if failed[netip.AddrPortFrom(s.address, port)] != nil {
			s.bad[nodePort{port, socket.Protocol}] = true
			delete(s.taken, nodePort{port, socket.Protocol})
			delete(s.ports, socket)
		}
	}
}
