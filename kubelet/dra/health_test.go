// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	api "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// monitored is a driver that tells how its devices are.
type monitored struct {
	gpus
	healthapi.UnimplementedDRAResourceHealthServer
	lists chan []*healthapi.DeviceHealth // nil ends the stream
	fails codes.Code
}

func (d *monitored) NodeWatchResources(_ *healthapi.NodeWatchResourcesRequest, stream healthapi.DRAResourceHealth_NodeWatchResourcesServer) error {
	if d.fails != codes.OK {
		return grpcstatus.Error(d.fails, "no")
	}
	for {
		select {
		case list := <-d.lists:
			if list == nil {
				return nil
			}
			if err := stream.Send(&healthapi.NodeWatchResourcesResponse{Devices: list}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func said(device string, h healthapi.HealthStatus, message string, seconds int64) *healthapi.DeviceHealth {
	return &healthapi.DeviceHealth{Device: &healthapi.DeviceIdentifier{PoolName: "n1", DeviceName: device}, Health: h, Message: message, HealthCheckTimeoutSeconds: seconds}
}

// told writes health as a test reads it.
func told(all []v1.ResourceStatus) string {
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintf(&b, "%s:", s.Name)
		for _, r := range s.Resources {
			fmt.Fprintf(&b, " %s=%s", r.ResourceID, r.Health)
			if r.Message != nil {
				fmt.Fprintf(&b, "(%s)", *r.Message)
			}
		}
	}
	return b.String()
}

// A pod's status tells what its drivers say of its devices, by either version of their API.
func TestHealth(t *testing.T) {
	for _, version := range []string{healthapi.DRAResourceHealthService, healthv1alpha1.DRAResourceHealthService} {
		d := &monitored{lists: make(chan []*healthapi.DeviceHealth, 1)}
		endpoint := serveAPI(t, func(server *grpc.Server) {
			api.RegisterDRAPluginServer(server, d)
			if version == healthapi.DRAResourceHealthService {
				healthapi.RegisterDRAResourceHealthServer(server, d)
			} else {
				healthv1alpha1.RegisterDRAResourceHealthServer(server, healthapi.V1ServerWrapper{Server: d})
			}
		})

		woken := make(chan types.UID, 100)
		m := New(fake.NewClientset(claimFor("c1", "p1")), "n1", t.TempDir(), metrics.New("n1"), func() {}, func(uid types.UID) { woken <- uid })
		m.hearAgain = time.Millisecond
		if err := m.Register(t.Context(), "gpu.example.org", endpoint, []string{api.DRAPluginService, version}); err != nil {
			t.Fatal(err)
		}
		p := podWith("p1", "c1", "", "big")
		if err := m.Prepare(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		is := func(container int, want string) {
			t.Helper()
			for deadline := time.After(30 * time.Second); ; {
				got := told(m.Health(p, &p.Spec.Containers[container]))
				if got == want {
					return
				}
				select {
				case <-woken:
				case <-deadline:
					t.Fatalf("%s: %q, want %q", version, got, want)
				}
			}
		}
		is(0, "claim:gpu: example.org/gpu=0=Unknown example.org/gpu=1=Unknown")
		d.lists <- []*healthapi.DeviceHealth{said("gpu-0", healthapi.HealthStatus_HEALTHY, "", 0), said("gpu-1", healthapi.HealthStatus_UNHEALTHY, "too hot", 0)}
		is(0, "claim:gpu: example.org/gpu=0=Healthy example.org/gpu=1=Unhealthy(too hot)")
		is(1, "claim:gpu/big: example.org/gpu=0=Healthy")
		d.lists <- nil // the stream ends
		is(0, "claim:gpu: example.org/gpu=0=Unknown example.org/gpu=1=Unknown")
		d.lists <- []*healthapi.DeviceHealth{said("gpu-1", healthapi.HealthStatus_HEALTHY, "", 0)} // it is begun anew
		is(0, "claim:gpu: example.org/gpu=0=Unknown example.org/gpu=1=Healthy")
		m.Deregister(t.Context(), "gpu.example.org", endpoint)
		is(0, "claim:gpu: example.org/gpu=0=Unknown example.org/gpu=1=Unknown")
		m.Close()
	}
}

// A driver that has nothing to tell is not asked again.
func TestHealthUnimplemented(t *testing.T) {
	d := &monitored{fails: codes.Unimplemented}
	endpoint := serveAPI(t, func(server *grpc.Server) { healthapi.RegisterDRAResourceHealthServer(server, d) })
	m := New(fake.NewClientset(), "n1", t.TempDir(), metrics.New("n1"), func() {}, nobody)
	if err := m.Register(t.Context(), "gpu.example.org", endpoint, []string{api.DRAPluginService, healthapi.DRAResourceHealthService}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { m.streams.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the stream is begun again")
	}
	m.Close()
}

// What a driver said holds for its time, and the pods are looked at when that is over.
func TestHealthGoesStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var woken []types.UID
		m := New(fake.NewClientset(), "n1", t.TempDir(), metrics.New("n1"), func() {}, func(uid types.UID) { woken = append(woken, uid) })
		m.claims["c1"] = &claim{Namespace: "default", Name: "c1", Pods: []types.UID{"p1"}, Devices: []Device{{Driver: "d", Pool: "n1", Name: "gpu-0"}, {Driver: "d", Pool: "n1", Name: "gpu-1"}}}
		r := &report{devices: map[deviceKey]health{}}
		m.drivers["d"] = []*instance{{report: r}}
		p := podWith("p1", "c1", "")
		hear := func(list ...*healthapi.DeviceHealth) (changed int) {
			m.mu.Lock()
			defer m.mu.Unlock()
			changed = len(r.take(time.Now(), list))
			m.expectStale("d", r)
			return changed
		}
		is := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := told(m.Health(p, &p.Spec.Containers[0])); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		good := healthapi.HealthStatus_HEALTHY
		if n := hear(said("gpu-0", good, "", 0), said("gpu-1", good, "", 60)); n != 2 {
			t.Errorf("%d of two devices are news", n)
		}
		time.Sleep(29 * time.Second)
		if n := hear(said("gpu-1", good, "", 60)); n != 0 {
			t.Errorf("%d devices are news, of none that changed", n)
		}
		is("claim:gpu: d/n1/gpu-0=Healthy d/n1/gpu-1=Healthy")
		time.Sleep(time.Second)
		is("claim:gpu: d/n1/gpu-0=Unknown d/n1/gpu-1=Healthy")
		if len(woken) != 1 {
			t.Errorf("woken: %v, want p1 once", woken)
		}
		if n := hear(said("gpu-1", good, strings.Repeat("x", 2000), 60)); n != 1 {
			t.Errorf("%d devices are news, of one with another message", n)
		}
		if got := *m.Health(p, &p.Spec.Containers[0])[0].Resources[1].Message; len(got) != v1.ResourceHealthMessageMaxLength || !strings.HasSuffix(got, "x...") {
			t.Errorf("a long message: %d characters", len(got))
		}
		time.Sleep(time.Minute)
		is("claim:gpu: d/n1/gpu-0=Unknown d/n1/gpu-1=Unknown")
	})
}

// A new process knows what drivers told the one before it, until they tell otherwise or it does not hold any more.
func TestHealthAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		p := podWith("p1", "c1", "")
		start := func() *Manager {
			m := New(fake.NewClientset(), "n1", root, metrics.New("n1"), func() {}, nobody)
			if err := m.Load(); err != nil {
				t.Fatal(err)
			}
			return m
		}
		is := func(m *Manager, want string) {
			t.Helper()
			synctest.Wait()
			if got := told(m.Health(p, &p.Spec.Containers[0])); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		m := start()
		m.claims["c1"] = &claim{UID: "c1", Namespace: "default", Name: "c1", Pods: []types.UID{"p1"}, Devices: []Device{{Driver: "d", Pool: "n1", Name: "gpu-0"}, {Driver: "d", Pool: "n1", Name: "gpu-1"}}}
		if err := m.save(); err != nil {
			t.Fatal(err)
		}
		hear := func(m *Manager, list ...*healthapi.DeviceHealth) (end func()) {
			ctx, cancel := context.WithCancel(t.Context())
			i := &instance{driver: "d", unhear: cancel}
			m.mu.Lock()
			m.drivers["d"] = append(m.drivers["d"], i)
			m.mu.Unlock()
			m.streams.Go(func() { _ = m.followHealth(ctx, i, spoken{list: list}) })
			synctest.Wait()
			return cancel
		}
		hear(m, said("gpu-0", healthapi.HealthStatus_HEALTHY, "", 60), said("gpu-1", healthapi.HealthStatus_UNHEALTHY, "too hot", 120))
		is(m, "claim:gpu: d/n1/gpu-0=Healthy d/n1/gpu-1=Unhealthy(too hot)")
		killed := start() // the first one is killed, and says nothing more
		is(killed, "claim:gpu: d/n1/gpu-0=Healthy d/n1/gpu-1=Unhealthy(too hot)")
		killed.Close()
		m.Close()

		time.Sleep(30 * time.Second)
		m = start()
		is(m, "claim:gpu: d/n1/gpu-0=Healthy d/n1/gpu-1=Unhealthy(too hot)")
		hear(m)
		is(m, "claim:gpu: d/n1/gpu-0=Healthy d/n1/gpu-1=Unhealthy(too hot)")
		time.Sleep(30 * time.Second)
		is(m, "claim:gpu: d/n1/gpu-0=Unknown d/n1/gpu-1=Unhealthy(too hot)")
		m.Close()

		m = start()
		end := hear(m)
		is(m, "claim:gpu: d/n1/gpu-0=Unknown d/n1/gpu-1=Unhealthy(too hot)")
		end() // the driver goes, so that nobody knows
		is(m, "claim:gpu: d/n1/gpu-0=Unknown d/n1/gpu-1=Unknown")
		m.Close()
		m = start()
		is(m, "claim:gpu: d/n1/gpu-0=Unknown d/n1/gpu-1=Unknown")
		m.Close()

		if err := os.WriteFile(m.healthFile, []byte("half a fi"), 0o600); err != nil {
			t.Fatal(err)
		}
		start().Close() // all the same
	})
}

// spoken is a driver that tells one list.
type spoken struct{ list []*healthapi.DeviceHealth }

func (s spoken) NodeWatchResources(ctx context.Context, _ *healthapi.NodeWatchResourcesRequest, _ ...grpc.CallOption) (healthapi.DRAResourceHealth_NodeWatchResourcesClient, error) {
	return &speech{ctx: ctx, list: s.list}, nil
}

type speech struct {
	healthapi.DRAResourceHealth_NodeWatchResourcesClient
	ctx  context.Context
	list []*healthapi.DeviceHealth
}

func (s *speech) Recv() (*healthapi.NodeWatchResourcesResponse, error) {
	if s.list == nil {
		<-s.ctx.Done()
		return nil, s.ctx.Err()
	}
	list := s.list
	s.list = nil
	return &healthapi.NodeWatchResourcesResponse{Devices: list}, nil
}
