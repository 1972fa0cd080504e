// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/skiff-k8s/skiff/network/iptables"
)

// Chains. Those of host ports have the names that the portmap plugin gave them; people look for them.
const (
	postroutingChain     = "SKIFF-POSTROUTING" // masquerades what leaves the cluster
	forwardChain         = "SKIFF-FORWARD"     // accepts what pods send and get, whatever the policy of FORWARD
	inputChain           = "SKIFF-INPUT"       // keeps pods off the node's loopback addresses
	hostPortDNATChain    = "CNI-HOSTPORT-DNAT"
	hostPortSetMarkChain = "CNI-HOSTPORT-SETMARK"
	hostPortMasqChain    = "CNI-HOSTPORT-MASQ"
	podPortsPrefix       = "CNI-DN-" // one chain per pod with host ports
	hostPortMark         = "0x2000/0x2000"
)

// jump is a rule in a built-in chain that leads to one of ours.
type jump struct {
	table    iptables.Table
	from, to string
	match    string
	first    bool // before or after what others put there
}

var jumps = []jump{
	{table: iptables.Filter, from: "INPUT", to: inputChain, match: "-m comment --comment \"skiff: protect loopback\"", first: true},
	{table: iptables.Filter, from: "FORWARD", to: forwardChain, match: "-m comment --comment \"skiff: pod traffic\""},
	{table: iptables.NAT, from: "PREROUTING", to: hostPortDNATChain, match: "-m addrtype --dst-type LOCAL"},
	{table: iptables.NAT, from: "OUTPUT", to: hostPortDNATChain, match: "-m addrtype --dst-type LOCAL"},
	{table: iptables.NAT, from: "POSTROUTING", to: hostPortMasqChain, match: "-m comment --comment \"CNI portfwd requiring masquerade\""},
	{table: iptables.NAT, from: "POSTROUTING", to: postroutingChain, match: "-m comment --comment \"skiff: masquerade\""},
}

// rules keeps the packet rules of the pod network.
type rules struct {
	clusterCIDRs []netip.Prefix
	tables       map[iptables.Family]*iptables.Runner

	mu       sync.Mutex // one writer at a time, in the order of its decisions
	podCIDRs []netip.Prefix
	ports    []*attachment
	written  map[iptables.Family]map[string]bool // pods' port chains in the kernel
}

func newRules(clusterCIDRs []netip.Prefix) *rules {
	r := &rules{clusterCIDRs: clusterCIDRs, tables: map[iptables.Family]*iptables.Runner{}, written: map[iptables.Family]map[string]bool{}}
	for _, family := range families {
		r.tables[family] = iptables.New(family)
	}
	return r
}

// set writes all rules, whatever is there.
func (r *rules) set(ctx context.Context, podCIDRs []netip.Prefix, ports []*attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.podCIDRs, r.ports = podCIDRs, ports
	return r.writeAll(ctx)
}

// setPorts writes the rules of host ports. It asks which pods have some when it is its turn.
func (r *rules) setPorts(ctx context.Context, ports func() []*attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ports = ports()
	for _, family := range r.used() {
		text, chains := portRules(family, r.ports, r.written[family])
		if err := r.tables[family].Restore(ctx, []byte("*nat\n"+text+"COMMIT\n")); err != nil {
			return fmt.Errorf("write %s host port rules: %w", family, err)
		}
		r.written[family] = chains
	}
	return nil
}

// restoreIfGone writes all rules again if somebody removed them.
func (r *rules) restoreIfGone(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, family := range r.used() {
		there, err := leads(ctx, r.tables[family])
		if err != nil {
			return err
		}
		if !there {
			return r.writeAll(ctx)
		}
	}
	return nil
}

// leads tells whether the built-in chains still lead to ours: who flushes a table takes that with it.
func leads(ctx context.Context, tables *iptables.Runner) (bool, error) {
	filter, err := tables.Leads(ctx, iptables.Filter, "FORWARD", forwardChain)
	if !filter || err != nil {
		return false, err
	}
	return tables.Leads(ctx, iptables.NAT, "POSTROUTING", postroutingChain)
}

