// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// nftTable is upstream's name for it.
const nftTable = "kube-proxy"

// nftablesBackend keeps the rules of one family in nftables (nftrules.go). They mean what those for iptables mean; but
// addresses are looked up in maps, so a packet's way does not get longer with the number of Services. It remembers
// what it wrote, and writes only what differs.
type nftablesBackend struct {
	nft    knftables.Interface // nil until the first use: then the command nft is needed
	family knftables.Family

	settings settings
	services map[types.NamespacedName]*nftService
	// claims says which services want an element of a map. The first one by name has it.
	claims  map[nftKey]map[types.NamespacedName]string
	written map[nftKey]string
}

// nftService is what is in the kernel for one service.
type nftService struct {
	chains   map[string]string // rules by chain
	sets     map[string]int    // sets of clients with affinity, and for how many seconds
	elements map[nftKey]string // verdicts
}

// nftKey is an element of a map.
type nftKey struct{ in, key string }

func newNFTablesBackend(family corev1.IPFamily) *nftablesBackend {
	b := &nftablesBackend{family: knftables.IPv4Family}
	if family == corev1.IPv6Protocol {
		b.family = knftables.IPv6Family
	}
	b.forget()
	return b
}

func (b *nftablesBackend) forget() {
	b.services = map[types.NamespacedName]*nftService{}
	b.claims, b.written = map[nftKey]map[types.NamespacedName]string{}, map[nftKey]string{}
}

func (b *nftablesBackend) open() error {
	if b.nft != nil {
		return nil
	}
	nft, err := knftables.New(b.family, nftTable)
	if err != nil {
		return fmt.Errorf("use nftables (the command nft must be there, and a kernel of 5.13 or later): %w", err)
	}
	b.nft = nft
	return nil
}

// update brings the rules of the changed services in; a service without ports is gone.
func (b *nftablesBackend) update(ctx context.Context, changed map[types.NamespacedName][]servicePort) error {
	tx := b.nft.NewTransaction()
	b.change(tx, changed)
	if tx.NumOperations() == 0 {
		return nil
	}
	return b.nft.Run(ctx, tx)
}

// replace makes the rules those of the given services, whatever is there now. Only what is not wanted any more is
// deleted: clients keep their endpoints.
func (b *nftablesBackend) replace(ctx context.Context, all map[types.NamespacedName][]servicePort, s settings) error {
	if err := b.open(); err != nil {
		return err
	}
	chains, err := b.list(ctx, "chains")
	if err != nil {
		return err
	}
	sets, err := b.list(ctx, "sets")
	if err != nil {
		return err
	}
	b.settings = s
	b.forget()
	touched := map[nftKey]bool{}
	tx := b.nft.NewTransaction()
	b.ground(tx)
	// In several transactions: nothing leads to new chains before the last. The time that the kernel takes for one grows with
	// the square of the rules in it that spread traffic.
	chunks := 0
	for names := range slices.Chunk(slices.SortedFunc(maps.Keys(all), compareNames), maxServices) {
		if chunks++; chunks > 1 {
			if err := b.nft.Run(ctx, tx); err != nil {
				return err
			}
			tx = b.nft.NewTransaction()
			b.ground(tx)
		}
		some := make(map[types.NamespacedName][]servicePort, len(names))
		for _, name := range names {
			some[name] = all[name]
		}
		b.chains(tx, some, touched)
	}
	b.base(tx)
	b.elements(tx, touched)
	kept := map[string]bool{}
	for _, chain := range nftChains(s) {
		kept[chain.Name] = true
	}
	for _, svc := range b.services {
		for name := range svc.chains {
			kept[name] = true
		}
		for name := range svc.sets {
			kept[name] = true
		}
	}
	isKept := func(name string) bool { return kept[name] }
	b.drop(tx, slices.DeleteFunc(chains, isKept), slices.DeleteFunc(sets, isKept))
	return b.nft.Run(ctx, tx)
}

func (b *nftablesBackend) list(ctx context.Context, kind string) ([]string, error) {
	names, err := b.nft.List(ctx, kind)
	if err != nil && !knftables.IsNotFound(err) {
		return nil, fmt.Errorf("list nftables %s: %w", kind, err)
	}
	slices.Sort(names)
	return names, nil
}

// Maps, and chains that no service changes.
const (
	nftServiceIPs    = "service-ips"           // addresses and ports of services
	nftNodePorts     = "service-nodeports"     // node ports
	nftNoEndpoints   = "no-endpoint-services"  // addresses and ports that are refused
	nftNoEndpointsNP = "no-endpoint-nodeports" // node ports that are
	nftFirewall      = "firewall-ips"          // load balancers with source ranges
	nftMark          = "mark-for-masquerade"
	nftReject        = "reject-chain"
)

// nftPort is the part of a map's key that is not an address.
const nftPort = "meta l4proto . th dport"

// maxServices bounds the services in one transaction.
const maxServices = 200

