// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics/testutil"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/fakecri"
	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/kubelet/podnet"
	"github.com/skiff-k8s/skiff/kubelet/volumes"
	"github.com/skiff-k8s/skiff/testenv"
)

// The neighbour's part fits.
var _ Volumes = (*volumes.Manager)(nil)

// noVolumes serves pods without volumes, and counts how often it does. What is called full is refused one.
type noVolumes struct{ setUps *atomic.Int64 }

func (n noVolumes) SetUp(_ context.Context, pod *v1.Pod) error {
	n.setUps.Add(1)
	if pod.Name != "full" {
		return nil
	}
	return utilerrors.NewAggregate([]error{errors.New("not yet"), fmt.Errorf("attach: %w", full{errors.New("no slot")})})
}

type full struct{ error }

func (full) RejectReason() string { return "VolumeAttachmentLimitExceeded" }

func (noVolumes) Mounts(context.Context, *v1.Pod, *v1.Container, []string) ([]*runtimeapi.Mount, error) {
	return nil, nil
}
func (noVolumes) Devices(context.Context, *v1.Pod, *v1.Container) ([]*runtimeapi.Device, error) {
	return nil, nil
}
func (noVolumes) TearDown(context.Context, types.UID) error { return nil }
func (noVolumes) Images() []string                          { return nil }
func (noVolumes) Orphans() []types.UID                      { return nil }

// plainEnv is the environment as written in the spec.
type plainEnv struct{}

func (plainEnv) Environ(_ context.Context, _ *v1.Pod, c *v1.Container, _ string, _ []string) ([]*runtimeapi.KeyValue, error) {
	var out []*runtimeapi.KeyValue
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			return nil, fmt.Errorf("couldn't find key %s in ConfigMap default/settings", e.Name)
		}
		out = append(out, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	return out, nil
}

// bench is a kubelet on a fake runtime and the real API server.
type bench struct {
	t       *testing.T
	dir     string
	client  kubernetes.Interface
	cri     *fakecri.Runtime
	events  *record.FakeRecorder
	kubelet *Kubelet
	cidrs   chan []string
	static  StaticPods
	runc    string // the version of it that is below the runtime; empty: there is none
	stop    func()

	config *rest.Config
	away   atomic.Bool  // the API server, for the kubelet
	looked atomic.Int64 // how often the kubelet has looked at the volumes of a pod
	jumped chan func()  // what to call when the clock was set
}

