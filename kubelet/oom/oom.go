// SPDX-License-Identifier: Apache-2.0

// Package oom hears from the kernel's log that the machine has run out of memory, and which process the kernel has killed for that.
//
// A process that is killed because its container has reached a limit of its own is not told: that shows in the container's status.
package oom

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KernelLog is where the kernel's log can be read. Its records are like "3,1234,5678901,-;Out of memory: Killed process ...".
const KernelLog = "/dev/kmsg"

// Kill is a process that was killed because the whole machine has no memory left. What the log does not tell is empty.
type Kill struct {
	Process string
	PID     int
}

// Message is what the event about it says, in upstream's words.
func (k Kill) Message() string {
	if k.Process == "" || k.PID == 0 {
		return "System OOM encountered"
	}
	return fmt.Sprintf("System OOM encountered, victim process: %s, pid: %d", k.Process, k.PID)
}

// Follow tells of each kill that comes, until ctx ends. What is in the log already is passed over.
func Follow(ctx context.Context, log string, killed func(Kill)) error {
	file, err := os.Open(log)
	if err != nil {
		return fmt.Errorf("read the kernel's log: %w", err)
	}
	defer file.Close()
	defer context.AfterFunc(ctx, func() { file.Close() })() // ends a read that waits
	if _, err := file.Seek(0, io.SeekEnd); err != nil && !errors.Is(err, unix.ESPIPE) {
		return fmt.Errorf("go to the end of the kernel's log: %w", err)
	}
	err = follow(file, killed)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("read the kernel's log: %w", err)
}

// follow reads until that fails. The buffer has room for the largest record, of which the kernel gives all or nothing.
func follow(log io.Reader, killed func(Kill)) error {
	lines := bufio.NewReaderSize(log, 64<<10)
	var s story
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, unix.EPIPE) { // records were overwritten before we have read them
			continue
		}
		if err != nil {
			return err
		}
		_, message, isRecord := strings.Cut(strings.TrimSpace(line), ";")
		if !isRecord {
			continue // more about the one before
		}
		if kill, system := s.read(message); system {
			killed(kill)
		}
	}
}

// story is what the kernel tells about one kill, in several records: how it came to it, the state of the memory, and who it was.
type story struct {
	told   bool // it has begun
	inside bool // the limit of a container is the reason
}

var (
	// With kernels from 5.0 on. A kill for the machine's sake has "global_oom" where this has "oom_memcg=".
	byLimit = regexp.MustCompile(`oom-kill:constraint=.*,oom_memcg=([^,]*),task_memcg=[^,]*,task=(.*),pid=([0-9]+),`)
	// With those before.
	byLimitOnce = regexp.MustCompile(`Task in .* killed as a result of limit of (.*)`)
	victim      = regexp.MustCompile(`Killed process ([0-9]+) \((.+)\)`)
)

// read takes the next record. It returns true at the end of a story whose reason was that the machine had no memory left.
func (s *story) read(message string) (Kill, bool) {
	if !s.told {
		s.told = strings.Contains(message, "invoked oom-killer:")
		return Kill{}, false
	}
	if parts := byLimit.FindStringSubmatch(message); parts != nil {
		*s = story{}
		return killOf(parts[2], parts[3]), parts[1] == "/"
	}
	if parts := byLimitOnce.FindStringSubmatch(message); parts != nil {
		s.inside = parts[1] != "/"
	}
	parts := victim.FindStringSubmatch(message)
	if parts == nil {
		return Kill{}, false
	}
	system := !s.inside
	*s = story{}
	return killOf(parts[2], parts[1]), system
}

func killOf(process, pid string) Kill {
	number, _ := strconv.Atoi(pid) // only digits can be there
	return Kill{Process: process, PID: number}
}
