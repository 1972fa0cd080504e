// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"
)

// runProxy joins connections to a socket of the node with connections to a port of the pod, by which a driver inside e2e.test is
// reached.
func runProxy(socket, address string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	callers, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	servers, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	waiting := make(chan *server, 64)
	go accept(servers, waiting)
	return join(callers, waiting)
}

// accept takes the servers' connections, which are made before there are callers.
func accept(servers net.Listener, waiting chan<- *server) {
	defer close(waiting)
	for {
		conn, err := servers.Accept()
		if err != nil {
			return
		}
		waiting <- newServer(conn)
	}
}

// join gives each caller one of the servers' connections.
func join(callers net.Listener, waiting <-chan *server) error {
	for n := 1; ; n++ {
		caller, err := callers.Accept()
		if err != nil {
			return err
		}
		from, said, err := next(waiting)
		if err != nil {
			return errors.Join(err, caller.Close())
		}
		fmt.Fprintln(os.Stderr, "hostpathplugin: connection", n) // and the end of this program, when nobody listens any more
		go pipe(caller, io.MultiReader(bytes.NewReader(said), from), from)
		go pipe(from, caller, caller)
	}
}

// next passes over servers that have given up while they waited.
func next(waiting <-chan *server) (conn net.Conn, said []byte, err error) {
	for s := range waiting {
		if said, err := s.take(); err == nil {
			return s.conn, said, nil
		}
		s.conn.Close()
	}
	return nil, nil, errors.New("no server can connect any more")
}

// server is a connection that waits for its caller. Reading is how it shows that the other side has left.
type server struct {
	conn net.Conn
	said bytes.Buffer // so far
	done chan error
}

func newServer(conn net.Conn) *server {
	s := &server{conn: conn, done: make(chan error, 1)}
	go func() {
		_, err := s.said.ReadFrom(conn) // nil at the other side's end
		s.done <- err
	}()
	return s
}

// take ends the waiting and returns what the other side has said meanwhile.
func (s *server) take() ([]byte, error) {
	if err := s.conn.SetReadDeadline(time.Now()); err != nil {
		return nil, err
	}
	if err := <-s.done; !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("the other side has left: %w", cmp.Or(err, io.EOF))
	}
	return s.said.Bytes(), s.conn.SetReadDeadline(time.Time{})
}

// pipe copies until either side is done, and ends both.
func pipe(to net.Conn, what io.Reader, from net.Conn) {
	io.Copy(to, what)
	to.Close()
	from.Close()
}