// wrap fails requests while the API server is away.
func (b *bench) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if b.away.Load() {
			return nil, errors.New("the API server is away")
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func newBench(t *testing.T, images ...string) *bench {
	t.Helper()
	env := testenv.Start(t)
	b := &bench{t: t, dir: t.TempDir(), client: env.Client, config: env.Config, cri: fakecri.New(images...), jumped: make(chan func(), 10)}
	for _, controller := range []string{"cpu", "memory", "pids"} { // a cgroup v1 tree without the kernel's files
		if err := os.MkdirAll(filepath.Join(b.dir, "cgroup", controller), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start makes a new kubelet, as a restart of the process does; the runtime and the API stay.
func (b *bench) start() {
	b.t.Helper()
	conn, hangUp, err := b.cri.Dial()
	if err != nil {
		b.t.Fatal(err)
	}
	config := rest.CopyConfig(b.config)
	config.Wrap(b.wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	b.events = record.NewFakeRecorder(10000)
	b.cidrs = make(chan []string, 10)
	k, err := New(Config{
		Node:    node.Config{Name: "n1", Hostname: "n1", IPs: []string{"192.0.2.1"}, MaxPods: 110, DataDir: b.dir, KubeletVersion: "v1.37.2+test", KubeletPort: 10250},
		Cgroups: cgroups.Config{Mount: filepath.Join(b.dir, "cgroup"), Root: "/"},
		DNS:     podnet.DNS{ClusterIPs: []string{"10.43.0.10"}, Domain: "cluster.local"},
		Root:    filepath.Join(b.dir, "kubelet"), LogRoot: filepath.Join(b.dir, "logs"), CPUCFSQuota: true,
	}, Deps{
		Client: client, Informers: factory, Runtime: runtimeapi.NewRuntimeServiceClient(conn), Images: runtimeapi.NewImageServiceClient(conn),
		Volumes: noVolumes{&b.looked}, Env: plainEnv{}, Recorder: b.events, Static: b.static, OnPodCIDR: func(c []string) { b.cidrs <- c },
		LowLevelRuntime: func(context.Context) (string, string, error) { return "runc", b.runc, nil },
		ClockJumps: func(ctx context.Context, jumped func()) error {
			b.jumped <- jumped
			<-ctx.Done()
			return nil
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.kubelet = k
	ctx, cancel := context.WithCancel(b.t.Context())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
		hangUp()
		factory.Shutdown()
		b.stop = func() {}
	}
}

// eventually waits until a condition holds.
func (b *bench) eventually(what string, holds func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	b.t.Fatalf("never: %s\nruntime: %s\npods: %s", what, strings.Join(b.cri.Dump(), ", "), b.pods())
}

// pods is a line for each, for people.
func (b *bench) pods() string {
	list, err := b.client.CoreV1().Pods("default").List(b.t.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var lines []string
	for i := range list.Items {
		s := &list.Items[i].Status
		lines = append(lines, fmt.Sprintf("%s %s %s %s %+v", list.Items[i].Name, s.Phase, s.Reason, s.Message, s.ContainerStatuses))
	}
	return strings.Join(lines, "\n")
}

func (b *bench) create(pod *v1.Pod) {
	b.t.Helper()
	if _, err := b.client.CoreV1().Pods(pod.Namespace).Create(b.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) get(name string) *v1.Pod {
	b.t.Helper()
	pod, err := b.client.CoreV1().Pods("default").Get(b.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return pod
}

// delete asks for the pod's end within that many seconds.
func (b *bench) delete(name string, grace int64) {
	b.t.Helper()
	if err := b.client.CoreV1().Pods("default").Delete(b.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		b.t.Fatal(err)
	}
}

// gone waits until the pod's object is.
func (b *bench) gone(name string) {
	b.t.Helper()
	b.eventually("pod object is gone", func() bool { return b.get(name) == nil })
}

func (b *bench) ready(name string) bool {
	pod := b.get(name)
	return pod != nil && pod.Status.Phase == v1.PodRunning && slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}

func (b *bench) hadEvent(want string) bool {
	for {
		select {
		case e := <-b.events.Events:
			if strings.Contains(e, want) {
				return true
			}
		default:
			return false
		}
	}
}

func testPod(name string, cs ...v1.Container) *v1.Pod {
	grace := int64(30)
	for i := range cs {
		cs[i].ImagePullPolicy = v1.PullIfNotPresent
		if cs[i].Image == "" {
			cs[i].Image = "app:1"
		}
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       v1.PodSpec{NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways, Containers: cs, TerminationGracePeriodSeconds: &grace},
		Status:     v1.PodStatus{Phase: v1.PodPending},
	}
}

// The node is registered, Ready as soon as the runtime is, and its pod CIDR is handed on.
func TestNodeBecomesReady(t *testing.T) {
	b := newBench(t)
	var n *v1.Node
	b.eventually("node is ready", func() bool {
		n, _ = b.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		return n != nil && slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue })
	})
	if n.Labels[v1.LabelHostname] != "n1" || n.Status.Capacity.Pods().Value() != 110 || n.Status.NodeInfo.KubeletVersion != "v1.37.2+test" {
		t.Errorf("node = %+v", n)
	}
	b.eventually("lease is held", func() bool {
		l, err := b.client.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil && len(l.OwnerReferences) == 1 && *l.Spec.LeaseDurationSeconds == 40
	})
	n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.42.3.0/24", []string{"10.42.3.0/24"}
	if _, err := b.client.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-b.cidrs:
		if got[0] != "10.42.3.0/24" {
			t.Errorf("pod CIDR = %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody was told the pod CIDR")
	}
}

// A pod runs, is reported Ready with its addresses, and leaves nothing behind when it is deleted.
func TestPodRunsAndGoes(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	pod := b.get("web")
	cs := pod.Status.ContainerStatuses[0]
	if pod.Status.PodIP == "" || pod.Status.HostIP != "192.0.2.1" || pod.Status.StartTime == nil || !strings.HasPrefix(cs.ContainerID, "fake://c") || cs.RestartCount != 0 {
		t.Errorf("status = %+v", pod.Status)
	}
	for _, want := range []string{"Pulled Container image \"app:1\" already present", "Created Container created", "Started Container started"} {
		if !b.hadEvent(want) {
			t.Errorf("no event %q", want)
		}
	}
	b.delete("web", 7)
	b.gone("web")
	b.eventually("runtime is empty", func() bool { s, c := b.cri.Count(); return s+c == 0 })
	if !slices.Contains(b.cri.Dump(), "stop web/app 7") {
		t.Errorf("runtime: %v; want a stop within 7 s", b.cri.Dump())
	}
	if left, _ := os.ReadDir(filepath.Join(b.dir, "kubelet", "pods")); len(left) > 0 {
		t.Errorf("folders left: %v", left)
	}
}

// What pods are let in with, how long their statuses take to be written, and hooks that are cut short are counted.
func TestPodsAreCounted(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{
		Name: "app", Resources: amount("100m", "1Mi"), Lifecycle: &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 20}}},
	}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	b.delete("web", 1)
	b.gone("web")
	m := b.kubelet.metrics
	admitted, err := testutil.GetCounterMetricValue(m.Admitted.WithLabelValues("container_level", "burstable"))
	if err != nil || admitted != 1 {
		t.Errorf("let in: %v, %v", admitted, err)
	}
	if cut, err := testutil.GetCounterMetricValue(m.SleepsCut); err != nil || cut != 1 {
		t.Errorf("cut short: %v, %v", cut, err)
	}
	if written, err := testutil.GetHistogramMetricCount(m.StatusWritten.ObserverMetric); err != nil || written == 0 {
		t.Errorf("statuses written: %v, %v", written, err)
	}
}

// Containers that run are taken over by a new process, not started again; what belongs to no pod is removed.
func TestRestartTakesOver(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.create(testPod("old", v1.Container{Name: "app"}))
	b.eventually("pods are ready", func() bool { return b.ready("web") && b.ready("old") })
	before := b.get("web").Status.ContainerStatuses[0]
	b.stop()
	if got := b.cri.Running(); !slices.Equal(got, []string{"old/app", "web/app"}) {
		t.Fatalf("after a stop run %v", got)
	}
	b.delete("old", 0)
	b.start()
	b.eventually("the orphan is removed", func() bool { s, _ := b.cri.Count(); return s == 1 })
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	after := b.get("web").Status.ContainerStatuses[0]
	if before.ContainerID != after.ContainerID || after.RestartCount != 0 || !before.State.Running.StartedAt.Equal(&after.State.Running.StartedAt) {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// Init containers run one after the other, a sidecar stays, and ends last.
func TestOrderOfContainers(t *testing.T) {
	b := newBench(t, "app:1")
	always := v1.ContainerRestartPolicyAlways
	pod := testPod("job", v1.Container{Name: "main"})
	pod.Spec.InitContainers = []v1.Container{{Name: "first", Image: "app:1"}, {Name: "side", Image: "app:1", RestartPolicy: &always}}
	pod.Spec.RestartPolicy = v1.RestartPolicyNever
	b.create(pod)
	b.eventually("first runs", func() bool { return slices.Equal(b.cri.Running(), []string{"job/first"}) })
	if err := b.cri.Exit("job/first", 0); err != nil {
		t.Fatal(err)
	}
	b.eventually("the rest runs", func() bool { return slices.Equal(b.cri.Running(), []string{"job/main", "job/side"}) })
	if err := b.cri.Exit("job/main", 3); err != nil {
		t.Fatal(err)
	}
	b.eventually("pod failed", func() bool { p := b.get("job"); return p.Status.Phase == v1.PodFailed })
	p := b.get("job")
	if end := p.Status.ContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 3 || end.Reason != "Error" {
		t.Errorf("main = %+v", p.Status.ContainerStatuses[0])
	}
	want := []string{"sandbox job", "start job/first", "exit job/first 0", "start job/side", "start job/main", "exit job/main 3", "stop job/side 30", "exit job/side 0", "stop sandbox job"}
	if got := b.cri.Dump(); !slices.Equal(got, want) {
		t.Errorf("order = %q, want %q", got, want)
	}
}

// A container whose rule asks for it has the whole pod start anew, from its first init container, in the same sandbox.
func TestRestartAllContainers(t *testing.T) {
	b := newBench(t, "app:1")
	never := v1.ContainerRestartPolicyNever
	pod := testPod("job", v1.Container{Name: "watched", RestartPolicy: &never, RestartPolicyRules: []v1.ContainerRestartRule{{
		Action:    v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}}, v1.Container{Name: "beside"})
	pod.Spec.InitContainers = []v1.Container{{Name: "first", Image: "app:1"}}
	pod.Spec.RestartPolicy = v1.RestartPolicyNever
	b.create(pod)
	end := func(name string, code int32) {
		t.Helper()
		b.eventually(name+" runs", func() bool { return slices.Contains(b.cri.Running(), name) })
		if err := b.cri.Exit(name, code); err != nil {
			t.Fatal(err)
		}
	}
	end("job/first", 0)
	b.eventually("pod runs", func() bool { return b.get("job").Status.Phase == v1.PodRunning })
	end("job/watched", 42)
	end("job/first", 0)
	b.eventually("both run again", func() bool { return slices.Equal(b.cri.Running(), []string{"job/beside", "job/watched"}) })
	b.eventually("the status says so", func() bool { return b.ready("job") })
	s := b.get("job").Status
	for _, c := range append(s.ContainerStatuses, s.InitContainerStatuses...) {
		if last := c.LastTerminationState.Terminated; c.RestartCount != 1 || c.State.Running != nil && (last == nil || last.Reason != "RestartingAllContainers") {
			t.Errorf("%s = %+v", c.Name, c)
		}
	}
	if i := slices.IndexFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.AllContainersRestarting }); i < 0 || s.Conditions[i].Status != v1.ConditionFalse {
		t.Errorf("conditions = %+v", s.Conditions)
	}
	if sandboxes, containers := b.cri.Count(); sandboxes != 1 || containers != 3 {
		t.Errorf("there are %d sandboxes and %d containers", sandboxes, containers)
	}
	end("job/watched", 1) // which no rule speaks of
	end("job/beside", 0)
	b.eventually("the pod fails as its policy says", func() bool { return b.get("job").Status.Phase == v1.PodFailed })
}

// A failed container is started again once at once, and then waits.
func TestCrashLoop(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	for range 2 {
		b.eventually("container runs", func() bool { return len(b.cri.Running()) == 1 })
		if err := b.cri.Exit("web/app", 1); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("it waits", func() bool {
		s := b.get("web").Status.ContainerStatuses[0]
		return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
	})
	s := b.get("web").Status.ContainerStatuses[0]
	if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.State.Waiting.Message != "back-off 10s restarting failed container=app pod=web_default("+string(b.get("web").UID)+")" {
		t.Errorf("status = %+v", s)
	}
	if !b.hadEvent("BackOff Back-off restarting failed container app in pod web_default(" + string(b.get("web").UID) + ")") {
		t.Error("no BackOff event")
	}
}

// After the clock was set back, what runs is what was started last, and who waits for a restart does not wait for the clock.
func TestClockIsSetBack(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	restarted := func(times int32) {
		t.Helper()
		b.eventually("the container was started again", func() bool {
			return b.ready("web") && b.get("web").Status.ContainerStatuses[0].RestartCount == times && len(b.cri.Running()) == 1
		})
	}
	restarted(0)
	b.cri.Postdate(time.Hour)
	if err := b.cri.Exit("web/app", 1); err != nil {
		t.Fatal(err)
	}
	restarted(1)
	if err := b.cri.Exit("web/app", 1); err != nil {
		t.Fatal(err)
	}
	b.cri.Postdate(time.Hour)
	restarted(2) // 10 s later
	b.kubelet.look(t.Context())
	if s := b.get("web").Status.ContainerStatuses[0]; s.State.Running == nil || s.LastTerminationState.Terminated == nil {
		t.Errorf("status = %+v", s)
	}
}

// When the clock was set all pods are looked at, as time does not stand for anything that they wait for.
func TestClockJumps(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	before := b.looked.Load()
	b.eventually("pod is left alone", func() bool {
		was := before
		time.Sleep(500 * time.Millisecond)
		before = b.looked.Load()
		return before == was
	})
	(<-b.jumped)()
	b.eventually("pod is looked at again", func() bool { return b.looked.Load() > before })
}

// A change that the runtime did not tell about is seen when all containers are looked at, as they are every minute.
func TestLostEvent(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.create(testPod("other", v1.Container{Name: "app"}))
	b.eventually("pods are ready", func() bool { return b.ready("web") && b.ready("other") })
	b.cri.Mute()
	if err := b.cri.Exit("web/app", 1); err != nil {
		t.Fatal(err)
	}
	b.kubelet.look(t.Context())
	b.eventually("the container was started again", func() bool { return b.get("web").Status.ContainerStatuses[0].RestartCount == 1 && b.ready("web") })
	if s := b.get("other").Status.ContainerStatuses[0]; s.RestartCount != 0 {
		t.Errorf("another pod's status = %+v", s)
	}
}

// A runtime that has no events to give, as CRI-O unless it is told otherwise, is asked what has changed instead.
func TestNoEvents(t *testing.T) {
	b := newBench(t, "app:1")
	b.stop()
	b.cri.NoEvents = true
	b.start()
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	if err := b.cri.Exit("web/app", 1); err != nil {
		t.Fatal(err)
	}
	b.eventually("the container was started again", func() bool { return b.get("web").Status.ContainerStatuses[0].RestartCount == 1 && b.ready("web") })
	b.delete("web", 0)
	b.gone("web")
}

// A runtime out of which containers are known to escape is warned about.
func TestKnownEscapes(t *testing.T) {
	b := newBench(t)
	b.eventually("the node is there", func() bool { return b.kubelet.agent.Node() != nil })
	if b.hadEvent("KnownEscapes") {
		t.Error("a warning about a runtime of which nothing is known")
	}
	b.stop()
	b.runc = "1.2.7"
	b.start()
	b.eventually("a warning", func() bool { return b.hadEvent("Warning KnownEscapes runc 1.2.7 has known escapes") })
}

// What keeps a container from starting is told in its waiting state.
func TestWaitingReasons(t *testing.T) {
	b := newBench(t, "app:1")
	never := testPod("never", v1.Container{Name: "app", Image: "gone:1"})
	never.Spec.Containers[0].ImagePullPolicy = v1.PullNever
	b.create(never)
	b.create(testPod("pull", v1.Container{Name: "app", Image: "gone:1"}))
	b.create(testPod("name", v1.Container{Name: "app", Image: "Not An Image"}))
	b.create(testPod("config", v1.Container{Name: "app", Env: []v1.EnvVar{{Name: "KEY", ValueFrom: &v1.EnvVarSource{
		ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}, Key: "KEY"},
	}}}}))
	for pod, reasons := range map[string][]string{
		"never": {"ErrImageNeverPull"}, "pull": {"ErrImagePull", "ImagePullBackOff"}, "name": {"InvalidImageName"}, "config": {"CreateContainerConfigError"},
	} {
		b.eventually(pod+" waits", func() bool {
			p := b.get(pod)
			if len(p.Status.ContainerStatuses) == 0 {
				return false
			}
			waiting := p.Status.ContainerStatuses[0].State.Waiting
			return waiting != nil && slices.Contains(reasons, waiting.Reason) && p.Status.Phase == v1.PodPending
		})
	}
}

// A pod that does not fit is refused with upstream's reason.
func TestAdmission(t *testing.T) {
	b := newBench(t, "app:1")
	b.eventually("node is registered", func() bool { return b.kubelet.Node() != nil })
	pod := testPod("big", v1.Container{Name: "app", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("10000")}}})
	b.create(pod)
	b.eventually("pod is refused", func() bool { return b.get("big").Status.Phase == v1.PodFailed })
	if s := b.get("big").Status; s.Reason != "OutOfcpu" || !strings.HasPrefix(s.Message, "Pod was rejected: Node didn't have enough resource: cpu, requested: 10000000, used: 0, capacity: ") {
		t.Errorf("status = %s %q", s.Reason, s.Message)
	}
	if got := b.cri.Dump(); len(got) > 0 {
		t.Errorf("runtime: %v", got)
	}
	b.stop()
	b.start()
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.eventually("the next pod is ready", func() bool { return b.ready("web") })
	if s := b.get("big").Status; len(s.ContainerStatuses) > 0 || s.Reason != "OutOfcpu" {
		t.Errorf("after a restart: status = %s %+v", s.Reason, s.ContainerStatuses)
	}
	b.delete("big", 30)
	b.gone("big")
}

// A critical pod comes in though others have what it needs: they go. It takes nothing from those that are critical too.
func TestPreemption(t *testing.T) {
	b := newBench(t, "app:1")
	b.eventually("node is registered", func() bool { return b.kubelet.Node() != nil })
	all := b.kubelet.Node().Status.Allocatable.Cpu().MilliValue()
	needing := func(name string, milli int64, priority int32) *v1.Pod {
		pod := testPod(name, v1.Container{Name: "app", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(milli, resource.DecimalSI)}}})
		pod.Spec.Priority = &priority
		return pod
	}
	b.create(needing("small", all/4, 0))
	b.create(needing("big", all/2, 100))
	b.eventually("both are ready", func() bool { return b.ready("small") && b.ready("big") })
	b.create(needing("critical", all*3/4, 2_000_000_000))
	b.eventually("the critical pod is ready", func() bool { return b.ready("critical") })
	b.eventually("the other one has ended", func() bool { return b.get("big").Status.Phase == v1.PodFailed })
	if s := b.get("big").Status; s.Phase != v1.PodFailed || s.Reason != "Preempting" || s.Message != "Preempted in order to admit critical pod" ||
		!slices.ContainsFunc(s.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonTerminationByKubelet && c.Message == "Pod was preempted by Kubelet to accommodate a critical pod." && !c.LastTransitionTime.IsZero()
		}) {
		t.Errorf("the pod that has gone for it: %+v", s)
	}
	if !b.ready("small") {
		t.Errorf("the small pod had to go too: %+v", b.get("small").Status)
	}
	if !b.hadEvent("Warning Preempting Preempted in order to admit critical pod") {
		t.Error("the event is missing")
	}
	b.create(needing("equal", all, 2_000_000_000))
	b.eventually("a pod that would need the place of its like is refused", func() bool { return b.get("equal").Status.Phase == v1.PodFailed })
	want := "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: "
	if s := b.get("equal").Status; s.Reason != "UnexpectedAdmissionError" || !strings.HasPrefix(s.Message, want) {
		t.Errorf("status = %s %q", s.Reason, s.Message)
	}
	if !b.ready("critical") || !b.ready("small") {
		t.Error("others had to go for a pod that was refused")
	}
}

