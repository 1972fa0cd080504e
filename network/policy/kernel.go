// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// tableName is our table, in each family that has policies: `nft list table ip skiff-policy` shows it.
//
// Its base chains look an isolated pod's address up in maps, which lead to chains of its own. Packets of both
// directions of a connection are checked, replies by mirrored rules: so a connection that a new policy forbids ends
// with the next packet, whoever sends it.
const tableName = "skiff-policy"

// baseChain is where packets come in. One for a hook looks replies up in another map, and all else by the address that
// is isolated.
type baseChain struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	ways     [2]way // of packets on the way to the server, and of replies
}

// What a pod sends to this node ends in the hook input. What this node sends to its pods passes neither: it is
// always let through. An accept ends one base chain only, so ingress is checked after egress.
var baseChains = []baseChain{
	{"from-pods", nftables.ChainHookForward, *nftables.ChainPriorityFilter, [2]way{egress, egressReplies}},
	{"from-pods-to-node", nftables.ChainHookInput, *nftables.ChainPriorityFilter, [2]way{egress, egressReplies}},
	{"to-pods", nftables.ChainHookForward, *nftables.ChainPriorityFilter + 1, [2]way{ingress, ingressReplies}},
}

// way is a direction of isolation together with the direction of the packets that are checked.
type way int

const (
	ingress way = iota
	ingressReplies
	egress
	egressReplies
	numWays
)

var wayNames = [numWays]string{"ingress", "ingress-replies", "egress", "egress-replies"}

// fromPod tells whether the isolated pod is where the packet comes from.
func (w way) fromPod() bool  { return w == egress || w == ingressReplies }
func (w way) isReply() bool  { return w == egressReplies || w == ingressReplies }
func (w way) isEgress() bool { return w == egress || w == egressReplies }

// of returns the direction of an isolation that the way is about.
func (w way) of(i isolation) *allowed {
	if w.isEgress() {
		return i.egress
	}
	return i.ingress
}

// maxElements bounds the elements of one message, whose attributes are at most 64 kB long.
const maxElements = 500

// socketBuffer holds a transaction and its answers.
const socketBuffer = 16 << 20

// table is our table of one family. It remembers what it wrote, so that each time it writes only what differs.
type table struct {
	family corev1.IPFamily
	have   *ruleset // nil: unknown
	none   bool     // there is no table
}

// apply makes the kernel enforce a ruleset in one transaction. Without an isolated pod there is no table.
func (t *table) apply(want *ruleset) error {
	if len(want.pods) == 0 {
		return t.remove()
	}
	tx, err := t.begin()
	if err != nil {
		return err
	}
	have, all := t.have, t.have == nil
	if all {
		have = &ruleset{}
		tx.create()
	}
	tx.sets(have, want)
	tx.pods(have, want)
	tx.dropSets(have, want)
	t.have, t.none = nil, false // unknown if it fails
	err = tx.commit()
	if errors.Is(err, unix.ENOENT) && !all { // somebody else removed what we change
		return t.apply(want)
	}
	if err != nil {
		return fmt.Errorf("write %s policy rules: %w", t.family, err)
	}
	t.have = want
	return nil
}

// remove removes the table.
func (t *table) remove() error {
	if t.none {
		return nil
	}
	tx, err := t.begin()
	if err != nil {
		return err
	}
	tx.conn.AddTable(tx.table) // so that removing it does not fail if it is not there
	tx.conn.DelTable(tx.table)
	t.have = nil
	err = tx.commit()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		err = nil // a kernel without nf_tables, or without the family, has none of our rules
	}
	if err != nil {
		return fmt.Errorf("remove %s policy rules: %w", t.family, err)
	}
	t.none = true
	return nil
}

// intact tells whether the table is as it was left, as far as the rules go by which all packets come in.
func (t *table) intact() bool {
	if t.have == nil {
		return true
	}
	tx, err := t.begin()
	if err != nil {
		return true // as likely a lack of memory as anything else
	}
	for _, base := range baseChains {
		rules, err := tx.conn.GetRules(tx.table, &nftables.Chain{Name: base.name, Table: tx.table})
		if err != nil || len(rules) != baseRules {
			return false
		}
	}
	return true
}

