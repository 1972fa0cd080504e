// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/ptr"
)

// contender wants to lead.
type contender struct {
	stop    context.CancelFunc
	leading bool
	done    chan error
}

func contend(t *testing.T, client *fake.Clientset) *contender {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &contender{stop: stop, done: make(chan error, 1)}
	go func() {
		c.done <- lead(ctx, client, controllersLease, func(ctx context.Context) error {
			c.leading = true
			<-ctx.Done()
			c.leading = false
			return nil
		})
	}()
	return c
}

// One of two leads; when it ends, the other one does, without waiting for the Lease to run out.
func TestLeadershipIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		first := contend(t, client)
		synctest.Wait()
		second := contend(t, client)
		time.Sleep(time.Minute)
		if !first.leading || second.leading {
			t.Fatalf("first leads: %v, second leads: %v; want the first", first.leading, second.leading)
		}
		first.stop()
		if err := <-first.done; err != nil {
			t.Errorf("first = %v", err)
		}
		time.Sleep(3 * retryPeriod)
		if !second.leading {
			t.Error("nobody leads")
		}
		if got := masterStatus(t); got != 1 {
			t.Errorf("leader_election_master_status of who leads = %v", got)
		}
		second.stop()
		if err := <-second.done; err != nil {
			t.Errorf("second = %v", err)
		}
	})
}

// mute never answers.
type mute struct{ resourcelock.Interface }

func (mute) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	<-ctx.Done()
	return nil, nil, ctx.Err()
}

func (mute) Create(ctx context.Context, _ resourcelock.LeaderElectionRecord) error {
	<-ctx.Done()
	return ctx.Err()
}

func (mute) Update(ctx context.Context, _ resourcelock.LeaderElectionRecord) error {
	<-ctx.Done()
	return ctx.Err()
}

// A request that is not answered leaves time to renew the Lease by another one.
func TestUnansweredRenewalLeavesTime(t *testing.T) {
	lock := impatient{mute{}}
	for name, ask := range map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, _, err := lock.Get(ctx); return err },
		"create": func(ctx context.Context) error { return lock.Create(ctx, resourcelock.LeaderElectionRecord{}) },
		"update": func(ctx context.Context) error { return lock.Update(ctx, resourcelock.LeaderElectionRecord{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				if err := ask(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("err = %v", err)
				}
				if took := time.Since(began); took > renewDeadline/2 {
					t.Errorf("gave up after %v of %v", took, renewDeadline)
				}
			})
		})
	}
}

// masterStatus returns what the metrics say of the controllers' Lease, -1 if nothing.
func masterStatus(t *testing.T) float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "leader_election_master_status" {
			continue
		}
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); len(l) == 1 && l[0].GetName() == "name" && l[0].GetValue() == controllersLease {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// Who has lost the Lease stops acting before it may be another's, and says so.
func TestLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		leader := contend(t, client)
		time.Sleep(time.Second)
		leases := client.CoordinationV1().Leases(metav1.NamespaceSystem)
		lease, err := leases.Get(t.Context(), controllersLease, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		lease.Spec.HolderIdentity, lease.Spec.RenewTime = ptr.To("another"), ptr.To(metav1.NowMicro())
		if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Group: coordinationv1.GroupName, Resource: "leases"}, controllersLease, errors.New("it was changed")) // which a fake does not see
		})
		if err := <-leader.done; !errors.Is(err, ErrLostLease) || leader.leading {
			t.Errorf("lead = %v, leading: %v; want it to have stopped", err, leader.leading)
		}
		if got := masterStatus(t); got != 0 {
			t.Errorf("leader_election_master_status of who has lost the Lease = %v", got)
		}
	})
}

