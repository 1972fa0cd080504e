// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
)

// profileVariable names a directory to write profiles to, for the work on Skiff itself: start.cpu up to the
// Ready Node, run.cpu from there, and heap as it is at the end.
const profileVariable = "SKIFF_PROFILE"

// profile is being written. A nil one writes nothing.
type profile struct {
	dir string
	mu  sync.Mutex
	cpu *os.File // guarded by mu; nil when all is written
}

func startProfile() (*profile, error) {
	dir := os.Getenv(profileVariable)
	if dir == "" {
		return nil, nil
	}
	p := &profile{dir: dir}
	return p, p.begin("start.cpu")
}

func (p *profile) begin(name string) (err error) {
	if p.cpu, err = os.Create(filepath.Join(p.dir, name)); err != nil {
		return fmt.Errorf("write profiles (%s): %w", profileVariable, err)
	}
	return pprof.StartCPUProfile(p.cpu)
}

// started ends the profile of the start.
func (p *profile) started() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	if err := p.begin("run.cpu"); err != nil {
		fmt.Fprintln(os.Stderr, "skiff:", err)
	}
}

func (p *profile) end() {
	if p.cpu == nil {
		return
	}
	pprof.StopCPUProfile()
	_ = p.cpu.Close() // a profile that is cut short is seen by who reads it
	p.cpu = nil
}

func (p *profile) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	heap, err := os.Create(filepath.Join(p.dir, "heap"))
	if err != nil {
		return
	}
	defer heap.Close()
	runtime.GC()
	_ = pprof.WriteHeapProfile(heap)
}