// ground adds what chains of services stand on.
func (b *nftablesBackend) ground(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("rules for Services")})
	tx.Add(&knftables.Chain{Name: nftMark})
}

// base writes what no service changes, over an earlier run's, and empties the maps.
func (b *nftablesBackend) base(tx *knftables.Transaction) {
	ip := "ipv4_addr"
	if b.family == knftables.IPv6Family {
		ip = "ipv6_addr"
	}
	for name, key := range map[string]string{
		nftServiceIPs: ip + " . inet_proto . inet_service", nftNoEndpoints: ip + " . inet_proto . inet_service",
		nftFirewall: ip + " . inet_proto . inet_service", nftNodePorts: "inet_proto . inet_service", nftNoEndpointsNP: "inet_proto . inet_service",
	} {
		tx.Add(&knftables.Map{Name: name, Type: key + " : verdict"})
		tx.Flush(&knftables.Map{Name: name})
	}
	chains := nftChains(b.settings)
	for i := range chains {
		tx.Add(&chains[i].Chain)
		tx.Flush(&knftables.Chain{Name: chains[i].Name})
	}
	for _, chain := range chains {
		for _, rule := range chain.rules {
			tx.Add(&knftables.Rule{Chain: chain.Name, Rule: b.text(rule)})
		}
	}
}

// text puts the family's words in.
func (b *nftablesBackend) text(rule string) string {
	if b.family == knftables.IPv6Family {
		return strings.ReplaceAll(strings.ReplaceAll(rule, "ip saddr", "ip6 saddr"), "ip daddr", "ip6 daddr")
	}
	return rule
}

type nftChain struct {
	knftables.Chain
	rules []string
}

// nftChains returns the chains that no service changes.
func nftChains(s settings) []nftChain {
	base := func(name string, kind knftables.BaseChainType, hook knftables.BaseChainHook, priority knftables.BaseChainPriority, rules ...string) nftChain {
		return nftChain{knftables.Chain{Name: name, Type: &kind, Hook: &hook, Priority: &priority}, rules}
	}
	named := func(name string, rules ...string) nftChain { return nftChain{knftables.Chain{Name: name}, rules} }

	// Addresses of this node that take node ports. Those at loopback cannot be led to pods here.
	var toNode []string
	if s.allNodePortIPs {
		loopback := "127.0.0.0/8"
		if s.family == corev1.IPv6Protocol {
			loopback = "::1"
		}
		toNode = []string{"fib daddr type local ip daddr != " + loopback}
	} else {
		for _, ip := range s.nodePortIPs {
			if !ip.IsLoopback() {
				toNode = append(toNode, "ip daddr "+ip.String())
			}
		}
	}
	services := []string{"ip daddr . " + nftPort + " vmap @" + nftServiceIPs}
	refusals := []string{"ip daddr . " + nftPort + " vmap @" + nftNoEndpoints}
	for _, match := range toNode {
		services = append(services, match+" "+nftPort+" vmap @"+nftNodePorts)
		refusals = append(refusals, match+" "+nftPort+" vmap @"+nftNoEndpointsNP)
	}
	forward := []string{"ct state new jump refuse"}
	if s.dropInvalid {
		forward = append([]string{"ct state invalid drop"}, forward...)
	}
	const beforeDNAT = knftables.DNATPriority + "-10"
	return []nftChain{
		named("services", services...),
		named("refuse", refusals...),
		named("firewall-check", "ip daddr . "+nftPort+" vmap @"+nftFirewall),
		named(nftMark, "mark set mark or "+masqueradeMark),
		named(nftReject, "reject"),
		base("nat-prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority, "jump services"),
		base("nat-output", knftables.NATType, knftables.OutputHook, knftables.DNATPriority, "jump services"),
		base("nat-postrouting", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority,
			"mark and "+masqueradeMark+" == 0 return", "mark set mark xor "+masqueradeMark, "masquerade fully-random"),
		base("firewall-prerouting", knftables.FilterType, knftables.PreroutingHook, beforeDNAT, "ct state new jump firewall-check"),
		base("firewall-output", knftables.FilterType, knftables.OutputHook, beforeDNAT, "ct state new jump firewall-check"),
		base("filter-input", knftables.FilterType, knftables.InputHook, knftables.FilterPriority, "ct state new jump refuse"),
		base("filter-forward", knftables.FilterType, knftables.ForwardHook, knftables.FilterPriority, forward...),
		base("filter-output", knftables.FilterType, knftables.OutputHook, knftables.FilterPriority, "ct state new jump refuse"),
	}
}

// change adds to a transaction what makes the rules those of the changed services, and remembers it as written. If
// the transaction then fails, the caller must replace everything.
func (b *nftablesBackend) change(tx *knftables.Transaction, changed map[types.NamespacedName][]servicePort) {
	touched := map[nftKey]bool{}
	staleChains, staleSets := b.chains(tx, changed, touched)
	b.elements(tx, touched)
	b.drop(tx, staleChains, staleSets)
}

// chains adds to a transaction the sets and chains of the changed services. It notes the elements that may change, and returns
// what is to go when these have.
func (b *nftablesBackend) chains(tx *knftables.Transaction, changed map[types.NamespacedName][]servicePort, touched map[nftKey]bool) (staleChains, staleSets []string) {
	var write []func()
	for _, name := range slices.SortedFunc(maps.Keys(changed), compareNames) {
		old, now := b.services[name], nftRules(changed[name], b.settings)
		if old == nil {
			old = &nftService{}
		}
		for _, set := range slices.Sorted(maps.Keys(now.sets)) {
			if _, there := old.sets[set]; !there {
				tx.Add(b.clientSet(set, now.sets[set]))
			}
		}
		for _, chain := range slices.Sorted(maps.Keys(now.chains)) {
			rules, before := now.chains[chain], old.chains[chain]
			if rules == before {
				continue
			}
			tx.Add(&knftables.Chain{Name: chain})
			write = append(write, func() {
				tx.Flush(&knftables.Chain{Name: chain})
				for rule := range strings.Lines(rules) {
					tx.Add(&knftables.Rule{Chain: chain, Rule: b.text(strings.TrimSuffix(rule, "\n"))})
				}
			})
		}
		staleChains = append(staleChains, without(old.chains, now.chains)...)
		staleSets = append(staleSets, without(old.sets, now.sets)...)
		b.claim(name, old.elements, now.elements, touched)
		if len(changed[name]) == 0 {
			delete(b.services, name)
		} else {
			b.services[name] = now
		}
	}
	for _, f := range write { // when all chains are there
		f()
	}
	return staleChains, staleSets
}

// without returns the keys of old that now does not have, sorted.
func without[V any](old, now map[string]V) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(old)), func(key string) bool { _, kept := now[key]; return kept })
}

