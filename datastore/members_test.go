// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-k8s/skiff/pki"
)

// host is where a member can run.
type host struct {
	t   *testing.T
	cfg Config
	*Store
}

// newHosts share one authority.
func newHosts(t *testing.T, names ...string) []*host {
	t.Helper()
	keys, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(keys.EtcdPeerCA.PEM())
	cert, key := keys.EtcdPeer.Files()
	var hosts []*host
	for _, name := range names {
		hosts = append(hosts, &host{t: t, cfg: Config{Dir: t.TempDir(), Name: name, TickMs: 60, Peers: &Peers{
			Address: freeAddress(t),
			Serve:   &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: keys.EtcdPeer.GetCertificate, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
			Dial:    transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: keys.EtcdPeerCA.File()},
		}}})
	}
	return hosts
}

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	return free.Addr().String()
}

func (h *host) open(join ...Member) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	h.cfg.Join = join
	store, err := Open(ctx, h.cfg)
	if err == nil {
		h.Store = store
		h.t.Cleanup(func() { store.Close() })
	}
	return err
}

func (h *host) mustOpen(join ...Member) {
	h.t.Helper()
	if err := h.open(join...); err != nil {
		h.t.Fatalf("open %s: %v", h.cfg.Name, err)
	}
}

// joins has h invited by another one.
func (h *host) joins(other *host) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	members, err := other.Invite(ctx, h.cfg.Name, h.cfg.peerURL())
	if err != nil {
		h.t.Fatalf("invite %s: %v", h.cfg.Name, err)
	}
	h.mustOpen(members...)
}

func (h *host) put(key, value string) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	_, err := h.Client().Put(ctx, key, value)
	return err
}

func (h *host) mustPut(key, value string) {
	h.t.Helper()
	if err := h.put(key, value); err != nil {
		h.t.Fatalf("put at %s: %v", h.cfg.Name, err)
	}
}

func (h *host) wants(key, value string) {
	h.t.Helper()
	got, err := h.Client().Get(h.t.Context(), key)
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		h.t.Errorf("%s has %s = %v, %v; want %s", h.cfg.Name, key, got, err, value)
	}
}

// listens tells whether something is at the member's port.
func (h *host) listens() bool {
	conn, err := net.Dial("tcp", h.cfg.Peers.Address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// Three servers have the same data, and go on with two of them, whichever is away.
func TestMembers(t *testing.T) {
	hosts := newHosts(t, "a", "b", "c")
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.mustOpen()
	a.mustPut("early", "1")
	if a.listens() {
		t.Error("a single member listens")
	}
	b.joins(a)
	c.joins(b)
	for _, h := range hosts {
		h.wants("early", "1")
		if members := h.Members(); len(members) != 3 || slices.ContainsFunc(members, func(m Member) bool { return m.Learner }) {
			t.Errorf("%s knows %+v", h.cfg.Name, members)
		}
	}
	for i, away := range hosts {
		led := away.server.Lead() == uint64(away.server.MemberID())
		if err := away.Close(); err != nil {
			t.Fatal(err)
		}
		if led && !slices.ContainsFunc(hosts, func(h *host) bool { return h != away && h.server.Lead() == uint64(h.server.MemberID()) }) {
			t.Errorf("%s led, and has not handed over when it stopped", away.cfg.Name)
		}
		key := fmt.Sprintf("without/%d", i)
		for _, h := range hosts {
			if h != away {
				h.mustPut(key, h.cfg.Name)
				h.wants(key, h.cfg.Name)
			}
		}
		last := hosts[2]
		if away == last {
			last = hosts[1]
		}
		away.mustOpen()
		away.wants(key, last.cfg.Name)
	}
}

// What a member writes wakes watches at others, in order.
func TestWatchAtAnotherMember(t *testing.T) {
	hosts := newHosts(t, "a", "b")
	hosts[0].mustOpen()
	hosts[1].joins(hosts[0])
	watch := hosts[1].Client().Watch(t.Context(), "/x/", clientv3.WithPrefix())
	for i := range 100 {
		hosts[0].mustPut(fmt.Sprintf("/x/%d", i), "")
	}
	for seen := 0; seen < 100; {
		for _, event := range (<-watch).Events {
			if want := fmt.Sprintf("/x/%d", seen); string(event.Kv.Key) != want {
				t.Fatalf("event %d is of %s", seen, event.Kv.Key)
			}
			seen++
		}
	}
}

// Reads wait until there is a leader again.
func TestReadsMeetElections(t *testing.T) {
	hosts := newHosts(t, "a", "b")
	a, b := hosts[0], hosts[1]
	a.mustOpen()
	b.joins(a)
	a.mustPut("k", "v")
	deposing, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; deposing.Err() == nil; n++ {
			id := uint64(hosts[n%2].server.MemberID())
			_ = hosts[n%2].server.Process(deposing, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id})
			time.Sleep(200 * time.Millisecond)
		}
	}()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if _, err := b.Client().Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	<-done
}

