// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// addrRange is a range of addresses, both ends included.
type addrRange struct{ first, last netip.Addr }

func rangeOf(prefix netip.Prefix) addrRange {
	prefix = prefix.Masked()
	last := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addrRange{prefix.Addr(), addr}
}

// without returns what is left of a range: nothing, one or two ranges.
func (r addrRange) without(cut addrRange) []addrRange {
	if cut.last.Less(r.first) || r.last.Less(cut.first) {
		return []addrRange{r}
	}
	var left []addrRange
	if r.first.Less(cut.first) {
		left = append(left, addrRange{r.first, cut.first.Prev()})
	}
	if cut.last.Less(r.last) {
		left = append(left, addrRange{cut.last.Next(), r.last})
	}
	return left
}

// blockRanges returns the addresses of an ipBlock, in order; none if it is of the other family.
func blockRanges(block *networkingv1.IPBlock, family corev1.IPFamily) []addrRange {
	cidr, err := netip.ParsePrefix(block.CIDR)
	if err != nil || familyOf(cidr.Addr()) != family {
		return nil
	}
	ranges := []addrRange{rangeOf(cidr)}
	for _, text := range block.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil || familyOf(except.Addr()) != family {
			continue
		}
		var left []addrRange
		for _, r := range ranges {
			left = append(left, r.without(rangeOf(except))...)
		}
		ranges = left
	}
	return ranges
}
