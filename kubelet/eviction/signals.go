// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/diskusage"
)

// Observation is what there is of something.
type Observation struct{ Available, Capacity int64 }

// Signals are all that there are.
var Signals = order

// order is that in which what runs short is dealt with: memory first, since it cannot wait.
var order = []Signal{PodsMemory, MemoryAvailable, NodeFSAvailable, NodeFSInodesFree, ImageFSAvailable, ImageFSInodesFree, PIDAvailable}

var conditions = map[Signal]v1.NodeConditionType{
	MemoryAvailable: v1.NodeMemoryPressure, PodsMemory: v1.NodeMemoryPressure, NodeFSAvailable: v1.NodeDiskPressure, NodeFSInodesFree: v1.NodeDiskPressure,
	ImageFSAvailable: v1.NodeDiskPressure, ImageFSInodesFree: v1.NodeDiskPressure, PIDAvailable: v1.NodePIDPressure,
}

// resources are what a signal is about, in messages.
var resources = map[Signal]v1.ResourceName{
	MemoryAvailable: v1.ResourceMemory, PodsMemory: v1.ResourceMemory, NodeFSAvailable: v1.ResourceEphemeralStorage, NodeFSInodesFree: "inodes",
	ImageFSAvailable: v1.ResourceEphemeralStorage, ImageFSInodesFree: "inodes", PIDAvailable: "pids",
}

func isDisk(s Signal) bool { return conditions[s] == v1.NodeDiskPressure }

// Of is the threshold as a quantity, of so much that there is.
func (t Threshold) Of(capacity int64) int64 {
	if t.Percent > 0 {
		return capacity / 100 * t.Percent
	}
	return t.Quantity
}

// met lists the signals that are below their threshold, the most urgent first.
func met(thresholds map[Signal]Threshold, seen map[Signal]Observation) []Signal {
	var short []Signal
	for _, s := range order {
		t, set := thresholds[s]
		o, known := seen[s]
		if set && known && o.Available < t.Of(o.Capacity) {
			short = append(short, s)
		}
	}
	return short
}

// observe reads what is left on this machine. What cannot be read is left out. Images on the same file system as all
// else need no threshold of their own.
func observe(root, imageFS string) map[Signal]Observation {
	seen := map[Signal]Observation{}
	if memory, ok := memory(); ok {
		seen[MemoryAvailable] = memory
	}
	if bytes, inodes, ok := fileSystem(root); ok {
		seen[NodeFSAvailable], seen[NodeFSInodesFree] = bytes, inodes
	}
	if bytes, inodes, ok := fileSystem(imageFS); ok {
		seen[ImageFSAvailable], seen[ImageFSInodesFree] = bytes, inodes
	}
	if pids, ok := pids(); ok {
		seen[PIDAvailable] = pids
	}
	return seen
}

// memory takes the kernel's own estimate of what can be had without swapping.
func memory() (o Observation, ok bool) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return o, false
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64) // the kernel writes numbers there
		switch fields[0] {
		case "MemTotal:":
			o.Capacity = n << 10
		case "MemAvailable:":
			o.Available, ok = n<<10, true
		}
	}
	return o, ok && o.Capacity > 0
}

func fileSystem(dir string) (bytes, inodes Observation, ok bool) {
	f, err := diskusage.OfFileSystem(dir)
	if dir == "" || err != nil || f.Capacity == 0 {
		return bytes, inodes, false
	}
	bytes = Observation{int64(f.Available), int64(f.Capacity)}
	return bytes, Observation{int64(f.InodesFree), int64(f.Inodes)}, true // a file system that counts no inodes has 0 of 0
}

func pids() (o Observation, ok bool) {
	most, err := number("/proc/sys/kernel/pid_max")
	if err != nil {
		return o, false
	}
	if threads, err := number("/proc/sys/kernel/threads-max"); err == nil {
		most = min(most, threads)
	}
	data, err := os.ReadFile("/proc/loadavg") // "0.1 0.2 0.3 running/all last"
	if err != nil {
		return o, false
	}
	fields := strings.Fields(string(data))
	if len(fields) < 4 {
		return o, false
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, err := strconv.ParseInt(all, 10, 64)
	return Observation{most - n, most}, err == nil
}

// PIDs is how many processes the machine can have.
func PIDs() int64 {
	o, _ := pids()
	return o.Capacity
}

func number(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// stall is when the kernel is to tell us: processes waited for memory 150 ms of a second.
const stall = "some 150000 1000000"

// watchMemory returns a channel that tells when processes wait for memory, until ctx ends. On a kernel without PSI it
// stays silent.
func watchMemory(ctx context.Context) <-chan struct{} {
	told := make(chan struct{}, 1)
	fd, err := unix.Open("/proc/pressure/memory", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return told
	}
	if _, err := unix.Write(fd, append([]byte(stall), 0)); err != nil {
		_ = unix.Close(fd)
		return told
	}
	wake := make([]int, 2)
	if err := unix.Pipe2(wake, unix.O_CLOEXEC); err != nil {
		_ = unix.Close(fd)
		return told
	}
	context.AfterFunc(ctx, func() { _ = unix.Close(wake[1]) }) // ends the poll below
	go func() {
		defer unix.Close(fd)
		defer unix.Close(wake[0])
		files := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
		for {
			_, err := unix.Poll(files, -1)
			if err == unix.EINTR {
				continue
			}
			if err != nil || files[1].Revents != 0 || files[0].Revents&unix.POLLERR != 0 {
				return
			}
			select {
			case told <- struct{}{}:
			default:
			}
			time.Sleep(stallPause) // a second window at the earliest
		}
	}()
	return told
}
