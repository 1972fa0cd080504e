// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel has one real-time clock for all: its time namespaces do not cover that one. But a Go program does not ask the
// kernel what time it is. It calls a function that the kernel has put into each process with the program, in the vDSO. That
// is a copy of the process's own as soon as somebody writes to it, and who may debug a process may: a debugger sets its
// breakpoints so. Thus a few instructions in the place of the function, of amd64, add to the clock's seconds a number behind
// them, which can be changed at any time. They are put there between the program's exec and its first instruction.
const (
	clockFunction = "__vdso_clock_gettime" // of the number of a clock, and of where the time is to be written
	clockCode     = "" +
		"\xb8\xe4\x00\x00\x00" + //             mov  $228, %eax        clock_gettime(2)
		"\x0f\x05" + //                         syscall
		"\x85\xff" + //                         test %edi, %edi
		"\x75\x0a" + //                         jne  1f                of CLOCK_REALTIME only
		"\x48\x8b\x0d\x06\x00\x00\x00" + //     mov  2f(%rip), %rcx
		"\x48\x01\x0e" + //                     add  %rcx, (%rsi)
		"\xc3" + //                          1: ret
		"\x90\x90" //                           nop; nop
		//                                       2: the number of seconds
)

// StartWithClock is Start for a Go program whose clock is ahead of the machine's by a number of seconds, or behind it by a
// negative one. Timers run as they do, and what the program starts has the machine's clock. See also [Process.SetClock].
func (h *Host) StartWithClock(cmd *exec.Cmd, ahead time.Duration) (*Process, error) {
	gate, behind, err := newGate()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	cmd.Args = slices.Insert(cmd.Args, len(h.enter())+1, "sh", "-c", fmt.Sprintf(`echo >&%d; read -r _ <&%[1]d; exec "$@" %[1]d<&-`, 3+len(cmd.ExtraFiles)), "sh")
	cmd.ExtraFiles = append(cmd.ExtraFiles, behind)
	p, err := h.Start(cmd)
	behind.Close()
	if err != nil {
		return nil, err
	}
	if err := p.divert(gate, ahead); err != nil {
		cmd.Process.Kill()
		<-p.done
		return nil, fmt.Errorf("give a process a clock of its own: %w", err)
	}
	return p, nil
}

// SetClock sets the clock of a process that has one of its own.
func (p *Process) SetClock(ahead time.Duration) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	_, err = mem.WriteAt(seconds(ahead), p.clock)
	return err
}

func seconds(d time.Duration) []byte {
	return binary.NativeEndian.AppendUint64(nil, uint64(d/time.Second))
}

// newGate makes the two ends of a connection. The process behind it says that it is there, and waits for an answer.
func newGate() (gate, behind *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a gate: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "gate"), os.NewFile(uintptr(fds[1]), "behind the gate"), nil
}

// divert lets the process pass the gate, behind which it is another program, and gives that the clock.
func (p *Process) divert(gate *os.File, ahead time.Duration) error {
	if _, err := io.ReadFull(gate, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for it: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // who traces is a thread; it ends with this goroutine
		done <- atExec(p.pid, func() error {
			_, err := gate.Write([]byte("\n"))
			return err
		}, func() (err error) {
			p.clock, err = divert(p.pid, ahead)
			return err
		})
	}()
	return <-done
}

// atExec calls pass, and then f while the process is between its next exec and the new program's first instruction.
func atExec(pid int, pass, f func() error) error {
	err := unix.PtraceAttach(pid)
	if err == nil {
		_, err = awaitStop(pid) // which is how attaching begins
	}
	if err == nil {
		err = unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXEC)
	}
	if err == nil {
		err = unix.PtraceCont(pid, 0)
	}
	if err == nil {
		err = pass()
	}
	for err == nil {
		var stop unix.WaitStatus
		if stop, err = awaitStop(pid); err != nil {
			break
		}
		if stop.TrapCause() == unix.PTRACE_EVENT_EXEC {
			return errors.Join(f(), unix.PtraceDetach(pid))
		}
		err = unix.PtraceCont(pid, int(stop.StopSignal())) // a signal that is for it
	}
	return fmt.Errorf("trace it: %w", err)
}

func awaitStop(pid int) (status unix.WaitStatus, err error) {
	for {
		switch _, err = unix.Wait4(pid, &status, unix.WALL, nil); {
		case errors.Is(err, syscall.EINTR):
		case err == nil && !status.Stopped():
			return status, errors.New("it has ended")
		default:
			return status, err
		}
	}
}

// divert changes the vDSO of a process, and returns where in its memory the number of seconds is.
func divert(pid int, ahead time.Duration) (int64, error) {
	if runtime.GOARCH != "amd64" {
		return 0, fmt.Errorf("there is no code for %s that does it", runtime.GOARCH)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	start, end, err := findVDSO(string(maps))
	if err != nil {
		return 0, err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer mem.Close()
	image := make([]byte, end-start)
	if _, err := mem.ReadAt(image, start); err != nil {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	offset, room, err := findFunction(image, clockFunction)
	if err != nil {
		return 0, err
	}
	code := append([]byte(clockCode), seconds(ahead)...)
	if len(code) > room {
		return 0, fmt.Errorf("%s has %d bytes, but %d are needed", clockFunction, room, len(code))
	}
	if _, err := mem.WriteAt(code, start+offset); err != nil {
		return 0, fmt.Errorf("write to the vDSO: %w", err)
	}
	return start + offset + int64(len(clockCode)), nil
}

func findVDSO(maps string) (start, end int64, err error) {
	for line := range strings.Lines(maps) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err := fmt.Sscanf(line, "%x-%x", &start, &end)
			return start, end, err
		}
	}
	return 0, 0, errors.New("it has no vDSO")
}

// findFunction returns where in an ELF image a function begins, and how long it is.
func findFunction(image []byte, name string) (offset int64, size int, err error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, fmt.Errorf("read the vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, 0, fmt.Errorf("read the vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == name {
			return int64(s.Value), int(s.Size), nil
		}
	}
	return 0, 0, fmt.Errorf("the vDSO has no %s", name)
}
