// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
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
	forgetProgram()
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
// and a tenth of all, for the next. It hears of each collection of the heap by an object that is dropped for that, so
// it does nothing while nothing happens.
func giveBackAfterLoad() {
	timer := time.AfterFunc(calm, func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapIdle-m.HeapReleased > worthwhile {
			debug.FreeOSMemory()
		}
	})
	var collected func(int)
	collected = func(int) {
		timer.Reset(calm)
		runtime.AddCleanup(new([16]byte), collected, 0)
	}
	collected(0)
}

// forgetProgram unmaps the pages of the program that were used so far. Those that are used again come back
// from the page cache, one fault for sixteen of them.
func forgetProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		// 00400000-02b1e000 r-xp 00000000 fe:00 1234  /usr/local/bin/skiff
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[5] != program || strings.Contains(fields[1], "w") {
			continue // written pages would be lost
		}
		from, to, _ := strings.Cut(fields[0], "-")
		begin, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			return
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED) // advice may be ignored
	}
}