// busy takes a transaction at the third try.
type busy struct {
	clientv3.KV
	tries int
}

type busyTxn struct {
	clientv3.Txn
	*busy
}

func (b *busy) Txn(context.Context) clientv3.Txn { return busyTxn{busy: b} }

func (b busyTxn) Commit() (*clientv3.TxnResponse, error) {
	if b.tries++; b.tries < 3 {
		return nil, status.Error(codes.Unknown, raft.ErrProposalDropped.Error())
	}
	return nil, rpctypes.ErrTimeout // nobody knows whether it was taken
}

func TestPatientTransaction(t *testing.T) {
	kv := &busy{}
	none := errors.New("no majority")
	_, err := (patient{kv, func() error { return none }}).Txn(t.Context()).Commit()
	if !errors.Is(err, rpctypes.ErrTimeout) || !errors.Is(err, none) || kv.tries != 3 {
		t.Errorf("Commit = %v after %d tries, want the time-out that the third has met, and why", err, kv.tries)
	}
}

func TestNoMajority(t *testing.T) {
	hosts := newHosts(t, "a", "b")
	a, b := hosts[0], hosts[1]
	a.mustOpen()
	b.joins(a)
	a.mustPut("k", "1")
	watch := a.Client().Watch(t.Context(), "k")
	b.Close()
	const want = "no majority: of 2 servers 2 must run and reach each other"
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := a.Health(t.Context())
		if err != nil && strings.HasPrefix(err.Error(), want) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("Health = %v, want %s", err, want)
		}
	}
	if _, err := a.Client().Txn(t.Context()).Then(clientv3.OpPut("k", "2")).Commit(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a write = %v, want %s", err, want)
	}
	if _, err := a.Client().Get(t.Context(), "k"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a read = %v, want %s", err, want)
	}
	select {
	case <-watch: // it ends
	case <-time.After(30 * time.Second):
		t.Error("a watch goes on, though it tells of nothing any more")
	}
	a.Close()
	// It waits for the other one, and says so.
	told := make(chan int, 1)
	a.cfg.Waiting = func(members int) { told <- members }
	done := make(chan error, 1)
	go func() { done <- a.open() }()
	if members := <-told; members != 2 {
		t.Errorf("it waits for a majority of %d", members)
	}
	b.mustOpen()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a.wants("k", "1")
}

func TestRemove(t *testing.T) {
	hosts := newHosts(t, "a", "b", "c")
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.mustOpen()
	if err := a.Remove(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "the only server") {
		t.Errorf("Remove of the only one = %v", err)
	}
	b.joins(a)
	if err := a.Remove(t.Context(), "x"); err == nil {
		t.Error("somebody was removed who is not there")
	}
	if _, err := a.Invite(t.Context(), "b", c.cfg.peerURL()); err == nil || !strings.Contains(err.Error(), "there is a server b") {
		t.Errorf("another b = %v", err)
	}
	if err := a.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Stopped():
	case <-time.After(30 * time.Second):
		t.Fatal("who was removed goes on")
	}
	b.Close()
	a.mustPut("k", "1")
	if err := b.open(); !errors.Is(err, ErrRemoved) {
		t.Errorf("who was removed starts again: %v", err)
	}
	c.joins(a)
	c.wants("k", "1")
}