// used returns the families that the node's pods have.
func (r *rules) used() []iptables.Family {
	return slices.DeleteFunc(slices.Clone(families), func(family iptables.Family) bool {
		return len(ofFamily(r.podCIDRs, family)) == 0
	})
}

func (r *rules) writeAll(ctx context.Context) error {
	for _, family := range r.used() {
		filter, err := r.tables[family].Save(ctx, iptables.Filter)
		if err != nil {
			return err
		}
		nat, err := r.tables[family].Save(ctx, iptables.NAT)
		if err != nil {
			return err
		}
		stale := map[string]bool{}
		for chain := range iptables.Chains(nat) {
			if strings.HasPrefix(chain, podPortsPrefix) {
				stale[chain] = true
			}
		}
		ports, chains := portRules(family, r.ports, stale)
		var b bytes.Buffer
		b.WriteString("*filter\n" + filterRules(family, r.clusterCIDRs))
		writeJumps(&b, iptables.Filter, filter)
		b.WriteString("COMMIT\n*nat\n" + natRules(family, r.clusterCIDRs, r.podCIDRs) + ports)
		writeJumps(&b, iptables.NAT, nat)
		b.WriteString("COMMIT\n")
		if err := r.tables[family].Restore(ctx, b.Bytes()); err != nil {
			return fmt.Errorf("write %s rules: %w", family, err)
		}
		r.written[family] = chains
	}
	return nil
}

// writeJumps adds the jumps that a saved table lacks.
func writeJumps(b *bytes.Buffer, table iptables.Table, saved []byte) {
	for _, j := range jumps {
		if j.table != table || len(iptables.Jumps(saved, j.from, j.to)) > 0 {
			continue
		}
		action := "-A"
		if j.first {
			action = "-I"
		}
		fmt.Fprintf(b, "%s %s %s -j %s\n", action, j.from, j.match, j.to)
	}
}

// cleanup removes our chains of both families.
func (r *rules) cleanup(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := []string{postroutingChain, forwardChain, inputChain, hostPortDNATChain, hostPortSetMarkChain, hostPortMasqChain}
	isOurs := func(chain string) bool {
		return slices.Contains(own, chain) || strings.HasPrefix(chain, podPortsPrefix)
	}
	var errs []error
	for _, family := range families {
		for _, table := range []iptables.Table{iptables.NAT, iptables.Filter} {
			if err := r.tables[family].RemoveChains(ctx, table, isOurs); err != nil && (family == iptables.IPv4 || len(ofFamily(r.clusterCIDRs, family)) > 0) {
				errs = append(errs, fmt.Errorf("remove %s rules: %w", family, err))
			}
		}
	}
	return errors.Join(errs...)
}

// filterRules returns our chains of the filter table.
func filterRules(family iptables.Family, clusterCIDRs []netip.Prefix) string {
	var b strings.Builder
	fmt.Fprintf(&b, ":%s - [0:0]\n:%s - [0:0]\n", forwardChain, inputChain)
	for _, cidr := range ofFamily(clusterCIDRs, family) {
		fmt.Fprintf(&b, "-A %s -s %s -j ACCEPT\n", forwardChain, cidr)
		fmt.Fprintf(&b, "-A %s -d %s -j ACCEPT\n", forwardChain, cidr)
	}
	if family == iptables.IPv4 {
		// route_localnet on the bridge would let pods reach what listens on 127.0.0.1 only.
		fmt.Fprintf(&b, "-A %s -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n", inputChain)
	}
	return b.String()
}

// natRules returns our chains of the nat table but those of host ports.
func natRules(family iptables.Family, clusterCIDRs, podCIDRs []netip.Prefix) string {
	multicast := "224.0.0.0/4"
	if family == iptables.IPv6 {
		multicast = "ff00::/8"
	}
	var b strings.Builder
	fmt.Fprintf(&b, ":%s - [0:0]\n", postroutingChain)
	for _, pods := range ofFamily(podCIDRs, family) {
		for _, cluster := range append(ofFamily(clusterCIDRs, family), pods) {
			fmt.Fprintf(&b, "-A %s -s %s -d %s -j RETURN\n", postroutingChain, pods, cluster)
		}
		fmt.Fprintf(&b, "-A %s -s %s ! -d %s -j MASQUERADE --random-fully\n", postroutingChain, pods, multicast)
	}
	return b.String()
}

