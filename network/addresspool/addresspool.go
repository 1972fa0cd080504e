// SPDX-License-Identifier: Apache-2.0

// Package addresspool reads the ranges of addresses that LoadBalancer Services get theirs from.
//
// Who gets which is decided by the controller loadbalancerpool; package announce makes the addresses known on the network.
package addresspool

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// Range is some addresses of one family, both ends included.
type Range struct{ First, Last netip.Addr }

// Pool is ranges, in the order in which they are used up.
type Pool []Range

// Parse reads ranges like 192.0.2.200-192.0.2.220, 192.0.2.240/28 or 2001:db8::1:0/112. A CIDR is all of its addresses.
func Parse(texts []string) (Pool, error) {
	var pool Pool
	for _, text := range texts {
		r, err := parse(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(pool, r.overlaps) {
			return nil, fmt.Errorf("range %s overlaps another one", text)
		}
		pool = append(pool, r)
	}
	return pool, nil
}

func parse(text string) (Range, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return Range{prefix.Masked().Addr(), last(prefix)}, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	first, err := netip.ParseAddr(strings.TrimSpace(from))
	if err != nil {
		return Range{}, fmt.Errorf("%q is neither a range of addresses like 192.0.2.200-192.0.2.220 nor a CIDR", text)
	}
	end, err := netip.ParseAddr(strings.TrimSpace(to))
	if err != nil || end.Is4() != first.Is4() || end.Less(first) {
		return Range{}, fmt.Errorf("%q is not a range of addresses: its end must come after its start", text)
	}
	return Range{first, end}, nil
}

// last is the last address of a prefix.
func last(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	addr, _ := netip.AddrFromSlice(bytes) // 4 or 16 of them
	return addr
}

func (r Range) overlaps(o Range) bool {
	return r.First.Is4() == o.First.Is4() && !r.Last.Less(o.First) && !o.Last.Less(r.First)
}

// Contains tells whether an address is in one of the ranges.
func (p Pool) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(r Range) bool { return Range{addr, addr}.overlaps(r) })
}

// Overlaps tells whether any of the addresses is in prefix.
func (p Pool) Overlaps(prefix netip.Prefix) bool {
	return slices.ContainsFunc(p, Range{prefix.Masked().Addr(), last(prefix)}.overlaps)
}

// All are the addresses of a family, in order.
func (p Pool) All(ipv4 bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, r := range p {
			for addr := r.First; r.First.Is4() == ipv4 && addr.IsValid() && !r.Last.Less(addr); addr = addr.Next() {
				if !yield(addr) {
					return
				}
			}
		}
	}
}
