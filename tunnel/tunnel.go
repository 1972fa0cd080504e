// SPDX-License-Identifier: Apache-2.0

// Package tunnel is the way from a server to nodes that it cannot call: behind a router, or a firewall that lets
// nothing in. A node calls each server (Client) and keeps the connection; the server dials the node's kubelet and its
// pods through it (Server).
//
// The node asks for an upgrade of a GET of [Path], with its client certificate. Then both speak yamux. For each
// connection the server opens a stream, says "host:port\n", and the node answers with an empty line, or one that says
// why not. All that follows is the connection's.
//
// A node speaks for nobody else: the server takes its name from the certificate, asks it for addresses of its own
// range of pods or of its own Node only, and for none that another Node claims too. The node on its part dials
// nothing but those. Kubelets are asked for by the node's name, which their certificates have to show.
package tunnel

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// Path is where servers wait for nodes.
	Path = "/skiff/v1/tunnel"

	protocol = "skiff-tunnel"

	dialTimeout = 30 * time.Second
	aliveEvery  = 15 * time.Second // a connection that is dead is found out after that, and yamux's write timeout
	maxLine     = 1024
)

func sessionConfig() *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.KeepAliveInterval = aliveEvery
	cfg.LogOutput = nil
	cfg.Logger = log.New(io.Discard, "", 0) // whoever uses a session gets its errors
	return cfg
}

// readLine reads up to the end of a line and nothing beyond it: the next byte is the connection's.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	b := make([]byte, 1)
	for line.Len() < maxLine {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return line.String(), nil
		}
		line.WriteByte(b[0])
	}
	return "", fmt.Errorf("a line is longer than %d bytes: %w", maxLine, bufio.ErrTooLong)
}
