// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A caller gets a connection that is alive, with what its server has said by then, though another that waited before it was given up.
func TestJoin(t *testing.T) {
	callers, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer callers.Close()
	servers, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer servers.Close()
	connect := func() (near *server, far net.Conn) {
		far, err := net.Dial("tcp", servers.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := servers.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(far, "hello"); err != nil { // as a gRPC server does, before it hears anything
			t.Fatal(err)
		}
		return newServer(conn), far
	}
	waiting := make(chan *server, 2)
	gone, far := connect()
	far.Close()
	for deadline := time.Now().Add(30 * time.Second); len(gone.done) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end of a connection is not noticed")
		}
	}
	alive, far := connect()
	defer far.Close()
	waiting <- gone
	waiting <- alive
	go join(callers, waiting)

	caller, err := net.Dial("unix", callers.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	for _, conn := range []net.Conn{caller, far} {
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, caller, "hello")
	if _, err := io.WriteString(caller, "call"); err != nil {
		t.Fatal(err)
	}
	expect(t, far, "call")
	caller.Close()
	if n, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the caller's end: %d, %v", n, err)
	}
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
