// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net"
	"sync"
)

// noListener stands in where nobody outside is served: the machinery only stops in order if it has a
// listener to stop.
type noListener struct {
	closed chan struct{}
	close  func()
}

func newNoListener() *noListener {
	l := &noListener{closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

// Accept implements net.Listener: it waits until Close.
func (l *noListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *noListener) Close() error {
	l.close()
	return nil
}

func (l *noListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
