// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"k8s.io/klog/v2"
)

// Member is one server's copy of the data.
type Member struct {
	ID      uint64 `json:"id"`
	Name    string `json:"name"` // empty until it has started for the first time
	PeerURL string `json:"peerURL"`
	// Learner says that it does not count for a majority: it is still catching up.
	Learner bool `json:"learner,omitempty"`
	// Leads says that it decides what is written, as far as the member knows that was asked.
	Leads bool `json:"leads,omitempty"`
}

// Peers is how members reach each other. Both ends show a certificate.
type Peers struct {
	Address string            // host:port of this member; the port is listened at
	Serve   *tls.Config       // of the listener
	Dial    transport.TLSInfo // of calls to others: files, so that etcd sees when they are renewed
}

func (p *Peers) url() string { return "https://" + p.Address }

// peerURL is the address of this member. Without Peers nothing listens there.
func (cfg Config) peerURL() string {
	if cfg.Peers == nil {
		return "http://localhost:2380"
	}
	return cfg.Peers.url()
}

// urlsOf is what etcd wants to know of the members to join. Those that have not told their names get some.
func urlsOf(members []Member) (types.URLsMap, error) {
	out := types.URLsMap{}
	for _, m := range members {
		urls, err := types.NewURLs([]string{m.PeerURL})
		if err != nil {
			return nil, fmt.Errorf("parse the address of member %s: %w", m.Name, err)
		}
		out[cmp.Or(m.Name, strconv.FormatUint(m.ID, 16))] = urls
	}
	return out, nil
}

// ErrRemoved says that the other members know this one no more.
var ErrRemoved = errors.New("this server was removed from its cluster (skiff uninstall takes away what it has; then it can join anew)")

// patience is after what time somebody is told that members are waited for.
const patience = 5 * time.Second

// becomeReady waits until the member serves and counts for a majority.
func (s *Store) becomeReady(ctx context.Context) error {
	if len(s.Members()) > 1 && !s.cfg.Reset {
		if err := s.listen(); err != nil {
			return err
		}
	}
	if err := s.electAlone(ctx); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	if err := s.promote(ctx); err != nil {
		return err
	}
	if len(s.Members()) > 1 && !s.cfg.Reset {
		return s.publishAddress(ctx)
	}
	return nil
}

func (s *Store) awaitReady(ctx context.Context) error {
	waiting := time.NewTimer(patience)
	defer waiting.Stop()
	for {
		select {
		case <-s.server.ReadyNotify():
			return nil
		case <-s.server.StopNotify():
			return ErrRemoved
		case <-ctx.Done():
			return ctx.Err()
		case <-waiting.C:
			if s.cfg.Waiting != nil {
				s.cfg.Waiting(len(s.Members()))
			}
		}
	}
}

// electAlone has the only voter of a cluster elect itself, which it would do by itself seconds later.
func (s *Store) electAlone(ctx context.Context) error {
	id := uint64(s.server.MemberID())
	for s.server.Lead() == 0 && s.isOnlyVoter() {
		if hasApplied(id) {
			err := s.server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id})
			if err != nil {
				return err
			}
		}
		if err := s.wait(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// wait returns an error if etcd or ctx ends meanwhile.
func (s *Store) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.server.StopNotify():
		return ErrRemoved
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hasApplied tells whether raft knows that all that it has committed was applied. As long as it does not, who has it elect looks
// through the rest for changes of the membership, and ends the process if etcd does not keep that in memory any more. Raft's own
// state is only to be had from the variable that etcd publishes, which is of the member that was started last: another has to
// wait for the silence that leads to an election.
func hasApplied(id uint64) bool {
	published, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return false
	}
	status, ok := published.Value().(raft.Status)
	return ok && status.ID == id && status.Applied >= status.HardState.GetCommit()
}

func (s *Store) isOnlyVoter() bool {
	voters := slices.DeleteFunc(s.Members(), func(m Member) bool { return m.Learner })
	return len(voters) == 1 && voters[0].ID == uint64(s.server.MemberID())
}

