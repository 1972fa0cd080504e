// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
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
	shared   *nftService       // by plain ports of all services
	spreads  map[nftSpread]int // those of shared, with how many services use them
	// claims says which services want an element of a map. The first one by name has it.
	claims map[nftKey][]types.NamespacedName
	// unused are empty chains that nothing leads to any more, and that are still there.
	unused map[string]bool
	// sweepFailed is told when they stay; it may be nil.
	sweepFailed func()
}

func newNFTablesBackend(family corev1.IPFamily) *nftablesBackend {
	b := &nftablesBackend{family: knftables.IPv4Family}
	if family == corev1.IPv6Protocol {
		b.family = knftables.IPv6Family
	}
	b.forget()
	return b
}

func (b *nftablesBackend) forget() {
	b.services, b.shared, b.spreads = map[types.NamespacedName]*nftService{}, newNFTService(), map[nftSpread]int{}
	b.claims, b.unused = map[nftKey][]types.NamespacedName{}, map[string]bool{}
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
	if err := b.nft.Run(ctx, tx); err != nil {
		return err
	}
	b.sweep(ctx)
	return nil
}

// replace makes the rules those of the given services, whatever is there now. Only what is not wanted any more is
// deleted: clients keep their endpoints.
func (b *nftablesBackend) replace(ctx context.Context, all map[types.NamespacedName][]servicePort, s settings) error {
	if err := b.open(); err != nil {
		return err
	}
	there := map[string][]string{}
	for _, kind := range []string{"chains", "sets", "maps"} {
		names, err := b.nft.List(ctx, kind)
		if err != nil && !knftables.IsNotFound(err) {
			return fmt.Errorf("list nftables %s: %w", kind, err)
		}
		there[kind] = names
	}
	b.settings = s
	b.forget()
	touched := map[nftKey]string{}
	tx := b.nft.NewTransaction()
	b.ground(tx)
	// In several transactions: nothing leads to new chains before the last. The time that the kernel takes for one grows with
	// the square of the rules in it that spread traffic.
	nothing := tx.NumOperations()
	for names := range slices.Chunk(slices.SortedFunc(maps.Keys(all), compareNames), maxServices) {
		if tx.NumOperations() > nothing {
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
	for _, name := range slices.Sorted(maps.Keys(b.shared.sets)) {
		tx.Flush(&knftables.Map{Name: name})
	}
	b.elements(tx, touched)
	b.drop(tx, b.unwanted(there))
	if err := b.nft.Run(ctx, tx); err != nil {
		return err
	}
	b.sweep(ctx)
	return nil
}

// unwanted returns what there is in the kernel and should not be, by kind.
func (b *nftablesBackend) unwanted(there map[string][]string) leftovers {
	kept := map[string]bool{}
	for _, chain := range nftChains(b.settings) {
		kept[chain.Name] = true
	}
	for name := range b.elementTypes() {
		kept[name] = true
	}
	keep := func(svc *nftService) {
		for name := range svc.chains {
			kept[name] = true
		}
		for name := range svc.sets {
			kept[name] = true
		}
	}
	keep(b.shared)
	for _, svc := range b.services {
		keep(svc)
	}
	rest := func(kind string) []string {
		return slices.Sorted(slices.Values(slices.DeleteFunc(there[kind], func(name string) bool { return kept[name] })))
	}
	return leftovers{chains: rest("chains"), sets: rest("sets"), maps: rest("maps")}
}

// Maps and sets, and chains that no service changes.
const (
	nftServiceIPs    = "service-ips"           // addresses and ports of services
	nftNodePorts     = "service-nodeports"     // node ports
	nftNoEndpoints   = "no-endpoint-services"  // addresses and ports that are refused
	nftNoEndpointsNP = "no-endpoint-nodeports" // node ports that are
	nftFirewall      = "firewall-ips"          // load balancers with source ranges
	nftClusterIPs    = "cluster-ips"           // cluster IPs, whatever the port
	nftHairpin       = "hairpin-connections"   // from an endpoint to itself
	nftMark          = "mark-for-masquerade"
	nftReject        = "reject-chain"

	// Endpoints of plain ports by what was sent to: a map for the first ones, one for the second ones, and so on.
	nftEndpoints         = "endpoints-"
	nftNodePortEndpoints = "nodeport-endpoints-"
)

// nftPort is the part of a map's key that is not an address.
const nftPort = "meta l4proto . th dport"

// address is the type of one.
func (b *nftablesBackend) address() string {
	if b.family == knftables.IPv6Family {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// elementTypes returns the maps and sets that are always there, with the types of their elements; a set's has no value.
func (b *nftablesBackend) elementTypes() map[string]string {
	ip, port := b.address(), "inet_proto . inet_service"
	return map[string]string{
		nftServiceIPs: ip + " . " + port + " : verdict", nftNoEndpoints: ip + " . " + port + " : verdict", nftFirewall: ip + " . " + port + " : verdict",
		nftNodePorts: port + " : verdict", nftNoEndpointsNP: port + " : verdict",
		nftClusterIPs: ip, nftHairpin: ip + " . " + ip + " . " + port,
	}
}

// maxServices bounds the services in one transaction.
const maxServices = 200

// ground adds what chains of services stand on.
func (b *nftablesBackend) ground(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("rules for Services")})
	tx.Add(&knftables.Chain{Name: nftMark})
}

// base writes what no service changes, over an earlier run's, and empties the maps.
func (b *nftablesBackend) base(tx *knftables.Transaction) {
	for name, kind := range b.elementTypes() {
		if strings.Contains(kind, ":") {
			tx.Add(&knftables.Map{Name: name, Type: kind})
			tx.Flush(&knftables.Map{Name: name})
		} else {
			tx.Add(&knftables.Set{Name: name, Type: kind})
			tx.Flush(&knftables.Set{Name: name})
		}
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
		return strings.NewReplacer("ip saddr", "ip6 saddr", "ip daddr", "ip6 daddr", "ip addr", "ip6 addr").Replace(rule)
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
	var services []string
	switch { // who comes from outside the pod network might be answered past this node
	case s.masqueradeAll:
		services = append(services, "ip daddr @"+nftClusterIPs+" jump "+nftMark)
	case s.clusterCIDR.IsValid():
		services = append(services, fmt.Sprintf("ip daddr @%s ip saddr != %s jump %s", nftClusterIPs, s.clusterCIDR, nftMark))
	}
	services = append(services, "ip daddr . "+nftPort+" vmap @"+nftServiceIPs)
	refusals := []string{"ip daddr . " + nftPort + " vmap @" + nftNoEndpoints}
	for _, match := range toNode {
		services = append(services, match+" "+nftPort+" vmap @"+nftNodePorts)
		refusals = append(refusals, match+" "+nftPort+" vmap @"+nftNoEndpointsNP)
	}
	forward := []string{"ct state new jump refuse", "ct state new jump refuse-ports"}
	if s.dropInvalid {
		forward = append([]string{"ct state invalid drop"}, forward...)
	}
	const beforeDNAT = knftables.DNATPriority + "-10"
	return []nftChain{
		named("services", services...),
		named("refuse", refusals...),
		named("refuse-ports", "ip daddr @"+nftClusterIPs+" reject"), // that a service does not have
		named("firewall-check", "ip daddr . "+nftPort+" vmap @"+nftFirewall),
		named(nftMark, "mark set mark or "+masqueradeMark),
		named(nftReject, "reject"),
		base("nat-prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority, "jump services"),
		base("nat-output", knftables.NATType, knftables.OutputHook, knftables.DNATPriority, "jump services"),
		base("nat-postrouting", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority,
			"mark and "+masqueradeMark+" != 0 mark set mark xor "+masqueradeMark+" masquerade fully-random",
			// what comes back to where it came from would be answered past us
			"ct status dnat ip saddr . ip daddr . "+nftPort+" @"+nftHairpin+" masquerade fully-random"),
		base("firewall-prerouting", knftables.FilterType, knftables.PreroutingHook, beforeDNAT, "ct state new jump firewall-check"),
		base("firewall-output", knftables.FilterType, knftables.OutputHook, beforeDNAT, "ct state new jump firewall-check"),
		base("filter-input", knftables.FilterType, knftables.InputHook, knftables.FilterPriority, "ct state new jump refuse"),
		base("filter-forward", knftables.FilterType, knftables.ForwardHook, knftables.FilterPriority, forward...),
		base("filter-output", knftables.FilterType, knftables.OutputHook, knftables.FilterPriority, "ct state new jump refuse", "ct state new jump refuse-ports"),
	}
}

// change adds to a transaction what makes the rules those of the changed services, and remembers it as written. If
// the transaction then fails, the caller must replace everything.
func (b *nftablesBackend) change(tx *knftables.Transaction, changed map[types.NamespacedName][]servicePort) {
	touched := map[nftKey]string{}
	rest := b.chains(tx, changed, touched)
	b.elements(tx, touched)
	b.drop(tx, rest)
}

// leftovers are names of what is to go.
type leftovers struct{ chains, sets, maps []string }

// chains adds to a transaction the sets and chains of the changed services. It notes the elements that may change with their values so
// far, and returns what is to go when these have.
func (b *nftablesBackend) chains(tx *knftables.Transaction, changed map[types.NamespacedName][]servicePort, touched map[nftKey]string) leftovers {
	var rest leftovers
	before := len(b.spreads)
	sameSpreads := true
	names := slices.SortedFunc(maps.Keys(changed), compareNames)
	now := make([]*nftService, len(names))
	for i, name := range names {
		now[i] = nftRules(changed[name], b.settings)
		for s := range now[i].spreads {
			sameSpreads = sameSpreads && b.spreads[s] > 0
			b.spreads[s]++
		}
	}
	for _, name := range names {
		old := b.services[name]
		if old == nil {
			continue
		}
		for s := range old.spreads {
			if b.spreads[s]--; b.spreads[s] == 0 {
				delete(b.spreads, s)
			}
		}
	}
	if !sameSpreads || len(b.spreads) != before {
		shared := nftShared(b.spreads)
		b.write(tx, b.shared, shared, &rest)
		b.shared = shared
	}
	for i, name := range names {
		old := b.services[name]
		if old == nil {
			old = newNFTService()
		}
		b.write(tx, old, now[i], &rest)
		b.claim(name, old.elements, now[i].elements, touched)
		if len(changed[name]) == 0 {
			delete(b.services, name)
		} else {
			b.services[name] = now[i]
		}
	}
	return rest
}

// write adds to a transaction the sets and chains that are different now.
func (b *nftablesBackend) write(tx *knftables.Transaction, old, now *nftService, rest *leftovers) {
	for _, set := range without(now.sets, old.sets) {
		tx.Add(b.set(set, now.sets[set]))
	}
	for _, set := range without(old.sets, now.sets) {
		if old.sets[set].key == "" {
			rest.sets = append(rest.sets, set)
		} else {
			rest.maps = append(rest.maps, set)
		}
	}
	var different []string
	for _, chain := range slices.Sorted(maps.Keys(now.chains)) {
		if now.chains[chain] != old.chains[chain] {
			different = append(different, chain)
			delete(b.unused, chain)
			tx.Add(&knftables.Chain{Name: chain})
		}
	}
	for _, chain := range different { // now that all are there
		tx.Flush(&knftables.Chain{Name: chain})
		for rule := range strings.Lines(now.chains[chain]) {
			tx.Add(&knftables.Rule{Chain: chain, Rule: b.text(strings.TrimSuffix(rule, "\n"))})
		}
	}
	rest.chains = append(rest.chains, without(old.chains, now.chains)...)
}

// without returns the keys of a that b does not have, sorted.
func without[V any](a, b map[string]V) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(a)), func(key string) bool { _, there := b[key]; return there })
}

func (b *nftablesBackend) set(name string, s nftSet) knftables.Object {
	if s.key == "" {
		timeout := secondsOf(s.seconds)
		return &knftables.Set{Name: name, Type: b.address(), Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag}, Timeout: &timeout}
	}
	key := "inet_proto . inet_service"
	if s.key != nftPort {
		key = b.address() + " . " + key
	}
	return &knftables.Map{Name: name, Type: key + " : " + b.address() + " . inet_service"}
}

