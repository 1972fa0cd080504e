// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/network/iptables"
	"github.com/skiff-k8s/skiff/network/nfacct"
)

// tables is the part of iptables.Runner that the backend needs.
type tables interface {
	Save(ctx context.Context, table iptables.Table) ([]byte, error)
	Leads(ctx context.Context, table iptables.Table, from, to string) (bool, error)
	Restore(ctx context.Context, rules []byte) error
	RemoveChains(ctx context.Context, table iptables.Table, ours func(chain string) bool) error
}

// iptablesBackend keeps the rules of one family in iptables. It remembers what it wrote, so that each time it
// writes only chains whose rules differ: text of shared chains, a hash for each of the others.
type iptablesBackend struct {
	tables   tables
	settings settings
	sctp     support
	// counters makes a counter of packets that rules may name; nil if there shall be none.
	counters func(name string) error

	seed     maphash.Seed
	services map[types.NamespacedName]*written
	order    []types.NamespacedName // keys of services, sorted: the order of rules in shared chains
	total    int                    // endpoints of all services
	rules    ruleCounts             // of all services, and of none
	wrote    ruleCounts             // in the last transaction
}

// ruleCounts are numbers of rules by table.
type ruleCounts struct{ filter, nat int }

// in returns the number for one of the two tables.
func (c *ruleCounts) in(table iptables.Table) *int {
	if table == iptables.NAT {
		return &c.nat
	}
	return &c.filter
}

// plus returns the numbers when some rules have come and some have gone.
func (c ruleCounts) plus(come, gone ruleCounts) ruleCounts {
	return ruleCounts{c.filter + come.filter - gone.filter, c.nat + come.nat - gone.nat}
}

// rulesIn counts the rules that a transaction writes.
func rulesIn(input []byte) ruleCounts {
	var counts ruleCounts
	var table iptables.Table
	for line := range bytes.Lines(input) {
		switch {
		case line[0] == '*':
			table = iptables.Table(bytes.TrimSpace(line[1:]))
		case bytes.HasPrefix(line, []byte("-A")), bytes.HasPrefix(line, []byte("-I")):
			*counts.in(table)++
		}
	}
	return counts
}

// written is what is in the kernel for one service.
type written struct {
	shared    [numShared]string
	chains    map[string]uint64 // hash of the rules, by name
	endpoints int
	rules     ruleCounts
}

func newIPTablesBackend(t tables, s settings) *iptablesBackend {
	return &iptablesBackend{tables: t, settings: s, seed: maphash.MakeSeed(), services: map[types.NamespacedName]*written{}}
}

// support tells what is known about something that not every kernel has.
type support int

const (
	unknown support = iota
	supported
	unsupported
)

// settleSCTP leaves the SCTP ports of services out if the kernel cannot match them: one such rule would make
// the kernel refuse the whole transaction. It asks the kernel when the first such port comes, and then at most
// once per replace.
func (b *iptablesBackend) settleSCTP(ctx context.Context, services map[types.NamespacedName][]servicePort) (map[types.NamespacedName][]servicePort, error) {
	isSCTP := func(p servicePort) bool { return p.protocol == "sctp" }
	var with []types.NamespacedName
	for name, ports := range services {
		if slices.ContainsFunc(ports, isSCTP) {
			with = append(with, name)
		}
	}
	if len(with) == 0 || b.sctp == supported {
		return services, nil
	}
	if b.sctp == unknown {
		if err := b.probeSCTP(ctx); err != nil {
			return nil, err
		}
	}
	if b.sctp == supported {
		return services, nil
	}
	rest := maps.Clone(services)
	for _, name := range with {
		rest[name] = slices.DeleteFunc(slices.Clone(services[name]), isSCTP)
		klog.FromContext(ctx).Info("SCTP ports of a Service do not work here: the kernel has no SCTP match (load the module xt_sctp)", "service", name)
	}
	return rest, nil
}

// probeSCTP tries a rule for SCTP. Only if the same succeeds for TCP is a failure about SCTP.
func (b *iptablesBackend) probeSCTP(ctx context.Context) error {
	b.sctp = supported
	if err := b.probe(ctx, "-m sctp -p sctp --dport 1 -j RETURN"); err != nil {
		if err := b.probe(ctx, "-m tcp -p tcp --dport 1 -j RETURN"); err != nil {
			b.sctp = unknown
			return fmt.Errorf("see whether the kernel matches SCTP: %w", err)
		}
		b.sctp = unsupported
	}
	return b.probe(ctx)
}

