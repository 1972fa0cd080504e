// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/skiff-k8s/skiff/testhost"
)

// machine is what is in the machine's own namespaces that a run could leave behind: one line per thing, sorted.
type machine []string

// look lists the mounts, interfaces and iptables rules.
func look() (machine, error) {
	var all machine
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mountinfo)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			all = append(all, "mount "+fields[4])
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		all = append(all, "interface "+l.Name())
	}
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		path, err := exec.LookPath(save)
		if err != nil {
			continue // then nobody has made a rule with it
		}
		out, err := exec.Command(path).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", save, err)
		}
		all = append(all, rules(string(out))...)
	}
	slices.Sort(all)
	return all, nil
}

// counters are of packets; they and comments change all the time.
var counters = regexp.MustCompile(`\[\d+:\d+\]`)

// rules are the rules and the chains that somebody made.
func rules(saved string) (lines []string) {
	for line := range strings.Lines(saved) {
		builtIn := strings.HasPrefix(line, ":") && !strings.Contains(line, " - ")
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") && !builtIn {
			lines = append(lines, "iptables "+strings.TrimSpace(counters.ReplaceAllString(line, "")))
		}
	}
	return lines
}

// namespaces are those of some processes, such as "net:[4026532008]".
type namespaces map[string]bool

// namespacesOf lists the namespaces that exist in a host: its own and its containers'.
func namespacesOf(h *testhost.Host) namespaces {
	all := namespaces{}
	for _, p := range numbered(h.Path("/proc")) {
		for _, ns := range namespacesAt(p) {
			all[ns] = true
		}
	}
	for _, ns := range namespacesAt("/proc/self") {
		delete(all, ns) // a host shares the machine's users and time
	}
	return all
}

func namespacesAt(process string) (all []string) {
	links, _ := filepath.Glob(filepath.Join(process, "ns", "*"))
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil { // else it has ended
			all = append(all, ns)
		}
	}
	return all
}

// numbered are the directories of processes.
func numbered(proc string) (dirs []string) {
	entries, _ := os.ReadDir(proc)
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			dirs = append(dirs, filepath.Join(proc, e.Name()))
		}
	}
	return dirs
}

// remains says what a cluster has left on the machine: processes in its namespaces, its cgroups, and whatever the
// machine did not have before.
func remains(before machine, inside namespaces, cgroups ...string) error {
	after, err := look()
	if err != nil {
		return err
	}
	var left []string
	for _, line := range after {
		if _, found := slices.BinarySearch(before, line); !found {
			left = append(left, line)
		}
	}
	for _, process := range numbered("/proc") {
		if i := slices.IndexFunc(namespacesAt(process), func(ns string) bool { return inside[ns] }); i >= 0 {
			left = append(left, "process "+filepath.Base(process)+" "+nameOf(process))
		}
	}
	for _, cgroup := range cgroups {
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} { // version 2, version 1
			dirs, _ := filepath.Glob(filepath.Join(pattern, cgroup))
			for _, dir := range dirs {
				left = append(left, "cgroup "+dir)
			}
		}
	}
	if len(left) == 0 {
		return nil
	}
	return errors.New("the cluster has left on this machine:\n" + strings.Join(left, "\n"))
}

func nameOf(process string) string {
	name, _ := os.ReadFile(filepath.Join(process, "comm"))
	return strings.TrimSpace(string(name))
}
