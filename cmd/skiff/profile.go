// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
	"syscall"
)

// profileVariable names a directory to write profiles to, for the work on Skiff itself: start.cpu up to the
// Ready Node, run.cpu from there, and heap as it is at the end. Each SIGUSR1 begins another, run-1.cpu, run-2.cpu, ..., and
// writes heap-1, heap-2, ...
const profileVariable = "SKIFF_PROFILE"

// profile is being written. A nil one writes nothing.
type profile struct {
	dir  string
	mu   sync.Mutex
	cpu  *os.File       // guarded by mu; nil when all is written
	more chan os.Signal // asks for another
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
	p.next("run.cpu")
	p.more = make(chan os.Signal, 1)
	signal.Notify(p.more, syscall.SIGUSR1)
	go p.follow()
}

// follow begins another profile whenever it is asked to.
func (p *profile) follow() {
	for n := 1; ; n++ {
		if _, on := <-p.more; !on {
			return
		}
		p.mu.Lock()
		p.end()
		p.heap(fmt.Sprintf("heap-%d", n))
		p.next(fmt.Sprintf("run-%d.cpu", n))
		p.mu.Unlock()
	}
}

// next ends a profile and begins another. The caller holds mu.
func (p *profile) next(name string) {
	p.end()
	if err := p.begin(name); err != nil {
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
	if p.more != nil {
		signal.Stop(p.more)
		close(p.more)
	}
	p.heap("heap")
}

// heap writes what is live.
func (p *profile) heap(name string) {
	file, err := os.Create(filepath.Join(p.dir, name))
	if err != nil {
		return
	}
	defer file.Close()
	runtime.GC()
	_ = pprof.WriteHeapProfile(file)
}
