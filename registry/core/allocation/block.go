// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/binary"
	"iter"
	"math"
	"net/netip"
)

// block is one prefix of Service addresses. Its own address and, of IPv4, the broadcast address are not used.
type block struct {
	prefix netip.Prefix
	first  netip.Addr // the lowest usable
	size   uint64     // how many are usable
	static uint64     // how many of the lowest are handed out last, if nobody asks for them
}

func newBlock(prefix netip.Prefix) block {
	prefix = prefix.Masked()
	b := block{prefix: prefix, first: prefix.Addr().Next()}
	all := uint64(math.MaxUint64)
	if bits := prefix.Addr().BitLen() - prefix.Bits(); bits < 64 {
		all = 1 << bits
	}
	reserved := uint64(1)
	if prefix.Addr().Is4() {
		reserved = 2
	}
	if all > reserved {
		b.size = all - reserved
	}
	b.static = min(staticBand(all, 16, 16, 256), b.size)
	return b
}

// staticBand is the part of a range that is left to explicit requests: a step-th of it, not fewer than low
// nor more than high, and nothing of a range that is as small as low (KEP-3070, KEP-3668).
func staticBand(size, step, low, high uint64) uint64 {
	if size <= low {
		return 0
	}
	return min(max(size/step, low), high)
}

func (b block) contains(ip netip.Addr) bool {
	return b.prefix.Contains(ip) && !ip.Less(b.first) && !b.at(b.size-1).Less(ip)
}

// all yields every usable address once: those above the static band first, beginning at a place that
// random picks, then the band.
func (b block) all(random uint64) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		upper := b.size - b.static
		for i := range upper {
			if !yield(b.at(b.static + (random%upper+i)%upper)) {
				return
			}
		}
		for i := range b.static {
			if !yield(b.at((random%b.static + i) % b.static)) {
				return
			}
		}
	}
}

// at is the address at an offset from the first.
func (b block) at(offset uint64) netip.Addr {
	if b.first.Is4() {
		v := b.first.As4()
		binary.BigEndian.PutUint32(v[:], binary.BigEndian.Uint32(v[:])+uint32(offset))
		return netip.AddrFrom4(v)
	}
	v := b.first.As16()
	low := binary.BigEndian.Uint64(v[8:])
	binary.BigEndian.PutUint64(v[8:], low+offset)
	if low+offset < low {
		binary.BigEndian.PutUint64(v[:8], binary.BigEndian.Uint64(v[:8])+1)
	}
	return netip.AddrFrom16(v)
}
