// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-base/metrics/testutil"
	api "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/kubelet/pkg/apis/dra/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// beta serves a driver by the older API only.
func beta(t *testing.T, g *gpus) (endpoint string) {
	t.Helper()
	return serveAPI(t, func(server *grpc.Server) {
		v1beta1.RegisterDRAPluginServer(server, v1beta1.V1ServerWrapper{DRAPluginServer: g})
	})
}

// awaitConnected waits until the instance that is asked is connected.
func awaitConnected(t *testing.T, m *Manager, endpoint string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		i, err := m.current("gpu.example.org")
		ok := err == nil && i.endpoint == endpoint && i.connected
		m.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v, %+v", endpoint, err, i)
		}
	}
}

// While a driver is replaced two of its instances are there, and the newer one is asked, by the API that it has; when either goes, the
// other serves alone.
func TestInstances(t *testing.T) {
	const name = "gpu.example.org"
	client := fake.NewClientset(claimFor("c1", "p1"), claimFor("c2", "p1"), claimFor("c3", "p1"))
	m := New(client, "n1", t.TempDir(), metrics.New("n1"), func() {}, nobody)
	before, after := &gpus{}, &gpus{}
	first, second := serve(t, before), beta(t, after)
	register := func(endpoint, version string) {
		t.Helper()
		if err := m.Register(t.Context(), name, endpoint, []string{version}); err != nil {
			t.Fatal(err)
		}
		awaitConnected(t, m, endpoint)
	}
	prepare := func(claim string) {
		t.Helper()
		p := podWith("p1", claim, "")
		if err := m.Prepare(t.Context(), p); err != nil || m.cdi(p, 0) != "example.org/gpu=0 example.org/gpu=1" {
			t.Fatalf("prepare %s: %v, %q", claim, err, m.cdi(p, 0))
		}
	}
	register(first, api.DRAPluginService)
	register(second, v1beta1.DRAPluginService)
	if err := m.Register(t.Context(), name, second, []string{api.DRAPluginService}); err == nil || !strings.Contains(err.Error(), "already registered") {
		t.Errorf("an instance at the endpoint of another: %v", err)
	}
	prepare("c1")
	m.Deregister(t.Context(), name, second) // the update failed
	prepare("c2")
	register(second, v1beta1.DRAPluginService)
	m.Deregister(t.Context(), name, first) // it succeeded
	prepare("c3")
	inUse := func(of string, want float64) {
		t.Helper()
		if got, err := testutil.GetGaugeMetricValue(m.counts.ClaimsInUse.WithLabelValues(of)); err != nil || got != want {
			t.Errorf("%v claims of %s are in use, %v, want %v", got, of, err, want)
		}
	}
	inUse(name, 3)
	inUse("<any>", 3)
	if err := m.Unprepare(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	inUse("<any>", 0)
	calls := m.counts.DRACalls.WithLabelValues(name, "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources", "OK")
	if n, err := testutil.GetHistogramMetricCount(calls); err != nil || n != 2 {
		t.Errorf("%d calls to prepare by the older API are counted, %v", n, err)
	}
	if !slices.Equal(before.log, []string{"prepare c2"}) || len(after.log) != 5 {
		t.Errorf("the first instance was asked %q, the second %q", before.log, after.log)
	}
	m.Deregister(t.Context(), name, second)
	if err := m.Prepare(t.Context(), podWith("p1", "c1", "")); err == nil || err.Error() != "DRA driver gpu.example.org is not registered" {
		t.Errorf("without an instance: %v", err)
	}
	m.Close()
}

// What drivers offer that are not there is deleted: at the start all of it, and then a while after an instance has lost its connection and
// no other has one.
func TestWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var wiped []string
		var fails error
		client.PrependReactor("delete-collection", "resourceslices", func(action clienttesting.Action) (bool, runtime.Object, error) {
			wiped = append(wiped, action.(clienttesting.DeleteCollectionAction).GetListRestrictions().Fields.String())
			return true, nil, fails
		})
		m := New(client, "n1", t.TempDir(), metrics.New("n1"), func() {}, nobody)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(wiped, want) {
				t.Errorf("%s: deleted %q, want %q", when, wiped, want)
			}
			wiped = nil
		}
		const all, ofD = "spec.nodeName=n1", "spec.driver=d,spec.nodeName=n1"
		expect("at the start", all)

		conn := func() *grpc.ClientConn {
			conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			return conn
		}
		i := &instance{m: m, driver: "d", endpoint: "a", conn: conn(), unhear: func() {}}
		j := &instance{m: m, driver: "d", endpoint: "b", conn: conn(), unhear: func() {}}
		m.mu.Lock()
		m.drivers["d"] = []*instance{i, j}
		m.mu.Unlock()
		connected := func(i *instance) { i.HandleConn(ctx, &stats.ConnBegin{}) }
		lost := func(i *instance) { i.HandleConn(ctx, &stats.ConnEnd{}) }

		connected(i)
		connected(j)
		lost(i)
		time.Sleep(time.Minute)
		expect("with one of two connected")
		lost(j)
		time.Sleep(wipeAfter - time.Second)
		connected(j)
		time.Sleep(time.Minute)
		expect("back in time")
		lost(j)
		time.Sleep(wipeAfter - time.Second)
		expect("not yet")
		fails = errors.New("no API server")
		time.Sleep(4 * time.Second) // tried after 30, 31 and 33 seconds
		expect("too late", ofD, ofD, ofD)
		fails = nil
		time.Sleep(time.Hour)
		expect("the API is back", ofD)
		m.Deregister(ctx, "d", "a")
		m.Deregister(ctx, "d", "b")
		time.Sleep(time.Hour)
		expect("deregistered", ofD)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