func (b *nftablesBackend) clientSet(name string, seconds int) *knftables.Set {
	kind := "ipv4_addr"
	if b.family == knftables.IPv6Family {
		kind = "ipv6_addr"
	}
	timeout := secondsOf(seconds)
	return &knftables.Set{Name: name, Type: kind, Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag}, Timeout: &timeout}
}

// claim changes which elements a service wants, and notes them.
func (b *nftablesBackend) claim(name types.NamespacedName, old, now map[nftKey]string, touched map[nftKey]bool) {
	for key := range old {
		touched[key] = true
		if delete(b.claims[key], name); len(b.claims[key]) == 0 {
			delete(b.claims, key)
		}
	}
	for key, verdict := range now {
		touched[key] = true
		if b.claims[key] == nil {
			b.claims[key] = map[types.NamespacedName]string{}
		}
		b.claims[key][name] = verdict
	}
}

// elements writes those of the noted elements whose verdict changes.
func (b *nftablesBackend) elements(tx *knftables.Transaction, touched map[nftKey]bool) {
	element := func(key nftKey, verdict string) *knftables.Element {
		return &knftables.Element{Map: key.in, Key: strings.Split(key.key, " . "), Value: []string{verdict}}
	}
	var add []*knftables.Element
	for _, key := range slices.SortedFunc(maps.Keys(touched), func(a, b nftKey) int {
		return strings.Compare(a.in+" "+a.key, b.in+" "+b.key)
	}) {
		want := ""
		if claims := b.claims[key]; len(claims) > 0 {
			want = claims[slices.MinFunc(slices.Collect(maps.Keys(claims)), compareNames)]
		}
		have := b.written[key]
		if have == want {
			continue
		}
		if have != "" {
			tx.Delete(element(key, have))
			delete(b.written, key)
		}
		if want != "" {
			add = append(add, element(key, want))
			b.written[key] = want
		}
	}
	for _, e := range add {
		tx.Add(e)
	}
}

// drop deletes chains and sets to which nothing leads any more.
func (b *nftablesBackend) drop(tx *knftables.Transaction, chains, sets []string) {
	for _, name := range chains {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range chains {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range sets {
		tx.Delete(&knftables.Set{Name: name})
	}
}

// intact tells whether the rules are still there.
func (b *nftablesBackend) intact(ctx context.Context) (bool, error) {
	rules, err := b.nft.ListRules(ctx, "services")
	if knftables.IsNotFound(err) {
		return false, nil
	}
	return len(rules) > 0, err
}

// cleanup removes the table. It does without the command nft, which only who has chosen this mode needs to have.
func (b *nftablesBackend) cleanup(context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	family := nftables.TableFamilyIPv4
	if b.family == knftables.IPv6Family {
		family = nftables.TableFamilyIPv6
	}
	table, err := conn.ListTableOfFamily(nftTable, family)
	if err != nil || table == nil {
		return nil // not there, nor can there be one where there is no nf_tables
	}
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove the nftables table %s: %w", nftTable, err)
	}
	return nil
}
