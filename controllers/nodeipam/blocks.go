// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"fmt"
	"math/big"
	"math/bits"
	"net/netip"
)

// maxBlocks bounds the memory that a range costs: 8 KiB.
const maxBlocks = 1 << 16

// blocks is a range cut into equal blocks, numbered from 0, of which some are taken.
type blocks struct {
	cluster  netip.Prefix
	nodeBits int
	taken    []uint64 // one bit per block
	last     int      // the block given away last: freed addresses are not used again at once
}

func newBlocks(r Range) (*blocks, error) {
	if !r.Cluster.IsValid() || r.NodeBits < r.Cluster.Bits() || r.NodeBits > r.Cluster.Addr().BitLen() {
		return nil, fmt.Errorf("node blocks of /%d do not fit into cluster CIDR %s", r.NodeBits, r.Cluster)
	}
	if r.NodeBits-r.Cluster.Bits() > 16 {
		return nil, fmt.Errorf("cluster CIDR %s has more than %d node blocks of /%d: use larger blocks", r.Cluster, maxBlocks, r.NodeBits)
	}
	n := 1 << (r.NodeBits - r.Cluster.Bits())
	return &blocks{cluster: r.Cluster.Masked(), nodeBits: r.NodeBits, taken: make([]uint64, (n+63)/64), last: -1}, nil
}

func (b *blocks) count() int { return 1 << (b.nodeBits - b.cluster.Bits()) }

// used is how many blocks are taken.
func (b *blocks) used() (n int) {
	for _, word := range b.taken {
		n += bits.OnesCount64(word)
	}
	return n
}

// next takes the next free block, and tells how many were taken that it came across.
func (b *blocks) next() (block netip.Prefix, tries int, ok bool) {
	n := b.count()
	for i := range n {
		block := (b.last + 1 + i) % n
		if b.taken[block/64]&(1<<(block%64)) == 0 {
			b.taken[block/64] |= 1 << (block % 64)
			b.last = block
			return b.prefix(block), i, true
		}
	}
	return netip.Prefix{}, n, false
}

// take marks all blocks that overlap the prefix, which may be of another size than ours, as taken.
func (b *blocks) take(prefix netip.Prefix) {
	b.each(prefix, func(block int) { b.taken[block/64] |= 1 << (block % 64) })
}

func (b *blocks) free(prefix netip.Prefix) {
	b.each(prefix, func(block int) { b.taken[block/64] &^= 1 << (block % 64) })
}

func (b *blocks) each(prefix netip.Prefix, do func(block int)) {
	if !b.cluster.Overlaps(prefix) {
		return
	}
	first, last := 0, b.count()-1 // a prefix as large as the range, or larger, takes all of it
	if prefix.Bits() > b.cluster.Bits() {
		first = b.index(prefix.Masked().Addr())
		last = first
		if prefix.Bits() < b.nodeBits {
			last = first + 1<<(b.nodeBits-prefix.Bits()) - 1
		}
	}
	for block := first; block <= last; block++ {
		do(block)
	}
}

// index is the number of the block that an address of the range is in.
func (b *blocks) index(addr netip.Addr) int {
	offset := new(big.Int).Sub(asInt(addr), asInt(b.cluster.Addr()))
	offset.Rsh(offset, uint(addr.BitLen()-b.nodeBits))
	return int(offset.Int64())
}

func (b *blocks) prefix(block int) netip.Prefix {
	size := b.cluster.Addr().BitLen()
	sum := new(big.Int).Lsh(big.NewInt(int64(block)), uint(size-b.nodeBits))
	sum.Add(sum, asInt(b.cluster.Addr()))
	addr, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, size/8)))
	return netip.PrefixFrom(addr, b.nodeBits)
}

func asInt(addr netip.Addr) *big.Int { return new(big.Int).SetBytes(addr.AsSlice()) }
