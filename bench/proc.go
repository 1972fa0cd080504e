// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const (
	mega = 1 << 20
	// clockTick is the unit of times in /proc/<pid>/stat, the same on all Linux machines.
	clockTick = 10 * time.Millisecond
)

// process is what /proc says that a process uses. Memory is in bytes.
type process struct {
	anonymous, file, threads float64
	cpu                      time.Duration
	children                 time.Duration // used by those that have ended
	kernel                   time.Duration // the part of both that the kernel used
}

func (p process) resident() float64 { return p.anonymous + p.file }

func usage(pid int) (process, error) {
	return usageIn(filepath.Join("/proc", strconv.Itoa(pid)))
}

// usageIn reads a process's folder in a /proc.
func usageIn(dir string) (process, error) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return process{}, err
	}
	p := process{
		anonymous: field(status, "RssAnon")*1024 + field(status, "RssShmem")*1024,
		file:      field(status, "RssFile") * 1024,
		threads:   field(status, "Threads"),
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, err
	}
	// The name, in brackets, may hold spaces; user and system time are the 12th and 13th field after it,
	// those of children that have ended the two that follow.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return process{}, fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	for i, ticks := range fields[11:15] {
		n, err := strconv.Atoi(ticks)
		if err != nil {
			return process{}, fmt.Errorf("%s/stat: %w", dir, err)
		}
		sum := &p.cpu
		if i >= 2 {
			sum = &p.children
		}
		*sum += time.Duration(n) * clockTick
		if i%2 == 1 {
			p.kernel += time.Duration(n) * clockTick
		}
	}
	return p, nil
}

// field is the number of a line "Key:  123 kB"; 0 if there is none.
func field(status []byte, key string) float64 {
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return n
		}
	}
	return 0
}

// total adds up the processes of a host whose names begin with prefix. Of a server that is all: itself, shims, and what
// it has started otherwise.
func total(h *host, prefix string) (sum process, processes int, err error) {
	// The host's /proc has its own process IDs, which serve for reading there.
	names, err := filepath.Glob(h.Path("/proc") + "/[0-9]*/comm")
	if err != nil {
		return process{}, 0, err
	}
	for _, path := range names {
		dir := filepath.Dir(path)
		if filepath.Base(dir) == "1" {
			continue // holds the host's namespaces
		}
		comm, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(comm), prefix) {
			continue // ended, or something else
		}
		p, err := usageIn(dir)
		if err != nil {
			continue
		}
		sum.anonymous += p.anonymous
		sum.file += p.file
		sum.threads += p.threads
		sum.cpu += p.cpu
		processes++
	}
	return sum, processes, nil
}

// machine says where figures were taken, and how busy that was before.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	load := "unknown"
	if averages, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(averages), " ")
	}
	return fmt.Sprintf("%d × %s, load average %s before", runtime.NumCPU(), model, load)
}
