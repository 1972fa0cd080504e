// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
	"sync"
)

// closingListener remembers its open connections, so that the server can end those that http.Server no longer
// knows: the ones that were upgraded to streams.
type closingListener struct {
	net.Listener

	mu   sync.Mutex // guards open
	open map[*trackedConn]struct{}
}

type trackedConn struct {
	net.Conn
	from *closingListener
}

func newClosingListener(l net.Listener) *closingListener {
	return &closingListener{Listener: l, open: map[*trackedConn]struct{}{}}
}

func (l *closingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, from: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[tracked] = struct{}{}
	return tracked, nil
}

// closeAll closes the connections that are open. It is for after the last Accept.
func (l *closingListener) closeAll() {
	l.mu.Lock()
	var conns []*trackedConn
	for c := range l.open {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (c *trackedConn) Close() error {
	c.from.mu.Lock()
	delete(c.from.open, c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}