// probe tries rules in a chain that nothing leads to, instead of those that are there.
func (b *iptablesBackend) probe(ctx context.Context, rules ...string) error {
	input := "*nat\n:" + canaryChain + " - [0:0]\n"
	for _, rule := range rules {
		input += "-A " + canaryChain + " " + rule + "\n"
	}
	return b.tables.Restore(ctx, []byte(input+"COMMIT\n"))
}

// countsPackets tells whether rules can add to the counters. It leaves rules that replace removes.
func (b *iptablesBackend) countsPackets(ctx context.Context) bool {
	if b.counters == nil {
		return false
	}
	var rules []string
	var errs []error
	for _, name := range packetCounters {
		errs = append(errs, b.counters(name))
		rules = append(rules, "-m nfacct --nfacct-name "+name)
	}
	err := errors.Join(errs...)
	if err == nil {
		err = b.probe(ctx, rules...)
	}
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Packets are not counted", "err", err)
	}
	return err == nil
}

// update brings the rules of the changed services in; a service without ports is gone.
func (b *iptablesBackend) update(ctx context.Context, changed map[types.NamespacedName][]servicePort) error {
	changed, err := b.settleSCTP(ctx, changed)
	if err != nil {
		return err
	}
	plan := b.plan(changed, b.total > largeCluster)
	if plan.empty() {
		return nil
	}
	input := plan.input(b, nil, nil)
	b.wrote = rulesIn(input)
	return b.tables.Restore(ctx, input)
}

// replace makes the rules those of the given services, whatever is there now.
func (b *iptablesBackend) replace(ctx context.Context, all map[types.NamespacedName][]servicePort, s settings) error {
	if b.sctp == unsupported {
		b.sctp = unknown // the module may have been loaded since
	}
	all, err := b.settleSCTP(ctx, all)
	if err != nil {
		return err
	}
	s.count = b.countsPackets(ctx)
	filter, err := b.tables.Save(ctx, iptables.Filter)
	if err != nil {
		return err
	}
	nat, err := b.tables.Save(ctx, iptables.NAT)
	if err != nil {
		return err
	}
	b.settings, b.services, b.order, b.total, b.rules = s, map[types.NamespacedName]*written{}, nil, 0, fixedRules(s)
	total := 0
	for _, ports := range all {
		total += countEndpoints(ports)
	}
	plan := b.plan(all, total > largeCluster)
	for i := range plan.dirty {
		plan.dirty[i] = true
	}
	kept := map[string]bool{}
	for _, w := range b.services {
		for name := range w.chains {
			kept[name] = true
		}
	}
	for name := range iptables.Chains(nat) {
		if isServiceChain(name) && !kept[name] {
			plan.remove = append(plan.remove, name)
		}
	}
	plan.fixedNAT, plan.fixedFilter = fixedNAT(), fixedFilter(b.settings)
	input := plan.input(b, filter, nat)
	b.wrote = rulesIn(input)
	return b.tables.Restore(ctx, input)
}

// plan is a transaction being made.
type plan struct {
	dirty                 [numShared]bool     // shared chains to write anew
	in, out               [numShared][]string // rules that come into and go out of the others
	write                 []chain
	remove                []string
	fixedNAT, fixedFilter []chain
}

func (p *plan) empty() bool {
	for i := range p.dirty {
		if p.dirty[i] || len(p.in[i]) > 0 || len(p.out[i]) > 0 {
			return false
		}
	}
	return len(p.write) == 0 && len(p.remove) == 0
}

