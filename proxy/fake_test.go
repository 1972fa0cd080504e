// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/skiff-k8s/skiff/network/iptables"
)

// fakeTables are tables in memory. They keep the kernel's rules about chains: a jump leads to a chain that exists, only
// an empty chain that nothing leads to can be deleted, a transaction is applied as a whole or not at all.
type fakeTables struct {
	chains map[iptables.Table]map[string][]string // rules by chain, without "-A chain "
	last   string                                 // the last transaction
	fail   error                                  // answer of the next Restore
	busy   bool                                   // no transaction succeeds
	noSCTP bool                                   // like a kernel without xt_sctp

	noCounters bool // like one without xt_nfacct
}

func newFakeTables() *fakeTables {
	return &fakeTables{chains: map[iptables.Table]map[string][]string{
		iptables.Filter: {"INPUT": nil, "FORWARD": nil, "OUTPUT": nil},
		iptables.NAT:    {"PREROUTING": nil, "INPUT": nil, "OUTPUT": nil, "POSTROUTING": nil},
		iptables.Mangle: {},
	}}
}

var builtin = []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// dump prints a table as iptables-save does, chains sorted.
func (f *fakeTables) dump(table iptables.Table) string {
	var names, rules strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.chains[table])) {
		fmt.Fprintf(&names, ":%s - [0:0]\n", name)
		for _, rule := range f.chains[table][name] {
			fmt.Fprintf(&rules, "-A %s %s\n", name, rule)
		}
	}
	return "*" + string(table) + "\n" + names.String() + rules.String() + "COMMIT\n"
}

func (f *fakeTables) Save(_ context.Context, table iptables.Table) ([]byte, error) {
	return []byte(f.dump(table)), nil
}

func (f *fakeTables) Leads(_ context.Context, table iptables.Table, from, to string) (bool, error) {
	return len(iptables.Jumps([]byte(f.dump(table)), from, to)) > 0, nil
}

func (f *fakeTables) RemoveChains(context.Context, iptables.Table, func(string) bool) error {
	return nil
}

func (f *fakeTables) Restore(_ context.Context, input []byte) error {
	f.last = string(input)
	if err := f.fail; err != nil {
		f.fail = nil
		return err
	}
	if f.busy {
		return errors.New("resource temporarily unavailable")
	}
	if f.noSCTP && strings.Contains(f.last, "-m sctp") {
		return errors.New("Extension sctp revision 0 not supported, missing kernel module?")
	}
	if f.noCounters && strings.Contains(f.last, "-m nfacct") {
		return errors.New("Extension nfacct revision 0 not supported, missing kernel module?")
	}
	next := map[iptables.Table]map[string][]string{}
	for table, chains := range f.chains {
		next[table] = maps.Clone(chains)
	}
	var chains map[string][]string
	for line := range strings.Lines(string(input)) {
		line = strings.TrimSuffix(line, "\n")
		if table, ok := strings.CutPrefix(line, "*"); ok {
			chains = next[iptables.Table(table)]
		} else if line == "COMMIT" {
			if err := checkJumps(chains); err != nil {
				return err
			}
		} else if err := apply(chains, line); err != nil {
			return err
		}
	}
	f.chains = next
	return nil
}

func apply(chains map[string][]string, line string) error {
	if name, ok := strings.CutPrefix(line, ":"); ok {
		name, _, _ = strings.Cut(name, " ")
		chains[name] = nil
		return nil
	}
	action, rest, _ := strings.Cut(line, " ")
	name, rule, _ := strings.Cut(rest, " ")
	rules, exists := chains[name]
	if !exists {
		return fmt.Errorf("%q: no chain %s", line, name)
	}
	switch action {
	case "-A":
		chains[name] = append(slices.Clip(rules), rule)
	case "-I":
		chains[name] = append([]string{rule}, rules...)
	case "-D":
		i := slices.Index(rules, rule)
		if i < 0 {
			return fmt.Errorf("%q: no such rule", line)
		}
		chains[name] = slices.Delete(slices.Clone(rules), i, i+1)
	case "-X":
		if len(rules) > 0 || slices.Contains(builtin, name) {
			return fmt.Errorf("%q: not an empty chain of ours", line)
		}
		delete(chains, name)
		return checkJumps(chains)
	default:
		return fmt.Errorf("%q: unknown action", line)
	}
	return nil
}

var targets = []string{"ACCEPT", "DROP", "REJECT", "RETURN", "MARK", "MASQUERADE", "DNAT"}

func checkJumps(chains map[string][]string) error {
	for name, rules := range chains {
		for _, rule := range rules {
			_, target, jumps := strings.Cut(rule, "-j ")
			target, _, _ = strings.Cut(target, " ")
			if _, exists := chains[target]; jumps && !exists && !slices.Contains(targets, target) {
				return fmt.Errorf("%s: %q leads to no chain", name, rule)
			}
		}
	}
	return nil
}

