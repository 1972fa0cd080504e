// SPDX-License-Identifier: Apache-2.0

package diskusage

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// patience is how long a file system may take to say how full it is.
const patience = 2 * time.Second

// Asker asks file systems that may not answer, such as those of a server that is away, and gives them up then. The zero value
// is ready.
type Asker struct {
	ask func(dir string) (FileSystem, error) // nil: OfFileSystem

	mu      sync.Mutex
	waiting map[string]chan struct{} // guarded by mu: folders whose file systems have been asked; closed when they have answered
}

// OfFileSystem is OfFileSystem, but for those that do not answer: that is an error. They are not asked again before they have.
func (a *Asker) OfFileSystem(ctx context.Context, dir string) (FileSystem, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the file system of %s does not answer", dir))
	defer cancel()
	answered, first := a.begin(dir)
	for !first {
		select {
		case <-answered: // somebody else's question; ours is next
			answered, first = a.begin(dir)
		case <-ctx.Done():
			return FileSystem{}, context.Cause(ctx)
		}
	}
	var f FileSystem
	var err error
	go func() {
		ask := a.ask
		if ask == nil {
			ask = OfFileSystem
		}
		f, err = ask(dir)
		a.mu.Lock()
		delete(a.waiting, dir)
		a.mu.Unlock()
		close(answered)
	}()
	select {
	case <-answered:
		return f, err
	case <-ctx.Done():
		return FileSystem{}, context.Cause(ctx)
	}
}

// begin says whether it is the caller who has to ask.
func (a *Asker) begin(dir string) (answered chan struct{}, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if answered, asked := a.waiting[dir]; asked {
		return answered, false
	}
	if a.waiting == nil {
		a.waiting = map[string]chan struct{}{}
	}
	a.waiting[dir] = make(chan struct{})
	return a.waiting[dir], true
}
