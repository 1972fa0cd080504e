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

// Names of the Leases that decide which server's controllers and scheduler act, the same as upstream's.
const (
	controllersLease = "kube-controller-manager"
	schedulerLease   = "kube-scheduler"
)

// Upstream's defaults of --leader-elect-lease-duration, -renew-deadline and -retry-period.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// errLostLease ends the server: what acts cannot be stopped and started again in one process, and another one acts by
// now.
var errLostLease = errors.New("another server leads now")

// lead calls act once this process holds the Lease of that name, and until it holds it no more. The Lease is given
// back after act has returned, so that another server need not wait until it has run out.
func lead(ctx context.Context, client kubernetes.Interface, name string, act func(context.Context) error) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	terms := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: name,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name},
			Client:    client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{
				Identity:      identity(),
				EventRecorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name}),
			},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) { terms <- term },
			OnStoppedLeading: func() {}, // the term ends
		},
	})
	if err != nil {
		return fmt.Errorf("set up the election of %s: %w", name, err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	electing, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	defer giveBack()
	running.Go(func() { elector.Run(electing) })
	select {
	case term := <-terms:
		return during(ctx, term, name, act)
	case <-ctx.Done():
		return nil
	}
}

// during calls act until the term ends, which is an error.
func during(ctx, term context.Context, name string, act func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(term, func() { stop(errLostLease) })()
	err := act(ctx)
	if errors.Is(context.Cause(ctx), errLostLease) {
		return errors.Join(fmt.Errorf("act as %s: %w", name, errLostLease), err)
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