// packet is the first packet of a connection.
type packet struct {
	from     netip.Addr
	to       netip.AddrPort
	protocol string
	viaNode  bool // sent by the node itself, not received by it
}

// tracer follows a packet through the rules.
type tracer struct {
	tables  *fakeTables
	local   []netip.Addr // addresses of the node
	packet  packet
	masq    bool
	results map[string]bool
}

// trace returns all that can become of a packet: "to ADDRESS", with " masqueraded" if its source is replaced, "rejected",
// "dropped" or "untouched"; sorted.
func trace(f *fakeTables, local []netip.Addr, p packet) []string {
	t := &tracer{tables: f, local: local, packet: p, results: map[string]bool{}}
	first := "PREROUTING"
	if p.viaNode {
		first = "OUTPUT"
	}
	t.walk(iptables.NAT, t.rules(iptables.NAT, first), func(t *tracer, verdict string) {
		if to, ok := strings.CutPrefix(verdict, "DNAT --to-destination "); ok {
			result := "to " + to
			if t.masq {
				result += " masqueraded"
			}
			t.results[result] = true
			return
		}
		t.filter()
	})
	return slices.Sorted(maps.Keys(t.results))
}

// filter follows a packet that was not translated.
func (t *tracer) filter() {
	hook := "FORWARD"
	if t.packet.viaNode {
		hook = "OUTPUT"
	} else if slices.Contains(t.local, t.packet.to.Addr()) {
		hook = "INPUT"
	}
	t.walk(iptables.Filter, t.rules(iptables.Filter, hook), func(t *tracer, verdict string) {
		switch verdict, _, _ := strings.Cut(verdict, " "); verdict {
		case "REJECT":
			t.results["rejected"] = true
		case "DROP":
			t.results["dropped"] = true
		default:
			t.results["untouched"] = true
		}
	})
}

func (t *tracer) rules(table iptables.Table, chain string) []string {
	return t.tables.chains[table][chain]
}

// walk goes through rules, then calls end with the verdict, "" at the end of the chain. A rule that matches by chance
// is followed both ways.
func (t *tracer) walk(table iptables.Table, rules []string, end func(*tracer, string)) {
	for i, rule := range rules {
		matches, chance := t.matches(rule)
		if !matches {
			continue
		}
		_, target, jumps := strings.Cut(rule, "-j ")
		if !jumps {
			continue
		}
		rest := rules[i+1:]
		if chance {
			other := *t
			other.walk(table, rest, end)
		}
		name, _, _ := strings.Cut(target, " ")
		switch {
		case target == "MARK --or-mark "+masqueradeMark:
			t.masq = true
		case name == "RETURN":
			end(t, "")
			return
		case slices.Contains(targets, name) && name != "MARK":
			end(t, target)
			return
		default:
			t.walk(table, t.rules(table, name), func(t *tracer, verdict string) {
				if verdict != "" {
					end(t, verdict)
					return
				}
				t.walk(table, rest, end)
			})
			return
		}
	}
	end(t, "")
}

// matches tells whether a rule applies to the packet, and whether that is a matter of chance.
func (t *tracer) matches(rule string) (matches, chance bool) {
	fields := splitRule(rule)
	negated := false
	for i := 0; i < len(fields); i++ {
		value := ""
		if i+1 < len(fields) {
			value = fields[i+1]
		}
		ok := true
		switch fields[i] {
		case "!":
			negated = true
			continue
		case "-j":
			return true, chance
		case "-s":
			ok = prefixOf(value).Contains(t.packet.from)
		case "-d":
			ok = prefixOf(value).Contains(t.packet.to.Addr())
		case "-p":
			ok = value == t.packet.protocol
		case "--dport":
			ok = value == strconv.Itoa(int(t.packet.to.Port()))
		case "--src-type":
			ok = slices.Contains(t.local, t.packet.from)
		case "--dst-type":
			ok = slices.Contains(t.local, t.packet.to.Addr())
		case "--mark":
			ok = t.masq
		case "--ctstate":
			ok = slices.Contains(strings.Split(value, ","), "NEW")
		case "--probability":
			chance = true
		case "--rcheck":
			return false, false // a client that was not here before
		default:
			continue
		}
		if ok == negated {
			return false, false
		}
		negated = false
	}
	return true, chance
}

// splitRule splits at blanks outside of quotes.
func splitRule(rule string) []string {
	quoted := false
	return strings.FieldsFunc(rule, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}

func prefixOf(text string) netip.Prefix {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix
	}
	addr := netip.MustParseAddr(text)
	return netip.PrefixFrom(addr, addr.BitLen())
}
