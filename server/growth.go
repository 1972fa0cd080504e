// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"sync"
)

// growth is how a server that is alone becomes one of several. It happens once in the life of a process, and not back:
// one that is left alone notices at its next start.
type growth struct {
	begin   sync.Once
	several chan struct{}            // closed when there are several servers, or are about to be
	held    map[string]chan struct{} // by Lease: closed when this server holds it that has acted alone
}

// newGrowth is that of a server that starts alone, or as one of several, and acts by these Leases.
func newGrowth(several bool, leases ...string) *growth {
	g := &growth{several: make(chan struct{}), held: map[string]chan struct{}{}}
	for _, lease := range leases {
		g.held[lease] = make(chan struct{})
	}
	if several {
		g.begin.Do(func() { close(g.several) })
		for _, held := range g.held {
			close(held) // by whom the servers have elected
		}
	}
	return g
}

// done tells whether there are several servers.
func (g *growth) done() bool {
	select {
	case <-g.several:
		return true
	default:
		return false
	}
}

// grow has this server do what one of several does, and returns when others can be without doing the same things.
func (g *growth) grow(ctx context.Context) error {
	g.begin.Do(func() { close(g.several) })
	for lease, held := range g.held {
		select {
		case <-held:
		case <-ctx.Done():
			return fmt.Errorf("take the Lease %s: %w", lease, ctx.Err())
		}
	}
	return nil
}
