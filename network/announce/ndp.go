// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"github.com/mdlayher/ndp"
)

var allNodes = netip.MustParseAddr("ff02::1")

// ndpConn is a wire for IPv6, RFC 4861.
type ndpConn struct {
	*ndp.Conn
	own net.HardwareAddr
}

func openNDP(link *net.Interface) (wire, error) {
	conn, _, err := ndp.Listen(link, ndp.LinkLocal)
	if err != nil {
		return nil, err
	}
	return &ndpConn{Conn: conn, own: link.HardwareAddr}, nil
}

func (c *ndpConn) read() (heard, error) {
	message, _, from, err := c.ReadFrom()
	if err != nil {
		return heard{}, err
	}
	switch m := message.(type) {
	case *ndp.NeighborSolicitation:
		return heard{asked: m.TargetAddress, answer: func() error {
			if from.IsUnspecified() { // somebody wants to take the address, and is told by telling all
				return c.tell(m.TargetAddress)
			}
			return c.WriteTo(c.advertisement(m.TargetAddress, true), nil, from)
		}}, nil
	case *ndp.NeighborAdvertisement:
		for _, option := range m.Options {
			if link, is := option.(*ndp.LinkLayerAddress); is && link.Addr.String() != c.own.String() {
				return heard{claimed: m.TargetAddress}, nil
			}
		}
	}
	return heard{}, nil // nothing for us
}

func (c *ndpConn) advertisement(addr netip.Addr, solicited bool) *ndp.NeighborAdvertisement {
	return &ndp.NeighborAdvertisement{
		Router: true, Solicited: solicited, Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: c.own}},
	}
}

func (c *ndpConn) tell(addr netip.Addr) error {
	return c.WriteTo(c.advertisement(addr, false), nil, allNodes)
}

// listenFor joins the group to which questions about addr are sent. It is left when the wire is closed; other addresses may
// be of the same group, and what is heard of it without need is little.
func (c *ndpConn) listenFor(addr netip.Addr) error {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return err
	}
	if err := c.JoinGroup(group); !errors.Is(err, syscall.EADDRINUSE) { // it has been joined before
		return err
	}
	return nil
}
