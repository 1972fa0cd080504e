// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what does not change until the next boot.
type Machine struct {
	CPUs       int64
	Memory     int64           // bytes
	Swap       int64           // bytes
	Disk       int64           // bytes of the file system with the node's data
	HugePages  map[int64]int64 // page size in bytes to bytes reserved for it
	MachineID  string
	SystemUUID string
	BootID     string
	Kernel     string
	OSImage    string

	UserNamespace bool // its root is not the kernel's
}

// ReadMachine looks at this machine. dataDir tells which file system holds the node's data.
func ReadMachine(dataDir string) (Machine, error) {
	m := Machine{
		CPUs:       int64(runtime.NumCPU()),
		HugePages:  hugePages("/sys/kernel/mm/hugepages"),
		MachineID:  firstLine("/etc/machine-id", "/var/lib/dbus/machine-id"),
		BootID:     firstLine("/proc/sys/kernel/random/boot_id"),
		Kernel:     firstLine("/proc/sys/kernel/osrelease"),
		SystemUUID: firstLine("/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid", "/etc/machine-id"),
		OSImage:    osImage("/etc/os-release"),

		UserNamespace: inUserNamespace(firstLine("/proc/self/uid_map")),
	}
	m.Memory = memInfo("MemTotal")
	if m.Memory <= 0 {
		return m, fmt.Errorf("read memory size: no MemTotal in /proc/meminfo")
	}
	m.Swap = max(memInfo("SwapTotal"), 0)
	var fs unix.Statfs_t
	for dir := dataDir; ; dir = filepath.Dir(dir) { // it may not be made yet
		if err := unix.Statfs(dir, &fs); err == nil {
			m.Disk = int64(fs.Blocks) * fs.Bsize
			return m, nil
		} else if dir == "/" || dir == "." {
			return m, fmt.Errorf("read size of the file system of %s: %w", dataDir, err)
		}
	}
}

// memInfo reads a line of /proc/meminfo in bytes; -1 if there is none.
func memInfo(name string) int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return -1
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == name+":" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return -1
			}
			return n << 10
		}
	}
	return -1
}

func hugePages(dir string) map[int64]int64 {
	out := map[int64]int64{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return out // a kernel without them
	}
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, _ := strconv.ParseInt(firstLine(filepath.Join(dir, e.Name(), "nr_hugepages")), 10, 64) // unreadable: none
		out[kb<<10] = count * kb << 10
	}
	return out
}

// HugePageNames are the kernel's page sizes as CRI writes them ("2MB").
func (m *Machine) HugePageNames() []string {
	var names []string
	for size := range m.HugePages {
		unit, n := "KB", size>>10
		if n >= 1<<10 && n%(1<<10) == 0 {
			unit, n = "MB", n>>10
		}
		if unit == "MB" && n >= 1<<10 && n%(1<<10) == 0 {
			unit, n = "GB", n>>10
		}
		names = append(names, strconv.FormatInt(n, 10)+unit)
	}
	return names
}

// firstLine returns the first line of the first of these files that can be read.
func firstLine(paths ...string) string {
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}

// inUserNamespace tells from what the kernel says of our users: outside of user namespaces each of them is itself.
func inUserNamespace(uidMap string) bool {
	return uidMap != "" && !slices.Equal(strings.Fields(uidMap), []string{"0", "0", "4294967295"})
}

func osImage(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "Unknown"
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Unknown"
}