// claim changes which elements a service wants, and notes them with the values that they have had.
func (b *nftablesBackend) claim(name types.NamespacedName, old, now map[nftKey]string, touched map[nftKey]string) {
	note := func(key nftKey) {
		if _, noted := touched[key]; !noted {
			touched[key] = b.value(key)
		}
	}
	for key, value := range old {
		if now[key] == value {
			continue
		}
		note(key)
		if _, kept := now[key]; kept {
			continue
		}
		claims := b.claims[key]
		if i, there := slices.BinarySearchFunc(claims, name, compareNames); there {
			claims = slices.Delete(claims, i, i+1)
		}
		if b.claims[key] = claims; len(claims) == 0 {
			delete(b.claims, key)
		}
	}
	for key := range now {
		if _, had := old[key]; had {
			continue
		}
		note(key)
		i, _ := slices.BinarySearchFunc(b.claims[key], name, compareNames)
		b.claims[key] = slices.Insert(b.claims[key], i, name)
	}
}

// value returns what an element should be; nothing if nobody wants it.
func (b *nftablesBackend) value(key nftKey) string {
	claims := b.claims[key]
	if len(claims) == 0 {
		return ""
	}
	return b.services[claims[0]].elements[key]
}

// elements writes those of the noted elements whose value changes.
func (b *nftablesBackend) elements(tx *knftables.Transaction, touched map[nftKey]string) {
	var add []*knftables.Element
	for _, key := range slices.SortedFunc(maps.Keys(touched), func(a, b nftKey) int {
		return cmp.Or(strings.Compare(a.in, b.in), strings.Compare(a.key, b.key))
	}) {
		have, want := touched[key], b.value(key)
		if have == want {
			continue
		}
		if have != "" {
			tx.Delete(element(key, have))
		}
		if want != "" {
			add = append(add, element(key, want))
		}
	}
	for _, e := range add {
		tx.Add(e)
	}
}

