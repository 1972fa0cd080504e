// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// command answers each probe by a function of how many came before.
type command struct {
	count  atomic.Int32
	answer func(n int32) int32
}

func (c *command) Exec(context.Context, string, []string, time.Duration) (string, int32, error) {
	return "", c.answer(c.count.Add(1)), nil
}

// A liveness probe fails after its threshold in a row, a minute later by virtual time, and the startup probe holds it back until then.
func TestThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := &command{answer: func(n int32) int32 { // startup passes at the third, then liveness fails
			if n == 3 {
				return 0
			}
			return 1
		}}
		ctx, cancel := context.WithCancel(t.Context())
		changes := make(chan types.UID, 10)
		p := New(exec, record.NewFakeRecorder(100), metrics.New("n1"), func(uid types.UID) { changes <- uid })
		p.Start(ctx)
		spec := func(failures int32) *v1.Probe {
			return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{}}, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: failures}
		}
		pod := &v1.Pod{}
		pod.UID = "u"
		began := time.Now()
		targets := []Target{{Pod: pod, Container: &v1.Container{Name: "a", StartupProbe: spec(5), LivenessProbe: spec(3)}, ContainerID: "c", StartedAt: began}}
		p.Sync("u", targets)
		p.Sync("u", targets) // as after each change of the pod; the race detector looks on
		if ok, known := p.Startup("c"); ok || known {
			t.Errorf("startup before the first probe = %t, %t", ok, known)
		}
		<-changes // startup passed
		if ok, known := p.Startup("c"); !ok || !known || time.Since(began) != 20*time.Second {
			t.Errorf("startup after %v = %t, %t", time.Since(began), ok, known)
		}
		if ok, _ := p.Liveness("c"); !ok {
			t.Error("liveness failed before its threshold")
		}
		<-changes // liveness failed: woken at 20 s, then 30 s and 40 s
		if ok, known := p.Liveness("c"); ok || !known || time.Since(began) != 40*time.Second {
			t.Errorf("liveness after %v = %t, %t", time.Since(began), ok, known)
		}
		cancel()
		p.Wait()
	})
}

// A container whose start is to come, as the clock was set back since, is not left unprobed until then.
func TestInitialDelay(t *testing.T) {
	for started, want := range map[time.Duration]time.Duration{0: 30 * time.Second, -10 * time.Second: 20 * time.Second, -time.Hour: 0, time.Hour: 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			changes := make(chan types.UID, 10)
			p := New(&command{answer: func(int32) int32 { return 0 }}, record.NewFakeRecorder(100), metrics.New("n1"), func(uid types.UID) { changes <- uid })
			p.Start(ctx)
			probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{}}, InitialDelaySeconds: 30, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1}
			began := time.Now()
			p.Sync("u", []Target{{Pod: &v1.Pod{}, Container: &v1.Container{Name: "a", ReadinessProbe: probe}, ContainerID: "c", StartedAt: began.Add(started)}})
			<-changes
			if took := time.Since(began); took != want {
				t.Errorf("started %s from now: probed after %s, want %s", started, took, want)
			}
			cancel()
			p.Wait()
		})
	}
}

func TestHTTP(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sick":
			w.WriteHeader(http.StatusInternalServerError)
		case "/away":
			http.Redirect(w, r, "http://example.invalid/", http.StatusFound)
		}
		if r.Header.Get("User-Agent") != agent {
			t.Errorf("User-Agent = %q", r.Header.Get("User-Agent"))
		}
	}))
	defer server.Close()
	host, portText, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	p := New(nil, nil, nil, nil)
	c := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	for path, want := range map[string]answer{
		"/":     {ok: true},
		"/sick": {text: "HTTP probe failed with statuscode: 500"},
		"/away": {ok: true, warning: true},
	} {
		spec := &v1.Probe{TimeoutSeconds: 5, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("web")}}}
		got, err := p.handle(t.Context(), spec, &Target{Container: c, PodIP: host})
		if err != nil || got.ok != want.ok || got.warning != want.warning || want.text != "" && got.text != want.text {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
}
