// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// Client is the end of a tunnel at a node.
type Client struct {
	Server string      // host:port of the API server
	TLS    *tls.Config // the node's certificate, and whom it trusts
	// Serves tells whether the server may ask for an address of this node.
	Serves func(netip.Addr) bool
}

// settled is after how long a tunnel counts as one that worked.
const settled = 30 * time.Second

// Run keeps a tunnel open until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithValues("server", c.Server)
	var backoff wait.Backoff
	for {
		began := time.Now()
		err := c.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if backoff.Steps == 0 || time.Since(began) > settled {
			backoff = wait.Backoff{Duration: time.Second / 2, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 5 * time.Second}
		}
		delay := backoff.Step()
		logger.V(1).Info("The tunnel is closed, opening it again", "err", err, "in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
	}
}

// serve opens the tunnel and does what the server asks for, until it is closed.
func (c *Client) serve(ctx context.Context) error {
	conn, err := c.open(ctx)
	if err != nil {
		return err
	}
	session, err := yamux.Server(conn, sessionConfig())
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	var streams sync.WaitGroup
	defer streams.Wait()
	defer session.Close()
	for {
		stream, err := session.AcceptStreamWithContext(ctx)
		if err != nil {
			return err
		}
		streams.Go(func() {
			defer stream.Close()
			c.connect(ctx, stream)
		})
	}
}

// open calls the server and asks for the upgrade.
func (c *Client) open(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	config := c.TLS.Clone()
	config.NextProtos = []string{"http/1.1"} // nothing can be upgraded in HTTP/2
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", c.Server)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Server+Path, nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", protocol)
	if err := request.Write(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.Join(fmt.Errorf("the server answers %s", response.Status), conn.Close())
	}
	_ = conn.SetDeadline(time.Time{})
	return bufferedConn{conn, reader}, nil
}

// connect dials what the server asks for, and copies both ways.
func (c *Client) connect(ctx context.Context, stream *yamux.Stream) {
	_ = stream.SetReadDeadline(time.Now().Add(dialTimeout))
	address, err := readLine(stream)
	if err != nil {
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	conn, err := c.dial(ctx, address)
	if err != nil {
		_, _ = io.WriteString(stream, err.Error()+"\n") // whoever asked may be gone
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(stream, "\n"); err != nil {
		return
	}
	splice(ctx, stream, conn)
}

func (c *Client) dial(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if !c.Serves(to.Addr().Unmap()) {
		return nil, fmt.Errorf("%s is not an address of this node", to.Addr())
	}
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
}

// splice copies both ways. A server that closes its end wants nothing more; what closes its end here may still listen.
func splice(ctx context.Context, stream *yamux.Stream, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		defer conn.Close()
		_, _ = io.Copy(conn, stream)
	})
	_, _ = io.Copy(stream, conn)
	_ = stream.Close() // our half: what the server still sends arrives
	up.Wait()
}