// plan renders the changed services and remembers them as written. If the transaction then fails, the caller
// must replace everything.
func (b *iptablesBackend) plan(changed map[types.NamespacedName][]servicePort, terse bool) *plan {
	p := &plan{}
	s := b.settings
	s.terse = terse
	for _, name := range slices.SortedFunc(maps.Keys(changed), compareNames) {
		old := b.services[name]
		ports := changed[name]
		if len(ports) == 0 {
			if old != nil {
				p.diff(old, &written{})
				b.total -= old.endpoints
				b.rules = b.rules.plus(ruleCounts{}, old.rules)
				b.forget(name)
			}
			continue
		}
		set := rulesFor(ports, s)
		now := &written{shared: set.shared, chains: make(map[string]uint64, len(set.chains)), endpoints: countEndpoints(ports), rules: set.count()}
		for _, c := range set.chains {
			hash := maphash.String(b.seed, c.rules)
			now.chains[c.name] = hash
			if old == nil || old.chains[c.name] != hash {
				p.write = append(p.write, c)
			}
		}
		if old == nil {
			old = &written{}
			b.remember(name)
		}
		p.diff(old, now)
		b.services[name] = now
		b.total += now.endpoints - old.endpoints
		b.rules = b.rules.plus(now.rules, old.rules)
	}
	for i := range p.dirty {
		p.dirty[i] = len(p.out[i]) > maxOut || len(p.in[i]) > len(b.order)/2
	}
	return p
}

// maxOut is how many rules are taken out of a shared chain one by one. With iptables-nft each takes about a fifth of what
// it takes to write the chain anew, for the rule is looked for among all; to put one in takes next to nothing.
const maxOut = 4

func countEndpoints(ports []servicePort) int {
	n := 0
	for i := range ports {
		n += len(ports[i].reachable)
	}
	return n
}

// diff notes the rules of shared chains that change and the own chains that go.
func (p *plan) diff(old, now *written) {
	for i := range old.shared {
		if old.shared[i] == now.shared[i] {
			continue
		}
		before, after := strings.SplitAfter(old.shared[i], "\n"), strings.SplitAfter(now.shared[i], "\n")
		p.out[i] = append(p.out[i], linesWithout(before, after)...)
		p.in[i] = append(p.in[i], linesWithout(after, before)...)
	}
	for name := range old.chains {
		if _, kept := now.chains[name]; !kept {
			p.remove = append(p.remove, name)
		}
	}
}

// linesWithout returns the lines that are not among others. What a service has in a shared chain is few.
func linesWithout(lines, others []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(others, line) })
}

func (b *iptablesBackend) remember(name types.NamespacedName) {
	i, _ := slices.BinarySearchFunc(b.order, name, compareNames)
	b.order = slices.Insert(b.order, i, name)
}

func (b *iptablesBackend) forget(name types.NamespacedName) {
	delete(b.services, name)
	if i, found := slices.BinarySearchFunc(b.order, name, compareNames); found {
		b.order = slices.Delete(b.order, i, i+1)
	}
}

func compareNames(a, b types.NamespacedName) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// input returns the transaction for iptables-restore. With saved tables it also adds the jumps that they lack.
func (p *plan) input(b *iptablesBackend, savedFilter, savedNAT []byte) []byte {
	var out bytes.Buffer
	p.table(&out, b, iptables.Filter, p.fixedFilter, savedFilter)
	// Chains of services first, in transactions of their own: nothing leads to the new ones yet. The time that
	// iptables-nft-restore takes grows with the square of the chains in a transaction.
	first := p.fixedNAT
	rest := p.write
	for len(rest) > maxChains {
		end := maxChains
		for end < len(rest) && rest[end].service == rest[end-1].service {
			end++ // the chains of a service lead to each other
		}
		writeChains(&out, append(slices.Clone(first), rest[:end]...))
		first, rest = nil, rest[end:]
	}
	p.table(&out, b, iptables.NAT, append(slices.Clone(first), rest...), savedNAT)
	if len(p.fixedNAT) > 0 {
		out.WriteString("*mangle\n:" + canaryChain + " - [0:0]\nCOMMIT\n")
	}
	return out.Bytes()
}

// maxChains bounds the chains of services in one transaction.
const maxChains = 1000

// writeChains writes a transaction of chains in the nat table.
func writeChains(out *bytes.Buffer, chains []chain) {
	out.WriteString("*" + string(iptables.NAT) + "\n")
	for _, c := range chains {
		out.WriteString(":" + c.name + " - [0:0]\n")
	}
	for _, c := range chains {
		out.WriteString(c.rules)
	}
	out.WriteString("COMMIT\n")
}

