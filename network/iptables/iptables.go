// SPDX-License-Identifier: Apache-2.0

// Package iptables reads and writes the kernel's packet rules with the machine's iptables-save and
// iptables-restore.
//
// A whole table is read, and a whole transaction written, in one execution each; nothing here calls
// `iptables` per rule. Writes never flush what they do not name. Both variants of the tools work (nf_tables
// and legacy); which one the machine uses is found out once, on the first call: rules written through
// one variant are not seen by the other, so the one that already carries rules of ours, or of a
// kubelet, wins.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
)

// Family is an IP family as iptables sees it.
type Family string

const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// Table is a table of rules.
type Table string

const (
	Filter Table = "filter"
	NAT    Table = "nat"
	Mangle Table = "mangle"
)

// Runner reads and writes the rules of one family in the network namespace of the process.
type Runner struct {
	prefix string // "iptables" or "ip6tables"

	mu      sync.Mutex
	variant string // "", "-nft" or "-legacy": guarded by mu, valid once probed is true
	probed  bool   // guarded by mu
}

// New returns a runner for a family. It executes nothing yet.
func New(family Family) *Runner {
	if family == IPv6 {
		return &Runner{prefix: "ip6tables"}
	}
	return &Runner{prefix: "iptables"}
}

// Save returns the rules of a table, in iptables-save's format.
func (r *Runner) Save(ctx context.Context, table Table) ([]byte, error) {
	return r.run(ctx, "-save", nil, "-t", string(table))
}

// Leads tells whether one chain of a table jumps to another. It reads no other chain, however many there are.
func (r *Runner) Leads(ctx context.Context, table Table, from, to string) (bool, error) {
	rules, err := r.run(ctx, "", nil, "-w", "5", "-t", string(table), "-S", from)
	return len(Jumps(rules, from, to)) > 0, err
}

// Restore applies a transaction in iptables-restore's format. Chains that the input does not name stay
// as they are; a chain line (":NAME - [0:0]") creates a chain or empties it.
func (r *Runner) Restore(ctx context.Context, rules []byte) error {
	_, err := r.run(ctx, "-restore", rules, "-w", "5", "--noflush")
	return err
}

func (r *Runner) run(ctx context.Context, tool string, stdin []byte, args ...string) ([]byte, error) {
	variant, err := r.detect(ctx)
	if err != nil {
		return nil, err
	}
	return execute(ctx, r.prefix+variant+tool, stdin, args...)
}

// detect finds the variant that carries Kubernetes rules already; without any it is the machine's default.
func (r *Runner) detect(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.probed {
		return r.variant, nil
	}
	var firstErr error
	usable := ""
	found := false
	for _, variant := range []string{"", "-nft", "-legacy"} {
		name := r.prefix + variant + "-save"
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		out, err := execute(ctx, name, nil, "-t", string(NAT))
		if err != nil {
			firstErr = errors.Join(firstErr, err)
			continue
		}
		if !found {
			usable, found = variant, true
		}
		if bytes.Contains(out, []byte(":KUBE-")) || bytes.Contains(out, []byte(":SKIFF-")) {
			usable = variant
			break
		}
	}
	if !found {
		if firstErr == nil {
			firstErr = fmt.Errorf("%s-save is not in $PATH (install the package iptables)", r.prefix)
		}
		return "", firstErr
	}
	r.variant, r.probed = usable, true
	return usable, nil
}

func execute(ctx context.Context, name string, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// Chains returns the names of the chains in a saved table.
func Chains(saved []byte) map[string]bool {
	chains := map[string]bool{}
	for line := range bytes.Lines(saved) {
		if name, ok := bytes.CutPrefix(line, []byte(":")); ok {
			if i := bytes.IndexByte(name, ' '); i > 0 {
				chains[string(name[:i])] = true
			}
		}
	}
	return chains
}

// Jumps returns the lines of a saved table with which chain `from` jumps to chain `to`, each as the
// arguments of -A or -D.
func Jumps(saved []byte, from, to string) []string {
	var lines []string
	for line := range strings.Lines(string(saved)) {
		rest, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "-A ")
		if ok && strings.HasPrefix(rest, from+" ") && strings.HasSuffix(rest, " -j "+to) {
			lines = append(lines, rest)
		}
	}
	return lines
}

// RemoveChains removes the chains of a table for which ours is true, and all jumps to them.
func (r *Runner) RemoveChains(ctx context.Context, table Table, ours func(chain string) bool) error {
	saved, err := r.Save(ctx, table)
	if err != nil {
		return err
	}
	input := removal(saved, table, ours)
	if input == nil {
		return nil
	}
	return r.Restore(ctx, input)
}

// removal returns the transaction that removes chains, or nil if there are none.
func removal(saved []byte, table Table, ours func(chain string) bool) []byte {
	var flushes, deletes bytes.Buffer
	for chain := range Chains(saved) {
		if ours(chain) {
			fmt.Fprintf(&flushes, ":%s - [0:0]\n", chain)
			fmt.Fprintf(&deletes, "-X %s\n", chain)
		}
	}
	if flushes.Len() == 0 {
		return nil
	}
	var input bytes.Buffer
	fmt.Fprintf(&input, "*%s\n%s", table, flushes.Bytes())
	for line := range strings.Lines(string(saved)) {
		rule, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "-A ")
		if !ok {
			continue
		}
		from, _, _ := strings.Cut(rule, " ")
		_, to, jumps := strings.Cut(rule, " -j ")
		to, _, _ = strings.Cut(to, " ")
		if jumps && !ours(from) && ours(to) {
			fmt.Fprintf(&input, "-D %s\n", rule)
		}
	}
	fmt.Fprintf(&input, "%sCOMMIT\n", deletes.Bytes())
	return input.Bytes()
}