func element(key nftKey, value string) *knftables.Element {
	e := &knftables.Element{Key: strings.Split(key.key, " . ")}
	if value == inSet {
		e.Set = key.in
	} else {
		e.Map, e.Value = key.in, strings.Split(value, " . ")
	}
	return e
}

// drop empties chains to which nothing leads any more, and deletes sets and maps that no chain names. The chains are then for sweep.
func (b *nftablesBackend) drop(tx *knftables.Transaction, rest leftovers) {
	for _, name := range rest.chains {
		tx.Flush(&knftables.Chain{Name: name})
		b.unused[name] = true
	}
	for _, name := range rest.sets {
		tx.Delete(&knftables.Set{Name: name})
	}
	for _, name := range rest.maps {
		tx.Delete(&knftables.Map{Name: name})
	}
}

// sweep deletes the chains that are not used. A kernel before 6.2 does not let go of one until some time after the map element that led to
// it; then it goes with a later change.
func (b *nftablesBackend) sweep(ctx context.Context) {
	if len(b.unused) == 0 {
		return
	}
	tx := b.nft.NewTransaction()
	for _, name := range slices.Sorted(maps.Keys(b.unused)) {
		tx.Delete(&knftables.Chain{Name: name})
	}
	if err := b.nft.Run(ctx, tx); err != nil {
		if b.sweepFailed != nil {
			b.sweepFailed()
		}
		klog.FromContext(ctx).V(2).Info("Left unused chains for later", "chains", len(b.unused), "err", err)
		return
	}
	clear(b.unused)
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
