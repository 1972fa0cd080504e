// SPDX-License-Identifier: Apache-2.0

// Package nfacct makes and reads the kernel's named counters of packets, which rules of iptables add to
// (`-m nfacct --nfacct-name NAME`). Not every kernel has them.
package nfacct

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel's numbers, of include/uapi/linux/netfilter/nfnetlink_acct.h.
const (
	subsystem = 7 // NFNL_SUBSYS_ACCT

	messageNew    = 0
	messageGet    = 1
	messageDelete = 3

	attributeName    = 1
	attributePackets = 2
)

// Ensure makes a counter unless it is there.
func Ensure(name string) error {
	_, err := request(messageNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, name)
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("make packet counter %s: %w", name, err)
	}
	return nil
}

// Packets returns how many packets a counter has counted.
func Packets(name string) (uint64, error) {
	answers, err := request(messageGet, unix.NLM_F_ACK, name)
	if err != nil {
		return 0, fmt.Errorf("read packet counter %s: %w", name, err)
	}
	for _, answer := range answers {
		attributes, err := nl.ParseRouteAttr(answer[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("read packet counter %s: %w", name, err)
		}
		for _, a := range attributes {
			if a.Attr.Type&nl.NLA_TYPE_MASK == attributePackets && len(a.Value) == 8 {
				return binary.BigEndian.Uint64(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("read packet counter %s: no number in the answer", name)
}

// Delete removes a counter that no rule adds to any more.
func Delete(name string) error {
	_, err := request(messageDelete, unix.NLM_F_ACK, name)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove packet counter %s: %w", name, err)
	}
	return nil
}

func request(message, flags int, name string) ([][]byte, error) {
	req := nl.NewNetlinkRequest(subsystem<<8|message, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(attributeName, nl.ZeroTerminated(name)))
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}