// portRules returns the chains of host ports for the given pods, and removes the chains in old that they do not
// need. It returns the names of the pods' chains too.
func portRules(family iptables.Family, pods []*attachment, old map[string]bool) (string, map[string]bool) {
	var chains, rules, removals strings.Builder
	fmt.Fprintf(&chains, ":%s - [0:0]\n:%s - [0:0]\n:%s - [0:0]\n", hostPortDNATChain, hostPortSetMarkChain, hostPortMasqChain)
	fmt.Fprintf(&rules, "-A %s -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark %s\n", hostPortSetMarkChain, hostPortMark)
	fmt.Fprintf(&rules, "-A %s -m mark --mark %s -j MASQUERADE\n", hostPortMasqChain, hostPortMark)
	current := map[string]bool{}
	var specific, general []string // entries for one host address go before those for all
	for _, pod := range pods {
		for _, addr := range pod.Addresses {
			if familyOf(addr) != family {
				continue
			}
			chain := podPortsChain(pod)
			if !current[chain] {
				current[chain] = true
				fmt.Fprintf(&chains, ":%s - [0:0]\n", chain)
			}
			for _, port := range pod.Ports {
				match, one, ok := hostMatch(family, port)
				if !ok {
					continue
				}
				entry := fmt.Sprintf("-A %s %s -m comment --comment \"dnat id: %s\" -j %s\n", hostPortDNATChain, match, pod.ContainerID, chain)
				if one {
					specific = append(specific, entry)
				} else {
					general = append(general, entry)
				}
				// The pod itself, and the node through loopback, must not see the answer come from elsewhere.
				fmt.Fprintf(&rules, "-A %s -s %s %s -j %s\n", chain, netip.PrefixFrom(addr, addr.BitLen()), match, hostPortSetMarkChain)
				if family == iptables.IPv4 {
					fmt.Fprintf(&rules, "-A %s -s 127.0.0.1/32 %s -j %s\n", chain, match, hostPortSetMarkChain)
				}
				fmt.Fprintf(&rules, "-A %s %s -j DNAT --to-destination %s\n", chain, match, netip.AddrPortFrom(addr, port.ContainerPort))
			}
		}
	}
	for chain := range old {
		if !current[chain] {
			fmt.Fprintf(&chains, ":%s - [0:0]\n", chain)
			fmt.Fprintf(&removals, "-X %s\n", chain)
		}
	}
	return chains.String() + rules.String() + strings.Join(specific, "") + strings.Join(general, "") + removals.String(), current
}

// hostMatch returns the match of a mapping's host side, whether it is for one address only, and whether the mapping is
// for the family at all.
func hostMatch(family iptables.Family, port portMapping) (match string, one, ok bool) {
	match = fmt.Sprintf("-p %s -m %s --dport %d", port.Protocol, port.Protocol, port.HostPort)
	if port.HostIP == "" {
		return match, false, true
	}
	host, err := netip.ParseAddr(port.HostIP)
	if err != nil || familyOf(host) != family {
		return "", false, false
	}
	if host.IsUnspecified() {
		return match, false, true
	}
	return fmt.Sprintf("-d %s %s", netip.PrefixFrom(host, host.BitLen()), match), true, true
}

func podPortsChain(pod *attachment) string {
	sum := sha256.Sum256([]byte(pod.key()))
	return podPortsPrefix + hex.EncodeToString(sum[:10])
}

func ofFamily(prefixes []netip.Prefix, family iptables.Family) []netip.Prefix {
	var list []netip.Prefix
	for _, prefix := range prefixes {
		if familyOf(prefix.Addr()) == family {
			list = append(list, prefix)
		}
	}
	return list
}
