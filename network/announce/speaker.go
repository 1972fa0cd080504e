// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// wire is the protocol by which machines on a link find out who has an address: ARP or NDP.
type wire interface {
	read() (heard, error)
	tell(addr netip.Addr) error      // tells all that this machine has it
	listenFor(addr netip.Addr) error // makes questions about it come here
	Close() error
}

// heard is what another machine said. Either address may be missing.
type heard struct {
	claimed netip.Addr   // it says that it has this one
	asked   netip.Addr   // it wants to know who has this one
	answer  func() error // tells it that we do
}

// tellAgain is when others are told again of an address that is new here: one packet may be lost, and switches that have
// just seen a link come up forget.
var tellAgain = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// speaker answers for addresses of one family, on the link that the node's own address is on.
type speaker struct {
	node    netip.Addr
	open    func(*net.Interface) (wire, error)
	claimed func(netip.Addr) // told when another machine says that it has one of ours

	reading sync.WaitGroup
	mu      sync.Mutex
	wire    wire // nil while there is nothing to say
	mine    map[netip.Addr]bool
}

// set makes these the addresses that it answers for. After an error it answers for those for which it can.
func (s *speaker) set(ctx context.Context, mine map[netip.Addr]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(mine) == 0 {
		s.mine = nil
		return s.closeLocked()
	}
	if s.wire == nil {
		link, err := linkOf(s.node)
		if err != nil {
			return err
		}
		if s.wire, err = s.open(link); err != nil {
			return fmt.Errorf("listen on %s: %w", link.Name, err)
		}
		s.mine = nil
		opened := s.wire
		s.reading.Go(func() { s.read(ctx, opened) })
	}
	before := s.mine
	s.mine = map[netip.Addr]bool{}
	var errs []error
	for addr := range mine {
		if !before[addr] {
			if err := errors.Join(s.wire.listenFor(addr), s.wire.tell(addr)); err != nil {
				errs = append(errs, fmt.Errorf("announce %s: %w", addr, err))
				continue
			}
			s.repeat(s.wire, addr)
		}
		s.mine[addr] = true
	}
	return errors.Join(errs...)
}

// repeat tells of an address again, while it is ours.
func (s *speaker) repeat(on wire, addr netip.Addr) {
	for _, after := range tellAgain {
		time.AfterFunc(after, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.wire == on && s.mine[addr] {
				_ = on.tell(addr) // it has been told before
			}
		})
	}
}

// tell tells of an address again.
func (s *speaker) tell(addr netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire == nil || !s.mine[addr] {
		return nil
	}
	return s.wire.tell(addr)
}

// read answers until the wire is closed, here or by what happened to the link.
func (s *speaker) read(ctx context.Context, from wire) {
	for {
		h, err := from.read()
		s.mu.Lock()
		if s.wire != from { // closed
			s.mu.Unlock()
			return
		}
		asked, claimed := h.asked.IsValid() && s.mine[h.asked], h.claimed.IsValid() && s.mine[h.claimed]
		if err != nil && !errors.Is(err, syscall.ENETDOWN) && !isMalformed(err) {
			klog.FromContext(ctx).Error(err, "Stopped listening for questions about load balancer addresses, will listen again")
			_ = s.closeLocked()
			s.mu.Unlock()
			s.claimed(netip.Addr{})
			return
		}
		s.mu.Unlock()
		if asked {
			_ = h.answer() // who got none asks again
		}
		if claimed {
			s.claimed(h.claimed)
		}
	}
}

// isMalformed tells that somebody sent what cannot be read, which is no problem of ours.
func isMalformed(err error) bool {
	var op *net.OpError
	var sys syscall.Errno
	return !errors.As(err, &op) && !errors.As(err, &sys) && !errors.Is(err, net.ErrClosed)
}

func (s *speaker) closeLocked() error {
	if s.wire == nil {
		return nil
	}
	old := s.wire
	s.wire = nil
	return old.Close()
}

// linkOf finds the interface that has an address.
func linkOf(addr netip.Addr) (*net.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for i := range links {
		addresses, err := links[i].Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == addr {
				return &links[i], nil
			}
		}
	}
	return nil, fmt.Errorf("no interface has the node's address %s", addr)
}
