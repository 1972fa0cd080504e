// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Inventory is what is in a host that a node could forget: one line per thing, sorted, such as
// "mount /var/lib/kubelet/pods/..." or "process /usr/bin/nginx". It counts neither addresses nor files.
type Inventory []string

// Inventory lists interfaces, mounts, iptables chains, processes and cgroups.
func (h *Host) Inventory(ctx context.Context) (Inventory, error) {
	var all Inventory
	for _, list := range []func(context.Context) ([]string, error){h.interfaces, h.mounts, h.chains, h.processes, h.podCgroups} {
		lines, err := list(ctx)
		if err != nil {
			return nil, fmt.Errorf("take the inventory of %s: %w", h.name, err)
		}
		all = append(all, lines...)
	}
	slices.Sort(all)
	return all, nil
}

// Without is what is in one inventory and not in an earlier one.
func (i Inventory) Without(earlier Inventory) Inventory {
	var left Inventory
	for _, line := range i {
		if _, found := slices.BinarySearch(earlier, line); !found {
			left = append(left, line)
		}
	}
	return left
}

// Mark makes the present state the one that Leftovers compares with. A new host is marked.
func (h *Host) Mark() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	h.baseline, err = h.Inventory(ctx)
	return err
}

// Leftovers lists what is there now and was not at the last Mark.
func (h *Host) Leftovers(ctx context.Context) (Inventory, error) {
	now, err := h.Inventory(ctx)
	return now.Without(h.baseline), err
}

func (h *Host) interfaces(context.Context) (lines []string, err error) {
	err = h.pause.withNetlink(func(nl *netlink.Handle) error {
		links, err := nl.LinkList()
		for _, l := range links {
			lines = append(lines, "interface "+l.Attrs().Name)
		}
		return err
	})
	return lines, err
}

func (h *Host) mounts(context.Context) ([]string, error) {
	mountinfo, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.pause.pid()))
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(mountinfo)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			lines = append(lines, "mount "+fields[4])
		}
	}
	return lines, nil
}

// chains lists the chains of both iptables variants that a rule could be in, without the built-in ones.
func (h *Host) chains(ctx context.Context) ([]string, error) {
	var lines []string
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		if _, err := exec.LookPath(save); err != nil {
			continue // then nobody has made a chain with it
		}
		out, err := h.Output(ctx, save)
		if err != nil {
			return nil, err
		}
		var table string
		for line := range strings.Lines(out) {
			if name, ok := strings.CutPrefix(line, "*"); ok {
				table = strings.TrimSpace(name)
			}
			if chain, ok := strings.CutPrefix(line, ":"); ok && strings.Fields(chain)[1] == "-" {
				lines = append(lines, fmt.Sprintf("%s chain %s/%s", strings.TrimSuffix(save, "-save"), table, strings.Fields(chain)[0]))
			}
		}
	}
	return lines, nil
}

// processes lists the programs of all processes in the host's PID namespace, including containers'.
func (h *Host) processes(context.Context) ([]string, error) {
	pids, err := os.ReadDir(h.Path("/proc"))
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range pids {
		if _, err := strconv.Atoi(p.Name()); err != nil || p.Name() == "1" {
			continue
		}
		status, err := os.Open(h.Path(filepath.Join("/proc", p.Name(), "status")))
		if err != nil {
			continue // it has just ended
		}
		name, state := processName(bufio.NewScanner(status))
		status.Close()
		if state != "Z" && state != "" {
			lines = append(lines, "process "+name)
		}
	}
	return lines, nil
}

func processName(status *bufio.Scanner) (name, state string) {
	for status.Scan() {
		key, value, _ := strings.Cut(status.Text(), ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value)
		case "State":
			state = strings.TrimSpace(value)[:1]
		}
	}
	return name, state
}

func (h *Host) podCgroups(context.Context) ([]string, error) {
	var lines []string
	for _, root := range h.cgroups.dirs {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed while we look
			}
			if err == nil && d.IsDir() && path != root {
				lines = append(lines, "cgroup "+strings.TrimPrefix(path, cgroupMount))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}