// promote makes a member that is new count, as soon as it has caught up.
func (s *Store) promote(ctx context.Context) error {
	for s.server.IsLearner() {
		_, err := s.server.PromoteMember(ctx, uint64(s.server.MemberID()))
		switch {
		case errors.Is(err, membership.ErrMemberNotLearner): // an answer was lost
			return nil
		case errors.Is(err, membership.ErrIDNotFound):
			return ErrRemoved
		case err != nil && !errors.Is(err, etcderrors.ErrLearnerNotReady):
			klog.FromContext(ctx).V(1).Info("Becoming a full member, trying again", "err", err)
		}
		if err := s.wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// listen lets other members in.
func (s *Store) listen() error {
	s.listening.Lock()
	defer s.listening.Unlock()
	if s.peers != nil {
		return nil
	}
	if s.cfg.Peers == nil {
		return errors.New("the data is that of several servers, and there is no address for them to reach each other")
	}
	_, port, err := net.SplitHostPort(s.cfg.Peers.Address)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("", port))
	if err != nil {
		return fmt.Errorf("listen for other servers: %w", err)
	}
	s.peers = &http.Server{
		Handler:           etcdhttp.NewPeerHandler(s.cfg.Logger, s.server),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // members say themselves what they could not do
	}
	go func() { _ = s.peers.Serve(tls.NewListener(listener, s.cfg.Peers.Serve)) }() // until it is closed
	s.work.Go(func() { s.followMajority(s.working) })
	return nil
}

// Members are all members, as far as this one knows.
func (s *Store) Members() []Member {
	var out []Member
	for _, m := range s.server.Cluster().Members() {
		member := newMember(uint64(m.ID), m.Name, m.IsLearner, m.PeerURLs)
		member.Leads = member.ID == s.server.Lead()
		out = append(out, member)
	}
	return out
}

// newMember is a member as etcd describes it. It has one address, if it has told it.
func newMember(id uint64, name string, learner bool, peerURLs []string) Member {
	m := Member{ID: id, Name: name, Learner: learner}
	if len(peerURLs) > 0 {
		m.PeerURL = peerURLs[0]
	}
	return m
}

// Stopped is closed when etcd has ended, also by itself: because this member was removed.
func (s *Store) Stopped() <-chan struct{} { return s.server.StopNotify() }

// publishAddress tells the others where this member is, if that has changed.
func (s *Store) publishAddress(ctx context.Context) error {
	id, url := uint64(s.server.MemberID()), s.cfg.peerURL()
	if slices.ContainsFunc(s.Members(), func(m Member) bool { return m.ID == id && m.PeerURL == url }) {
		return nil
	}
	for {
		_, err := s.server.UpdateMember(ctx, membership.Member{ID: s.server.MemberID(), RaftAttributes: membership.RaftAttributes{PeerURLs: []string{url}}})
		if err == nil {
			return nil
		}
		err = fmt.Errorf("tell the other servers of the address %s: %w", url, err)
		if !unled(err) {
			return err
		}
		klog.FromContext(ctx).V(1).Info("Trying again", "err", err)
		if ended := s.wait(ctx, time.Second/2); ended != nil {
			return errors.Join(err, ended)
		}
	}
}

// unled says of an error of etcd's server that there is a new leader, or none yet.
func unled(err error) bool {
	return dropped(err) || slices.ContainsFunc([]error{
		etcderrors.ErrNoLeader, etcderrors.ErrLeaderChanged, etcderrors.ErrTimeout, etcderrors.ErrTimeoutDueToLeaderFail, etcderrors.ErrTimeoutDueToConnectionLost,
	}, func(passing error) bool { return errors.Is(err, passing) })
}

// Invite makes a place for one more member, and returns all members with it. The new one learns until it promotes
// itself. Who was invited and has not become a full member may ask again.
func (s *Store) Invite(ctx context.Context, name, peerURL string) ([]Member, error) {
	if err := s.listen(); err != nil {
		return nil, err
	}
	if err := s.publishAddress(ctx); err != nil {
		return nil, err
	}
	s.keepForOthers()
	for {
		members, err := s.list(ctx)
		if err != nil {
			return nil, err
		}
		if old := slices.IndexFunc(members, func(m Member) bool { return m.Name == name || m.PeerURL == peerURL }); old >= 0 {
			if !members[old].Learner {
				return nil, fmt.Errorf("there is a server %s at %s already (skiff members remove %[1]s, if it will not come back)", cmp.Or(members[old].Name, "without a name"), members[old].PeerURL)
			}
			// Its data may be lost: under a new ID nobody believes that it has what it once had.
			if _, err := s.client.MemberRemove(ctx, members[old].ID); err != nil {
				return nil, fmt.Errorf("begin anew with the server %s: %w", name, err)
			}
		}
		added, err := s.client.MemberAddAsLearner(ctx, []string{peerURL})
		if err == nil {
			members, err := s.list(ctx)
			for i := range members {
				if members[i].ID == added.Member.ID {
					members[i].Name = name
				}
			}
			return members, err
		}
		if !waitOut(ctx, err, rpctypes.ErrTooManyLearners, rpctypes.ErrUnhealthy, errIDRemoved) {
			return nil, fmt.Errorf("add the server %s: %w", name, err)
		}
	}
}

// errIDRemoved says of a new member that its ID is that of a removed one: IDs are made of the address and the second.
var errIDRemoved = rpctypes.ErrMemberNotFound

// waitOut waits a little if err is one of those that go away: another server is joining, or one has only just come back.
func waitOut(ctx context.Context, err error, passing ...error) bool {
	if !slices.ContainsFunc(passing, func(p error) bool { return errors.Is(err, p) }) {
		return false
	}
	select {
	case <-time.After(time.Second / 2):
		return true
	case <-ctx.Done():
		return false
	}
}

// list returns all members, as the majority knows them.
func (s *Store) list(ctx context.Context) ([]Member, error) {
	list, err := s.client.MemberList(ctx)
	if err != nil {
		return nil, errors.Join(s.majority(), fmt.Errorf("list the members of etcd: %w", err))
	}
	var out []Member
	for _, m := range list.Members {
		out = append(out, newMember(m.ID, m.Name, m.IsLearner, m.PeerURLs))
	}
	return out, nil
}

// Remove takes a member out, by its name. It cannot come back but by joining anew.
func (s *Store) Remove(ctx context.Context, name string) error {
	members, err := s.list(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m Member) bool { return m.Name == name || strconv.FormatUint(m.ID, 16) == name })
	if i < 0 {
		return fmt.Errorf("there is no server %s", name)
	}
	if len(members) == 1 {
		return fmt.Errorf("%s is the only server (skiff uninstall, there, removes the cluster)", name)
	}
	for {
		s.handOver(ctx, members, members[i].ID)
		_, err := s.client.MemberRemove(ctx, members[i].ID)
		itself := members[i].ID == uint64(s.server.MemberID()) && s.working.Err() == nil
		if err == nil || itself && errors.Is(err, rpctypes.ErrStopped) { // the others tell it so, and then it stops
			return nil
		}
		if !waitOut(ctx, err, rpctypes.ErrUnhealthy) {
			return fmt.Errorf("remove the server %s: %w", name, err)
		}
	}
}