// When the member that leads is removed, another one leads at once, whoever was asked to remove it.
func TestRemoveLeader(t *testing.T) {
	for _, asked := range []string{"the one that leads", "another one"} {
		t.Run(asked, func(t *testing.T) {
			hosts := newHosts(t, "a", "b", "c")
			a, b, c := hosts[0], hosts[1], hosts[2]
			a.mustOpen()
			b.joins(a)
			c.joins(a)
			leader, by := a, a
			if asked == "another one" {
				by = c
			}
			if i := slices.IndexFunc(c.Members(), func(m Member) bool { return m.Leads }); i < 0 || c.Members()[i].Name != "a" {
				t.Fatalf("the first one does not lead: %+v", c.Members())
			}
			removed := uint64(leader.server.MemberID())
			began := time.Now()
			if err := by.Remove(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if lead := b.server.Lead(); lead == removed || lead == 0 {
				t.Errorf("after the removal %x leads, which was removed", lead)
			}
			b.mustPut("k", "1")
			t.Logf("others write after %s", time.Since(began))
			c.wants("k", "1")
		})
	}
}

// A member that comes back at another address tells the others, also if it led before.
func TestAddressChanges(t *testing.T) {
	hosts := newHosts(t, "a", "b", "c")
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.mustOpen()
	b.joins(a)
	c.joins(a)
	for _, moves := range []*host{c, a} {
		if err := moves.Close(); err != nil {
			t.Fatal(err)
		}
		b.mustPut("k", moves.cfg.Name)
		moves.cfg.Peers.Address = freeAddress(t)
		moves.mustOpen()
		moves.wants("k", moves.cfg.Name)
		moves.mustPut("k", "moved")
		if !slices.ContainsFunc(b.Members(), func(m Member) bool { return m.Name == moves.cfg.Name && m.PeerURL == moves.cfg.peerURL() }) {
			t.Errorf("b knows %+v, want %s at %s", b.Members(), moves.cfg.Name, moves.cfg.peerURL())
		}
	}
	if err := b.Close(); err != nil { // a and c reach each other, without b
		t.Fatal(err)
	}
	a.mustPut("k", "both")
	c.wants("k", "both")
}

// A member that was away gets what it has missed, also from the first one, which was alone when it started.
func TestCatchUp(t *testing.T) {
	hosts := newHosts(t, "a", "b", "c")
	core, all := observer.New(zap.InfoLevel)
	whole := func() int { return all.FilterMessageSnippet("sending database snapshot").Len() }
	for _, h := range hosts {
		h.cfg.UnsafeNoFsync, h.cfg.Logger = true, zap.New(core)
	}
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.mustOpen()
	b.joins(a)
	c.joins(a)
	a.mustPut("k", "0")
	c.wants("k", "0")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	sent := whole()
	for i := range 4 * catchUpAlone {
		a.mustPut("k", fmt.Sprint(i))
	}
	c.mustOpen()
	c.wants("k", fmt.Sprint(4*catchUpAlone-1))
	if again := whole() - sent; again > 0 {
		t.Errorf("it has got the whole database %d times", again)
	}
}

// Who is left alone for good goes on with what it has, and can have others again.
func TestReset(t *testing.T) {
	hosts := newHosts(t, "a", "b", "c")
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.mustOpen()
	b.joins(a)
	a.mustPut("k", "1")
	a.Close()
	b.Close()
	usual := b.cfg
	b.cfg.Reset, b.cfg.Peers = true, nil
	b.mustOpen()
	b.Close()
	b.cfg = usual
	b.mustOpen()
	if members := b.Members(); len(members) != 1 || b.listens() {
		t.Errorf("it knows %+v", members)
	}
	b.wants("k", "1")
	c.joins(b)
	c.wants("k", "1")
}

// A member that was invited and lost what it had before it counted may ask again.
func TestInvitedTwice(t *testing.T) {
	hosts := newHosts(t, "a", "b")
	a, b := hosts[0], hosts[1]
	a.mustOpen()
	if _, err := a.Invite(t.Context(), "b", b.cfg.peerURL()); err != nil {
		t.Fatal(err)
	}
	a.mustPut("k", "1") // a learner that never came does not count
	a.Close()
	a.mustOpen()
	b.joins(a)
	b.wants("k", "1")
}

// A database of before there were several, whose member has no name and no address, can have more.
func TestGrowsFromOldData(t *testing.T) {
	hosts := newHosts(t, "a", "b")
	a, b := hosts[0], hosts[1]
	new := a.cfg
	a.cfg.Name, a.cfg.Peers = "", nil
	a.mustOpen()
	a.mustPut("k", "1")
	a.Close()
	a.cfg = new
	a.mustOpen()
	b.joins(a)
	b.wants("k", "1")
	a.Close()
	a.mustOpen()
	a.wants("k", "1")
}