// Who looks at a node's events sees that it was cordoned, and that the machine was started anew.
func TestNodeEvents(t *testing.T) {
	b := newBench(t, "app:1")
	b.eventually("node is registered", func() bool { return b.kubelet.Node() != nil })
	patch := func(text, want string, subresources ...string) {
		t.Helper()
		if _, err := b.client.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, []byte(text), metav1.PatchOptions{}, subresources...); err != nil {
			t.Fatal(err)
		}
		b.eventually(want, func() bool { return b.hadEvent(want) })
	}
	patch(`{"spec":{"unschedulable":true}}`, "Normal NodeNotSchedulable Node n1 status is now: NodeNotSchedulable")
	patch(`{"spec":{"unschedulable":false}}`, "Normal NodeSchedulable Node n1 status is now: NodeSchedulable")
	b.stop()
	if _, err := b.client.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, []byte(`{"status":{"nodeInfo":{"bootID":"before"}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.eventually("the node has been rebooted", func() bool { return b.hadEvent("Warning Rebooted Node n1 has been rebooted, boot id: ") })
}

// A pod whose volume can never come to this node fails, for others to take its place elsewhere.
func TestRejectedByVolumes(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("full", v1.Container{Name: "app"}))
	b.eventually("the pod has failed", func() bool { return b.get("full").Status.Phase == v1.PodFailed })
	if s := b.get("full").Status; s.Reason != "VolumeAttachmentLimitExceeded" || s.Message != "Pod was rejected: no slot" {
		t.Errorf("status = %s %q", s.Reason, s.Message)
	}
	if got := b.cri.Dump(); len(got) > 0 {
		t.Errorf("runtime: %v", got)
	}
	b.delete("full", 30)
	b.gone("full")
}

// A pod that was deleted by force does not keep others from the node, though it has not ended.
func TestAdmissionBesideForced(t *testing.T) {
	b := newBench(t, "app:1")
	b.eventually("node is registered", func() bool { return b.kubelet.Node() != nil })
	most := b.kubelet.Node().Status.Allocatable.Cpu().MilliValue() * 2 / 3
	needs := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(most, resource.DecimalSI)}}
	b.create(testPod("old", v1.Container{Name: "app", Command: []string{"stubborn"}, Resources: needs}))
	b.eventually("the old pod is ready", func() bool { return b.ready("old") })
	b.delete("old", 0)
	b.create(testPod("new", v1.Container{Name: "app", Resources: needs}))
	b.eventually("the new pod is ready", func() bool { return b.ready("new") })
}

// A liveness probe that fails has the container replaced; readiness decides about Ready.
func TestProbes(t *testing.T) {
	b := newBench(t, "app:1")
	healthy := make(chan bool, 1)
	healthy <- true
	b.cri.OnExec = func(_ string, command []string) (string, int32) {
		ok := <-healthy
		healthy <- ok
		if ok || command[0] == "ready" {
			return "", 0
		}
		return "sick", 1
	}
	exec := func(word string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{word}}}, PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}
	}
	b.create(testPod("web", v1.Container{Name: "app", LivenessProbe: exec("live"), ReadinessProbe: exec("ready")}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	<-healthy
	healthy <- false
	b.eventually("container is replaced", func() bool { return slices.Contains(b.cri.Dump(), "stop web/app 30") })
	<-healthy
	healthy <- true
	b.eventually("it was started again", func() bool {
		s := b.get("web").Status.ContainerStatuses
		return len(s) > 0 && s[0].RestartCount > 0 && len(b.cri.Running()) == 1
	})
	if !b.hadEvent("Unhealthy Liveness probe failed: sick") || !b.hadEvent("Killing Container app failed liveness probe, will be restarted") {
		t.Error("events are missing")
	}
}

// While the API server is away pods go on, and so do their probes; then their statuses catch up.
func TestAPIAway(t *testing.T) {
	b := newBench(t, "app:1")
	var sick atomic.Bool
	b.cri.OnExec = func(string, []string) (string, int32) {
		if sick.Load() {
			return "sick", 1
		}
		return "", 0
	}
	live := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"live"}}}, PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}
	b.create(testPod("web", v1.Container{Name: "app", LivenessProbe: live}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	b.away.Store(true)
	sick.Store(true)
	b.eventually("container is ended", func() bool { return slices.Contains(b.cri.Dump(), "stop web/app 30") })
	sick.Store(false)
	b.eventually("container is started again", func() bool { return len(b.cri.Running()) == 1 })
	if s := b.get("web").Status.ContainerStatuses; len(s) != 1 || s[0].RestartCount != 0 {
		t.Errorf("the API has heard of it: %+v", s)
	}
	b.away.Store(false)
	b.eventually("status has caught up", func() bool {
		s := b.get("web").Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount > 0 && b.ready("web")
	})
}

// A pod that takes its time to end is probed for readiness all the while, and says what comes of it.
func TestReadinessWhileEnding(t *testing.T) {
	b := newBench(t, "app:1")
	var closed atomic.Bool
	b.cri.OnExec = func(string, []string) (string, int32) {
		if closed.Load() {
			return "closed", 1
		}
		return "", 0
	}
	ready := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"ready"}}}, PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}
	b.create(testPod("web", v1.Container{Name: "app", Command: []string{"stubborn"}, ReadinessProbe: ready}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	b.delete("web", 600)
	b.eventually("it is asked to stop", func() bool { return slices.Contains(b.cri.Dump(), "stop web/app 600") })
	if !b.ready("web") {
		t.Error("it is not ready, and nobody has said so")
	}
	closed.Store(true)
	b.eventually("it is not ready any more", func() bool { return !b.ready("web") })
	if s := b.get("web").Status.ContainerStatuses; len(s) != 1 || s[0].State.Running == nil {
		t.Errorf("its container is %+v, want one that runs", s)
	}
	b.delete("web", 1)
	b.gone("web")
}

// A shorter grace period ends a stubborn container earlier.
func TestShorterGracePeriod(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app", Command: []string{"stubborn"}}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	b.delete("web", 600)
	b.eventually("it is asked to stop", func() bool { return slices.Contains(b.cri.Dump(), "stop web/app 600") })
	b.delete("web", 1)
	b.gone("web")
	if !slices.Contains(b.cri.Dump(), "stop web/app 2") || !slices.Contains(b.cri.Dump(), "exit web/app 137") {
		t.Errorf("runtime: %v", b.cri.Dump())
	}
}

// A pod that is evicted fails with the reason, keeps it, and its node refuses others while it is under pressure.
func TestEviction(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app"}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	gone := evictable{b.kubelet}.Evict(b.get("web").UID, eviction.Verdict{Message: "The node was low on resource: memory. "})
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("the pod never went")
	}
	b.eventually("it failed", func() bool { return b.get("web").Status.Phase == v1.PodFailed })
	s := b.get("web").Status
	if s.Reason != "Evicted" || s.Message != "The node was low on resource: memory. " || !slices.Contains(b.cri.Dump(), "stop web/app 2") {
		t.Errorf("status = %s %q; runtime: %v", s.Reason, s.Message, b.cri.Dump())
	}
	if !slices.ContainsFunc(s.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Reason == "TerminationByKubelet" && c.Status == v1.ConditionTrue
	}) {
		t.Errorf("conditions = %+v", s.Conditions)
	}
}

// A pod whose time is over fails, and keeps that reason although its container ended well.
func TestDeadline(t *testing.T) {
	b := newBench(t, "app:1")
	pod, deadline := testPod("web", v1.Container{Name: "app"}), int64(1)
	pod.Spec.ActiveDeadlineSeconds = &deadline
	b.create(pod)
	b.eventually("it failed", func() bool { return b.get("web").Status.Phase == v1.PodFailed })
	s := b.get("web").Status
	if s.Reason != "DeadlineExceeded" || s.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("status = %s %+v", s.Reason, s.ContainerStatuses)
	}
}

// Resources follow the spec of a running pod; a container that asks for it is replaced.
func TestResize(t *testing.T) {
	b := newBench(t, "app:1")
	with := func(cpu, memory string) v1.ResourceRequirements {
		list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
		return v1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
	}
	b.create(testPod("web", v1.Container{Name: "app", Resources: with("100m", "64Mi"), ResizePolicy: []v1.ContainerResizePolicy{
		{ResourceName: v1.ResourceCPU, RestartPolicy: v1.NotRequired}, {ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer},
	}}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	resize := func(to v1.ResourceRequirements) {
		t.Helper()
		pod := b.get("web")
		pod.Spec.Containers[0].Resources = to
		if _, err := b.client.CoreV1().Pods("default").UpdateResize(t.Context(), "web", pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(cpu, memory string, restarts int32) func() bool {
		return func() bool {
			s := b.get("web").Status.ContainerStatuses[0]
			return s.Resources != nil && s.Resources.Limits.Cpu().Equal(resource.MustParse(cpu)) && s.AllocatedResources.Memory().Equal(resource.MustParse(memory)) && s.RestartCount == restarts && b.ready("web")
		}
	}
	resize(with("200m", "64Mi"))
	b.eventually("CPU is changed in place", has("200m", "64Mi", 0))
	resize(with("200m", "128Mi"))
	b.eventually("memory is changed by a restart", has("200m", "128Mi", 1))
	b.eventually("the change is over", func() bool { return resizeConditions(b.get("web")) == "" })
	resize(with("200m", "900Ti"))
	b.eventually("there is no room", func() bool { return resizeConditions(b.get("web")) == "PodResizePending=Deferred " })
	resize(with("100m", "128Mi"))
	b.eventually("it is given up", func() bool { return resizeConditions(b.get("web")) == "" && has("100m", "128Mi", 1)() })
	for _, want := range []string{"Normal ResizeStarted Pod resize started: {", "Normal ResizeCompleted Pod resize completed: {", "Warning ResizeDeferred Pod resize Deferred: {"} {
		if !b.hadEvent(want) {
			t.Errorf("no event %q", want)
		}
	}
}

func resizeConditions(pod *v1.Pod) string {
	text := ""
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress {
			text += string(c.Type) + "=" + c.Reason + " "
		}
	}
	return text
}
