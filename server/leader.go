// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	_ "k8s.io/component-base/metrics/prometheus/clientgo/leaderelection" // leader_election_master_status
)

// Names of the Leases that decide which server's controllers and scheduler act, the same as upstream's, and which of those that
// were told to has the simulated nodes.
const (
	controllersLease = "kube-controller-manager"
	schedulerLease   = "kube-scheduler"
	simulatedLease   = "skiff-simulated-nodes"
)

// Upstream's defaults of --leader-elect-lease-duration, -renew-deadline and -retry-period.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second

	lockTimeout = renewDeadline / 2 // of one request, as upstream's
)

// ErrLostLease ends the server: what acts cannot be stopped and started again in one process, and another one acts by
// now. Who runs the server starts it again.
var ErrLostLease = errors.New("another server leads now")

// candidate wants a Lease.
type candidate struct {
	name  string
	terms chan context.Context // gets the term when it has begun
	run   func(context.Context)
	close func()
}

// impatient gives up a request while there is time for another one. A write that was under way when etcd lost its leader is
// never answered; the next one is, as soon as there is a leader again.
type impatient struct{ resourcelock.Interface }

func (l impatient) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	return l.Interface.Get(ctx)
}

func (l impatient) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	return l.Interface.Create(ctx, record)
}

func (l impatient) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	return l.Interface.Update(ctx, record)
}

func newCandidate(ctx context.Context, client kubernetes.Interface, name string) (*candidate, error) {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	c := &candidate{name: name, terms: make(chan context.Context, 1), close: broadcaster.Shutdown}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: name,
		Lock: impatient{&resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name},
			Client:    client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{
				Identity:      identity(),
				EventRecorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name}),
			},
		}},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) { c.terms <- term },
			OnStoppedLeading: func() {}, // the term ends
		},
	})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("set up the election of %s: %w", name, err)
	}
	c.run = elector.Run
	return c, nil
}

// lead calls act once this process holds the Lease of that name, and gives it back when act has returned. If the Lease
// is lost meanwhile, act's context ends, and lead returns ErrLostLease.
func lead(ctx context.Context, client kubernetes.Interface, name string, act func(context.Context) error) error {
	now := make(chan struct{})
	close(now)
	return leadFrom(ctx, client, name, now, false, func() {}, act)
}

// leadLater is lead for a process that is alone until the channel is closed: it acts at once. held is called when
// it has the Lease.
func leadLater(ctx context.Context, client kubernetes.Interface, name string, several <-chan struct{}, held func(), act func(context.Context) error) error {
	return leadFrom(ctx, client, name, several, true, held, act)
}

// leadFrom wants the Lease from when on. Before it has it, it acts only if it is alone.
func leadFrom(ctx context.Context, client kubernetes.Interface, name string, when <-chan struct{}, alone bool, held func(), act func(context.Context) error) error {
	c, err := newCandidate(ctx, client, name)
	if err != nil {
		return err
	}
	defer c.close()
	var running sync.WaitGroup
	defer running.Wait()
	acting, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	electing, giveBack := context.WithCancel(context.WithoutCancel(ctx)) // after act has returned
	defer giveBack()
	leads := make(chan struct{})
	running.Go(func() {
		select {
		case <-when:
		case <-electing.Done():
			return
		}
		running.Go(func() { c.run(electing) })
		select {
		case term := <-c.terms:
			held()
			close(leads)
			<-term.Done()
			lose(ErrLostLease) // which comes too late if act has returned
		case <-electing.Done():
		}
	})
	if !alone {
		select {
		case <-leads:
		case <-ctx.Done():
			return nil
		}
	}
	err = act(acting)
	if errors.Is(context.Cause(acting), ErrLostLease) {
		return errors.Join(fmt.Errorf("act as %s: %w", name, ErrLostLease), err)
	}
	return err
}

// identity tells the processes of all servers apart, and says to people which machine it is.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "_" + string(uuid.NewUUID())
}