// transaction is a change of a table that is being gathered.
type transaction struct {
	family corev1.IPFamily
	conn   *nftables.Conn
	table  *nftables.Table
	addrs  nftables.SetDatatype
	maps   [numWays]*nftables.Set // from a pod's address to its chain
	err    error
}

func (t *table) begin() (*transaction, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(socketBuffer), c.SetReadBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	tx := &transaction{family: t.family, conn: conn, addrs: nftables.TypeIPAddr}
	tx.table = &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	if t.family == corev1.IPv6Protocol {
		tx.addrs, tx.table.Family = nftables.TypeIP6Addr, nftables.TableFamilyIPv6
	}
	for w, name := range wayNames {
		tx.maps[w] = &nftables.Set{Table: tx.table, Name: name, IsMap: true, KeyType: tx.addrs, DataType: nftables.TypeVerdict}
	}
	return tx, nil
}

func (tx *transaction) commit() error {
	if tx.err != nil {
		return tx.err
	}
	err := tx.conn.Flush()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("%w (NetworkPolicies need a kernel with nf_tables)", err)
	}
	return err
}

func (tx *transaction) note(err error) { tx.err = errors.Join(tx.err, err) }

// baseRules is the number of rules in a base chain.
const baseRules = 3

// create makes an empty table with its base chains, in place of whatever is there.
func (tx *transaction) create() {
	tx.conn.AddTable(tx.table)
	tx.conn.DelTable(tx.table)
	tx.conn.AddTable(tx.table)
	for _, verdicts := range tx.maps {
		tx.note(tx.conn.AddSet(verdicts, nil))
	}
	for _, base := range baseChains {
		chain := tx.conn.AddChain(&nftables.Chain{
			Table: tx.table, Name: base.name, Type: nftables.ChainTypeFilter, Hooknum: base.hook, Priority: &base.priority,
		})
		replies := tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: base.name + "-replies"})
		lookup := func(w way) []expr.Any {
			return []expr.Any{tx.address(w.fromPod()), &expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: tx.maps[w].Name, SetID: tx.maps[w].ID}}
		}
		// Errors (ICMP) about a connection have no ports, and only come while it is allowed.
		tx.rule(chain, append(related(), &expr.Verdict{Kind: expr.VerdictAccept})...)
		tx.rule(chain, append(isReply(), &expr.Verdict{Kind: expr.VerdictGoto, Chain: replies.Name})...)
		tx.rule(chain, lookup(base.ways[0])...)
		tx.rule(replies, lookup(base.ways[1])...)
	}
}

func (tx *transaction) rule(chain *nftables.Chain, exprs ...expr.Any) {
	tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: chain, Exprs: exprs})
}

// sets adds and changes sets.
func (tx *transaction) sets(have, want *ruleset) {
	for _, name := range slices.Sorted(maps.Keys(want.sets)) {
		old, there := have.sets[name]
		s := tx.set(name, want.sets[name])
		if !there {
			tx.note(tx.conn.AddSet(s, nil))
		}
		tx.elements(s, want.sets[name].missingIn(old), tx.conn.SetAddElements)
		tx.elements(s, old.missingIn(want.sets[name]), tx.conn.SetDeleteElements)
	}
}

func (tx *transaction) dropSets(have, want *ruleset) {
	for _, name := range slices.Sorted(maps.Keys(have.sets)) {
		if _, kept := want.sets[name]; !kept {
			tx.conn.DelSet(tx.set(name, have.sets[name]))
		}
	}
}

func (tx *transaction) set(name string, s set) *nftables.Set {
	return &nftables.Set{Table: tx.table, Name: name, KeyType: tx.addrs, Interval: s.ranges != nil}
}

func (tx *transaction) elements(s *nftables.Set, elements []nftables.SetElement, change func(*nftables.Set, []nftables.SetElement) error) {
	for part := range slices.Chunk(elements, maxElements) {
		tx.note(change(s, part))
	}
}

