// SPDX-License-Identifier: Apache-2.0

package main

import (
	"iter"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A start makes much that is thrown away, and runs much code once. While it lasts, memory is collected
// seldom; when it is over, what only the start needed is given back to the machine at once.

// collectSeldom lets the heap grow for a start. Who has set GOGC is left alone.
func collectSeldom() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// forgetStart gives back what the start needed, and from then on what times of load do.
func forgetStart() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100)
	}
	debug.FreeOSMemory()
	forgetFiles()
	giveBackAfterLoad()
}

const (
	// calm is how long the heap must not have been collected for a time of load to be over. The runtime collects
	// an idle heap every two minutes.
	calm = time.Minute
	// worthwhile is how much memory must be free to give it back, which costs a collection.
	worthwhile = 16 << 20
)

// giveBackAfterLoad gives memory back that times of load leave free. The runtime by itself keeps as much as is in use,
// and a tenth of all, for the next. It hears of each collection of the heap by an object that is dropped for that. When
// nothing happens that is one every two minutes; then only the pages of files go that are seldom used.
func giveBackAfterLoad() {
	timer := time.AfterFunc(calm, func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapIdle-m.HeapReleased > worthwhile {
			debug.FreeOSMemory()
		}
		forgetFiles()
	})
	var collected func(int)
	collected = func(int) {
		timer.Reset(calm)
		runtime.AddCleanup(new([16]byte), collected, 0)
	}
	collected(0)
}

// forgetFiles unmaps the pages of files that were read so far: of the program, and of etcd's database, which a time of load makes
// large. They stay in the page cache; those that are used again come back from there, one fault for sixteen of them.
func forgetFiles() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for begin, end := range filePages(maps) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTNEED) // advice may be ignored
	}
}

// filePages are the parts of memory that files are mapped to and that are not written to: what is written would be lost.
func filePages(maps []byte) iter.Seq2[uintptr, uintptr] {
	return func(yield func(begin, end uintptr) bool) {
		for line := range strings.Lines(string(maps)) {
			// 00400000-02b1e000 r-xp 00000000 fe:00 1234  /usr/local/bin/skiff
			fields := strings.Fields(line)
			if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") || strings.Contains(fields[1], "w") {
				continue
			}
			from, to, _ := strings.Cut(fields[0], "-")
			begin, beginErr := strconv.ParseUint(from, 16, 64)
			end, endErr := strconv.ParseUint(to, 16, 64)
			if beginErr != nil || endErr != nil || !yield(uintptr(begin), uintptr(end)) {
				return
			}
		}
	}
}
