// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3"
	"k8s.io/klog/v2"
)

// majority says that there is none, if that is so.
func (s *Store) majority() error {
	if members := len(s.Members()); members > 1 && s.server.Lead() == 0 {
		return NoMajority(members)
	}
	return nil
}

// NoMajority says that too few of so many members run.
func NoMajority(members int) error {
	return fmt.Errorf("no majority: of %d servers %d must run and reach each other", members, members/2+1)
}

// How often a member of several looks whether somebody leads, and how often nobody must have led for it to count. etcd's
// own server does the same for clients that call it by a network.
const (
	lookForLeader = time.Second
	leaderless    = 3
)

// followMajority ends all watches when there is no majority any more, until ctx ends: what they tell may be old then, and
// who reads from their caches has to hear of it.
func (s *Store) followMajority(ctx context.Context) {
	ticker := time.NewTicker(lookForLeader)
	defer ticker.Stop()
	for without := 0; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		err := s.majority()
		switch {
		case err != nil && without < leaderless:
			if without++; without == leaderless {
				klog.FromContext(ctx).Error(err, "Nothing can be written or read until there is one")
				if err := s.watches.endAll(); err != nil {
					klog.FromContext(ctx).Error(err, "Ending watches")
				}
			}
		case err == nil:
			if without == leaderless {
				klog.FromContext(ctx).Info("There is a majority of servers again")
			}
			without = 0
		}
	}
}

// patient waits out an election of the members. A read is asked once more, as etcd's client does by a network. A
// transaction is if it was surely not taken, because nobody led.
type patient struct {
	clientv3.KV
	majority func() error // says that there is none, if that is so
}

// Of what meets an election, for as long as one may take.
const (
	tries = 200
	pause = 50 * time.Millisecond
)

func (p patient) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	got, err := again(ctx, electing, func() (*clientv3.GetResponse, error) { return p.KV.Get(ctx, key, opts...) })
	return got, p.explain(err)
}

func (p patient) Txn(ctx context.Context) clientv3.Txn { return patientTxn{p, ctx, p.KV.Txn(ctx)} }

// explain says of an error that there is no majority, if that is why.
func (p patient) explain(err error) error {
	if !electing(err) && !late(err) {
		return err
	}
	if why := p.majority(); why != nil {
		return fmt.Errorf("%w (%w)", err, why)
	}
	return err
}

// late says of an error that time was up before the members had agreed. A write that nobody leads ends with that of its context.
func late(err error) bool {
	return slices.ContainsFunc([]error{
		rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, context.DeadlineExceeded,
	}, func(one error) bool { return errors.Is(err, one) })
}

// patientTxn is a transaction that may be committed until it is taken.
type patientTxn struct {
	patient
	ctx context.Context
	txn clientv3.Txn
}

func (t patientTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	return patientTxn{t.patient, t.ctx, t.txn.If(cs...)}
}
func (t patientTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	return patientTxn{t.patient, t.ctx, t.txn.Then(ops...)}
}
func (t patientTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	return patientTxn{t.patient, t.ctx, t.txn.Else(ops...)}
}

func (t patientTxn) Commit() (*clientv3.TxnResponse, error) {
	got, err := again(t.ctx, dropped, t.txn.Commit)
	return got, t.explain(err)
}

// electing says of an error of a read that there is a new leader, or none yet.
func electing(err error) bool {
	return errors.Is(err, rpctypes.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrNoLeader) || dropped(err)
}

// dropped says of an error that nobody led who could have taken what was asked for. etcd has only words for it.
func dropped(err error) bool {
	return err != nil && strings.Contains(err.Error(), raft.ErrProposalDropped.Error())
}

func again[T any](ctx context.Context, passes func(error) bool, do func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		got, err := do()
		if try == tries || !passes(err) {
			return got, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return got, err
		}
	}
}