// missingIn returns the elements of s that other does not have.
func (s set) missingIn(other set) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, addr := range s.pods {
		if _, found := slices.BinarySearchFunc(other.pods, addr, netip.Addr.Compare); !found {
			elements = append(elements, nftables.SetElement{Key: addr.AsSlice()})
		}
	}
	if other.ranges != nil {
		return elements // ranges never change
	}
	for _, r := range s.ranges {
		elements = append(elements, nftables.SetElement{Key: r.first.AsSlice()})
		if after := r.last.Next(); after.IsValid() {
			elements = append(elements, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// pods adds, changes and removes the chains of isolated pods.
func (tx *transaction) pods(have, want *ruleset) {
	addrs := slices.SortedFunc(maps.Keys(want.pods), netip.Addr.Compare)
	for addr := range have.pods {
		if _, kept := want.pods[addr]; !kept {
			addrs = append(addrs, addr)
		}
	}
	for _, addr := range addrs {
		for w := range numWays {
			tx.direction(w, addr, w.of(have.pods[addr]), w.of(want.pods[addr]))
		}
	}
}

// direction brings one chain of a pod from have to want; nil is none.
func (tx *transaction) direction(w way, addr netip.Addr, have, want *allowed) {
	// made of what nft takes for a name
	chain := &nftables.Chain{Table: tx.table, Name: wayNames[w] + "-" + strings.ReplaceAll(addr.String(), ":", "_")}
	entry := []nftables.SetElement{{Key: addr.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name}}}
	switch {
	case want == nil && have == nil:
	case want == nil:
		tx.note(tx.conn.SetDeleteElements(tx.maps[w], entry))
		tx.conn.FlushChain(chain)
		tx.conn.DelChain(chain)
	case have == nil:
		tx.conn.AddChain(chain)
		tx.fill(chain, w, addr, *want)
		tx.note(tx.conn.SetAddElements(tx.maps[w], entry))
	case !slices.Equal(*have, *want):
		tx.conn.FlushChain(chain)
		tx.fill(chain, w, addr, *want)
	}
}

// fill writes the rules of a pod's chain.
func (tx *transaction) fill(chain *nftables.Chain, w way, self netip.Addr, matches allowed) {
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	peer := tx.address(!w.fromPod())
	tx.rule(chain, peer, equal(self.AsSlice()), accept)
	for _, m := range matches {
		var exprs []expr.Any
		if m.peers != "" {
			exprs = append(exprs, peer, &expr.Lookup{SourceRegister: 1, SetName: m.peers})
		}
		if m.protocol != "" {
			exprs = append(exprs, &expr.Meta{Register: 1, Key: expr.MetaKeyL4PROTO}, equal([]byte{protocols[m.protocol]}))
		}
		if m.first != 0 {
			exprs = append(exprs, serverPort(w.isReply()), between(m.first, m.last))
		}
		tx.rule(chain, append(exprs, accept)...)
	}
	tx.rule(chain, &expr.Verdict{Kind: expr.VerdictDrop})
}

var protocols = map[corev1.Protocol]byte{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

// The expressions below load into or read register 1.

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}
}

func between(first, last uint16) expr.Any {
	if first == last {
		return equal(binary.BigEndian.AppendUint16(nil, first))
	}
	return &expr.Range{
		Op: expr.CmpOpEq, Register: 1,
		FromData: binary.BigEndian.AppendUint16(nil, first), ToData: binary.BigEndian.AppendUint16(nil, last),
	}
}

// serverPort loads the destination port, or the source port of a reply. It is at the same place in TCP, UDP and SCTP.
func serverPort(reply bool) expr.Any {
	offset := uint32(2)
	if reply {
		offset = 0
	}
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
}

// address loads the source or destination of a packet.
func (tx *transaction) address(source bool) expr.Any {
	offset, length := uint32(12), uint32(4)
	if tx.family == corev1.IPv6Protocol {
		offset, length = 8, 16
	}
	if !source {
		offset += length
	}
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// isReply matches packets from a connection's server.
func isReply() []expr.Any {
	return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, equal([]byte{1})}
}

// related matches packets that are about a connection but not of it.
func related() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Xor: make([]byte, 4), Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitRELATED)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}