// Who is alone acts at once and has nothing to do with the Lease. Before others come it takes it, and goes on acting.
func TestLeadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		several, held := make(chan struct{}), make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		started, ended := 0, make(chan error, 1)
		go func() {
			ended <- leadLater(ctx, client, controllersLease, several, func() { close(held) }, func(ctx context.Context) error {
				started++
				<-ctx.Done()
				return nil
			})
		}()
		time.Sleep(time.Minute)
		if actions := client.Actions(); started != 1 || len(actions) != 0 {
			t.Fatalf("alone it has started %d times and done %v; want once, and nothing", started, actions)
		}
		close(several)
		<-held
		other := contend(t, client)
		time.Sleep(time.Minute)
		if started != 1 || other.leading {
			t.Errorf("started %d times, the other one leads: %v", started, other.leading)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("leadLater = %v", err)
		}
		time.Sleep(3 * retryPeriod)
		if !other.leading {
			t.Error("nobody leads")
		}
		other.stop()
		<-other.done
	})
}

// Who was alone until it ended has never wanted the Lease.
func TestLeadLaterNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		err := leadLater(t.Context(), client, controllersLease, make(chan struct{}), func() { t.Error("held") }, func(context.Context) error { return errors.ErrUnsupported })
		if !errors.Is(err, errors.ErrUnsupported) || len(client.Actions()) != 0 {
			t.Errorf("leadLater = %v, and did %v", err, client.Actions())
		}
	})
}

// Who waits for the Lease can be told to end.
func TestEndWithoutLeading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		first := contend(t, client)
		synctest.Wait()
		second := contend(t, client)
		time.Sleep(time.Second)
		second.stop()
		if err := <-second.done; err != nil {
			t.Errorf("lead = %v", err)
		}
		first.stop()
		<-first.done
	})
}

// What a Lease says of the time is its holder's clock's, which may be set, or have been wrong all along: that makes nobody lead
// beside the one that holds it, and the next one waits for as long as ever when the holder is gone without a word.
func TestLeadersClockIsSet(t *testing.T) {
	for _, tc := range []struct {
		name string
		off  func(renewals int) time.Duration // by how much the holder's clock is wrong then
	}{
		{"an hour ahead", func(int) time.Duration { return time.Hour }},
		{"an hour behind", func(int) time.Duration { return -time.Hour }},
		{"set forward", func(renewals int) time.Duration { return time.Duration(renewals/10) * time.Hour }},
		{"set back", func(renewals int) time.Duration { return -time.Duration(renewals/10) * time.Hour }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracker := clienttesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder())
				wrong, right := clientOf(tracker), clientOf(tracker)
				renewals, dead := 0, false
				for _, verb := range []string{"create", "update"} {
					wrong.PrependReactor(verb, "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
						if dead {
							return true, nil, errors.New("no answer")
						}
						lease := action.(clienttesting.CreateAction).GetObject().(*coordinationv1.Lease)
						off := tc.off(renewals)
						renewals++
						lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(lease.Spec.RenewTime.Add(off)))
						lease.Spec.AcquireTime = ptr.To(metav1.NewMicroTime(lease.Spec.AcquireTime.Add(off)))
						return false, nil, nil // goes on to be written
					})
				}
				first := contend(t, wrong)
				time.Sleep(time.Second)
				second := contend(t, right)
				for range 300 { // longer than any Lease lasts
					time.Sleep(time.Second)
					if !first.leading || second.leading {
						t.Fatalf("the one with the wrong clock leads: %v, the other one: %v", first.leading, second.leading)
					}
				}
				if renewals < 100 {
					t.Fatalf("the Lease was written %d times", renewals)
				}

				dead = true // its machine is off the network, so it cannot give the Lease back
				for waited := time.Duration(0); !second.leading; waited += time.Second {
					if waited > leaseDuration+3*retryPeriod {
						t.Fatalf("nobody else leads after %v", waited)
					}
					time.Sleep(time.Second)
					if first.leading && second.leading {
						t.Fatal("both lead")
					}
				}
				if err := <-first.done; !errors.Is(err, ErrLostLease) {
					t.Errorf("the one that is off the network = %v", err)
				}
				second.stop()
				<-second.done
			})
		})
	}
}

// clientOf is one of several clients of the same objects.
func clientOf(tracker clienttesting.ObjectTracker) *fake.Clientset {
	client := &fake.Clientset{}
	client.AddReactor("*", "*", clienttesting.ObjectReaction(tracker))
	return client
}
