// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// prepare looks at what an earlier process has left, before etcd does: etcd panics on a database that it cannot
// open, and waits for ever for a member whose first start was cut short before its log had a first entry. Such a
// member has never served; it is removed, so that a new one can be made. prepare returns how many members the
// database knows, 0 if there is none.
func prepare(dir string, logger *zap.Logger) (members int, err error) {
	member := filepath.Join(dir, "member")
	if !exists(member) {
		return 0, nil
	}
	hasServed, members, err := served(dir, logger)
	if hasServed || err != nil {
		return members, err
	}
	logger.Info("removing a database whose first start was cut short", zap.String("dir", member))
	return 0, os.RemoveAll(member)
}

// HasData tells whether a directory has the data of a member that has served.
func HasData(dir string) (bool, error) {
	if !exists(filepath.Join(dir, "member")) {
		return false, nil
	}
	hasServed, _, err := served(dir, zap.New(klogCore{}))
	return hasServed, err
}

// served tells whether the member in a directory has ever committed anything, and how many members its database knows. Its
// log is read only if the database says nothing about it, which it does a second after the first commit.
func served(dir string, logger *zap.Logger) (has bool, members int, err error) {
	has, members, err = readDatabase(filepath.Join(dir, "member", "snap", "db"))
	if !has && err == nil {
		has, err = hasCommitted(filepath.Join(dir, "member", "wal"), logger)
	}
	if err != nil {
		return false, 0, fmt.Errorf("%w (put a copy of the data in its place, or remove %s to begin anew)", err, dir)
	}
	return has, members, nil
}

func hasCommitted(dir string, logger *zap.Logger) (bool, error) {
	if !wal.Exist(dir) {
		return false, nil
	}
	log, err := wal.OpenForRead(logger, dir, &walpb.Snapshot{})
	if err != nil {
		return false, fmt.Errorf("open the log %s: %w", dir, err)
	}
	defer log.Close()
	_, state, _, err := log.ReadAll()
	if err != nil {
		return false, fmt.Errorf("read the log %s: %w", dir, err)
	}
	return state.GetCommit() > 0, nil
}

// lockPatience is how long a process that ends may still hold the database.
const lockPatience = time.Second

// readDatabase tells whether a database says that something was applied to it, and how many members it knows.
func readDatabase(path string) (applied bool, members int, err error) {
	if !exists(path) {
		return false, 0, nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockPatience})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return false, 0, fmt.Errorf("open the database %s: another process has it open", path)
	}
	if err != nil {
		return false, 0, fmt.Errorf("open the database %s: %w", path, err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(schema.Meta.Name())
		applied = meta != nil && len(meta.Get(schema.MetaConsistentIndexKeyName)) > 0
		if known := tx.Bucket(schema.Members.Name()); known != nil {
			return known.ForEach(func(_, _ []byte) error { members++; return nil })
		}
		return nil
	})
	return applied, members, errors.Join(err, db.Close())
}