// handOver has another member lead, if the one that leaves does: else nobody would until the others miss it. Nothing is lost if none
// takes over.
func (s *Store) handOver(ctx context.Context, members []Member, leaving uint64) {
	heirs := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.ID == leaving || m.Learner })
	if own := slices.IndexFunc(heirs, func(m Member) bool { return m.ID == uint64(s.server.MemberID()) }); own > 0 {
		heirs[0], heirs[own] = heirs[own], heirs[0] // who was asked is surely there
	}
	patience := time.Duration(s.server.Cfg.TickMs) * time.Millisecond * electionTicks // raft's own, with one of them
	for _, heir := range heirs {
		if s.server.Lead() != leaving {
			return
		}
		trying, cancel := context.WithTimeout(ctx, patience)
		err := s.server.MoveLeader(trying, leaving, heir.ID)
		cancel()
		if err != nil {
			klog.FromContext(ctx).Info("A server does not take over from the one that leads and is to be removed", "server", heir.Name, "err", err)
		}
	}
}

// keepForOthers has etcd keep as much of its log as it does where there are several members from the start: who is away for a moment
// gets what it has missed, and not the whole database. etcd reads the number whenever it has compacted the log, by a goroutine of its
// own: half of a number it never sees, since both are small.
func (s *Store) keepForOthers() {
	atomic.StoreUint64(&s.server.Cfg.SnapshotCatchUpEntries, catchUpSeveral)
}
