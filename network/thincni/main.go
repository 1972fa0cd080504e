// SPDX-License-Identifier: Apache-2.0

// Command thincni is the CNI plugin of Skiff. It forwards one CNI call (the CNI_* environment and the
// configuration on standard input) over a unix socket to the server, and prints what the server
// answers. It does nothing itself: the server owns all addresses, interfaces and rules.
//
// It is started several times per pod, so it is small and starts fast: raw system calls only, no JSON
// package, no net package. The path of the socket is the value of "socket" in the configuration.
//
// Request: "NAME=value\x00" per variable, "\x00", the configuration, end of stream.
// Answer: one byte, the exit code, then the text for standard output, end of stream.
package main

import (
	"bytes"
	"syscall"
)

const (
	codeUnavailable = "50" // CNI 1.1: the plugin is not available
	codeTryAgain    = "11" // CNI 1.1: try again later
)

func main() {
	syscall.Exit(run())
}

func run() int {
	config := readAll(0)
	answer, err := forward(config)
	if err != nil || len(answer) == 0 {
		return fail(err)
	}
	writeAll(1, answer[1:])
	return int(answer[0])
}

// forward carries one call to the server and returns its answer.
func forward(config []byte) ([]byte, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socketPath(config)}); err != nil {
		return nil, err
	}
	var request []byte
	for _, variable := range syscall.Environ() {
		if len(variable) > 4 && variable[:4] == "CNI_" {
			request = append(append(request, variable...), 0)
		}
	}
	request = append(append(request, 0), config...)
	if err := writeAll(fd, request); err != nil {
		return nil, err
	}
	if err := syscall.Shutdown(fd, syscall.SHUT_WR); err != nil {
		return nil, err
	}
	return readAll(fd), nil
}

// socketPath finds "socket": "path" in the configuration. Paths with escaped characters are not used.
func socketPath(config []byte) string {
	_, rest, found := bytes.Cut(config, []byte(`"socket"`))
	if !found {
		return ""
	}
	rest = bytes.TrimLeft(rest, ": \t\r\n")
	if len(rest) == 0 || rest[0] != '"' {
		return ""
	}
	path, _, _ := bytes.Cut(rest[1:], []byte(`"`))
	return string(path)
}

// fail prints a CNI error for a server that cannot be reached: it may be starting.
func fail(err error) int {
	code := codeTryAgain
	if command, _ := syscall.Getenv("CNI_COMMAND"); command == "STATUS" {
		code = codeUnavailable
	}
	text := "no answer"
	if err != nil {
		text = err.Error()
	}
	writeAll(1, []byte(`{"cniVersion":"1.0.0","code":`+code+`,"msg":"the Skiff server cannot be reached","details":"`+text+`"}`+"\n"))
	return 1
}

func readAll(fd int) []byte {
	var all []byte
	buf := make([]byte, 16<<10)
	for {
		n, err := syscall.Read(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return all
		}
		all = append(all, buf[:n]...)
	}
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := syscall.Write(fd, data)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
