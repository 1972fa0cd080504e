// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.uber.org/zap"
)

// Snapshot is the whole database at one moment, in the form of etcd's own tools: its file, and a hash of it.
// Whoever holds one keeps the database from giving room back, so it has to be closed.
type Snapshot struct{ database backend.Snapshot }

// Snapshot returns the database of this moment: everything that any member has acknowledged so far is in it.
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error) {
	if _, err := s.Client().Get(ctx, "snapshot"); err != nil { // which waits until this member has what others have
		return nil, errors.Join(s.majority(), fmt.Errorf("read from etcd: %w", err))
	}
	return &Snapshot{s.server.Backend().Snapshot()}, nil
}

// Size is how many bytes WriteTo writes.
func (s *Snapshot) Size() int64 { return s.database.Size() + sha256.Size }

// WriteTo implements io.WriterTo.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	hash := sha256.New()
	n, err := s.database.WriteTo(io.MultiWriter(w, hash))
	if err != nil {
		return n, err
	}
	m, err := w.Write(hash.Sum(nil))
	return n + int64(m), err
}

// Close gives the database's room free.
func (s *Snapshot) Close() error { return s.database.Close() }

// revisionsLater is how much later than before revisions go on after a restore. Clients that outlive it have seen some that the
// snapshot does not have: they must never be given to something else. It is what etcd's documentation advises.
const revisionsLater = 1_000_000_000

// Restore makes a database of one member in cfg.Dir, which must be empty or missing, of a file with what a Snapshot has
// written. Clients that have seen the cluster before have to list anew.
func Restore(cfg Config, file string) error {
	logger := cfg.Logger
	if logger == nil {
		logger = zap.New(klogCore{})
	}
	name, url := cmp.Or(cfg.Name, "default"), cfg.peerURL()
	err := snapshot.NewV3(logger).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: name, OutputDataDir: cfg.Dir, PeerURLs: []string{url}, InitialCluster: name + "=" + url,
		InitialClusterToken: uuid.NewString(), RevisionBump: revisionsLater, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	return nil
}
