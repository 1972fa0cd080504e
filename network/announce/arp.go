// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// arp is RFC 826 for IPv4 on Ethernet: the whole protocol is this one message.
type arp struct {
	operation  uint16
	sender     net.HardwareAddr
	senderAddr netip.Addr
	target     net.HardwareAddr
	targetAddr netip.Addr
}

const (
	arpSize      = 28
	arpRequest   = 1
	arpReply     = 2
	ethernetType = 1
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (m arp) marshal() []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, arpSize), ethernetType)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, 6, 4) // lengths of the two kinds of address
	b = binary.BigEndian.AppendUint16(b, m.operation)
	b = append(append(b, m.sender...), m.senderAddr.AsSlice()...)
	return append(append(b, m.target...), m.targetAddr.AsSlice()...)
}

func parseARP(b []byte) (arp, error) {
	if len(b) < arpSize || binary.BigEndian.Uint16(b) != ethernetType || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP || b[4] != 6 || b[5] != 4 {
		return arp{}, errors.New("not ARP for IPv4 on Ethernet")
	}
	return arp{
		operation: binary.BigEndian.Uint16(b[6:]),
		sender:    net.HardwareAddr(b[8:14]), senderAddr: netip.AddrFrom4([4]byte(b[14:18])),
		target: net.HardwareAddr(b[18:24]), targetAddr: netip.AddrFrom4([4]byte(b[24:28])),
	}, nil
}

// arpConn is a wire for IPv4.
type arpConn struct {
	*packet.Conn
	own net.HardwareAddr
}

func openARP(link *net.Interface) (wire, error) {
	if len(link.HardwareAddr) != 6 {
		return nil, fmt.Errorf("%s is no Ethernet", link.Name)
	}
	conn, err := packet.Listen(link, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	return &arpConn{Conn: conn, own: link.HardwareAddr}, nil
}

func (c *arpConn) read() (heard, error) {
	b := make([]byte, 128)
	n, _, err := c.ReadFrom(b)
	if err != nil {
		return heard{}, err
	}
	m, err := parseARP(b[:n])
	if err != nil || m.sender.String() == c.own.String() {
		return heard{}, nil // nothing for us
	}
	h := heard{claimed: m.senderAddr}
	if m.operation == arpRequest && m.targetAddr != m.senderAddr {
		h.asked, h.answer = m.targetAddr, func() error {
			return c.send(arp{arpReply, c.own, m.targetAddr, m.sender, m.senderAddr}, m.sender)
		}
	}
	return h, nil
}

// tell says it in both ways that are in use: some machines listen to only one of them.
func (c *arpConn) tell(addr netip.Addr) error {
	return errors.Join(
		c.send(arp{arpRequest, c.own, addr, make(net.HardwareAddr, 6), addr}, broadcast),
		c.send(arp{arpReply, c.own, addr, broadcast, addr}, broadcast),
	)
}

func (c *arpConn) send(m arp, to net.HardwareAddr) error {
	_, err := c.WriteTo(m.marshal(), &packet.Addr{HardwareAddr: to})
	return err
}

// listenFor has nothing to do: questions are broadcast.
func (c *arpConn) listenFor(netip.Addr) error { return nil }