// table writes one table's part: first the names of all chains, which empties them, then their rules; what is removed
// goes last, when nothing leads to it any more.
func (p *plan) table(out *bytes.Buffer, b *iptablesBackend, table iptables.Table, chains []chain, saved []byte) {
	start := out.Len()
	out.WriteString("*" + string(table) + "\n")
	body := out.Len()
	var dirty []shared
	for which, s := range sharedChains {
		if s.table == table && p.dirty[which] {
			dirty = append(dirty, shared(which))
			out.WriteString(":" + s.chain + " - [0:0]\n")
		}
	}
	for _, c := range chains {
		out.WriteString(":" + c.name + " - [0:0]\n")
	}
	if table == iptables.NAT {
		for _, name := range p.remove {
			out.WriteString(":" + name + " - [0:0]\n")
		}
	}
	for _, which := range dirty {
		for _, name := range b.order {
			out.WriteString(b.services[name].shared[which])
		}
		out.WriteString(lastRules(which, b.settings))
	}
	for _, c := range chains {
		out.WriteString(c.rules)
	}
	p.edit(out, table)
	if saved != nil {
		for _, j := range jumps {
			if j.table == table && len(iptables.Jumps(saved, j.from, j.to)) == 0 {
				out.WriteString("-I " + j.from + j.match + " -j " + j.to + "\n")
			}
		}
	}
	if table == iptables.NAT {
		for _, name := range p.remove {
			out.WriteString("-X " + name + "\n")
		}
	}
	if out.Len() == body {
		out.Truncate(start)
		return
	}
	out.WriteString("COMMIT\n")
}

// edit writes the changes of shared chains that stay. New rules come first, where they are put the quickest: of the order in
// these chains only the end matters, and that of the rules of one Service.
func (p *plan) edit(out *bytes.Buffer, table iptables.Table) {
	for which, s := range sharedChains {
		if s.table != table || p.dirty[which] {
			continue
		}
		for _, rule := range slices.Backward(p.in[which]) {
			out.WriteString("-I" + strings.TrimPrefix(rule, "-A"))
		}
		for _, rule := range p.out[which] {
			out.WriteString("-D" + strings.TrimPrefix(rule, "-A"))
		}
	}
}

// intact tells whether the rules are still there: who flushes a table takes the jumps to ours with it.
func (b *iptablesBackend) intact(ctx context.Context) (bool, error) {
	nat, err := b.tables.Leads(ctx, iptables.NAT, "PREROUTING", servicesChain)
	if !nat || err != nil {
		return false, err
	}
	return b.tables.Leads(ctx, iptables.Filter, "FORWARD", forwardChain)
}

// cleanup removes all chains of a Kubernetes proxy.
func (b *iptablesBackend) cleanup(ctx context.Context) error {
	own := map[iptables.Table][]string{
		iptables.NAT:    {servicesChain, nodePortsChain, postroutingChain, markMasqChain, canaryChain},
		iptables.Filter: {servicesChain, externalServicesChain, nodePortsChain, forwardChain, proxyFirewallChain, firewallChain, canaryChain},
		iptables.Mangle: {canaryChain},
	}
	for table, chains := range own {
		ours := func(chain string) bool {
			return slices.Contains(chains, chain) || table == iptables.NAT && isServiceChain(chain)
		}
		if err := b.tables.RemoveChains(ctx, table, ours); err != nil {
			return err
		}
	}
	return nil
}

// removeCounters removes the counters of both families, when no rule names them any more.
func removeCounters(ctx context.Context) {
	for _, name := range packetCounters {
		if err := nfacct.Delete(name); err != nil {
			klog.FromContext(ctx).V(2).Info("Left a packet counter", "err", err) // e.g. not in this kernel
		}
	}
}

// setRouteLocalnet lets connections to 127.0.0.1:nodePort leave for a pod.
func setRouteLocalnet() error {
	const path = "/proc/sys/net/ipv4/conf/all/route_localnet"
	if old, err := os.ReadFile(path); err == nil && string(old) == "1\n" {
		return nil
	}
	return os.WriteFile(path, []byte("1"), 0)
}

// conntrackIsLiberal tells whether conntrack accepts packets out of a connection's window.
func conntrackIsLiberal() bool {
	value, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
	return err == nil && string(value) != "0\n"
}
