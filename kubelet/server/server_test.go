// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// node is a kubelet with one pod, without a runtime behind it.
type node struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	pod        *corev1.Pod
	err        error // what looking for a container fails with
	checkpoint *runtimeapi.CheckpointContainerRequest
}

func (n *node) Pods() []*corev1.Pod { return []*corev1.Pod{n.pod} }

func (n *node) PodByName(namespace, name string) (*corev1.Pod, bool) {
	return n.pod, namespace == n.pod.Namespace && name == n.pod.Name
}

func (n *node) ContainerID(context.Context, types.UID, string, bool) (string, error) {
	return "containerd://c1", n.err
}

func (n *node) SandboxID(context.Context, types.UID) (string, error) { return "s1", n.err }

func (n *node) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "s1", CreatedAt: 1e18}}}, nil
}

func (n *node) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{
		Id: "c1", CreatedAt: 1e18, State: runtimeapi.ContainerState_CONTAINER_RUNNING, Image: &runtimeapi.ImageSpec{UserSpecifiedImage: "busybox"},
		Labels: map[string]string{"io.kubernetes.container.name": "main", "io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default"},
	}}}, nil
}

func (n *node) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	number := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
	cpu := &runtimeapi.CpuUsage{Timestamp: 2e18, UsageCoreNanoSeconds: number(3e9)}
	memory := &runtimeapi.MemoryUsage{Timestamp: 2e18, WorkingSetBytes: number(1 << 20)}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "s1", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "uid"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{Cpu: cpu, Memory: memory, Containers: []*runtimeapi.ContainerStats{{
			Attributes: &runtimeapi.ContainerAttributes{Id: "c1", Metadata: &runtimeapi.ContainerMetadata{Name: "main"}}, Cpu: cpu, Memory: memory,
		}}},
	}}}, n.err
}

func (n *node) CheckpointContainer(_ context.Context, r *runtimeapi.CheckpointContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CheckpointContainerResponse, error) {
	n.checkpoint = r
	return &runtimeapi.CheckpointContainerResponse{}, n.err
}

func (n *node) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

// access allows one user what its list says, as verb and subresource, and records what was asked.
type access struct {
	allowed []string
	asked   []string
}

func (a *access) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	name := r.Header.Get("User")
	return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, name != "", nil
}

func (a *access) Authorize(_ context.Context, attr authorizer.Attributes) (authorizer.Decision, string, error) {
	what := attr.GetVerb() + " " + attr.GetResource() + "/" + attr.GetName() + "/" + attr.GetSubresource()
	a.asked = append(a.asked, what)
	if slices.Contains(a.allowed, what) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func newServer(t *testing.T, allowed ...string) (*Server, *node, *access) {
	a := &access{allowed: allowed}
	n := &node{pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}, Volumes: []corev1.Volume{
			{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		}},
	}}
	dir := t.TempDir()
	counts := metrics.New("n1")
	counts.ProbeTotal.WithLabelValues("Liveness", "successful", "main", "web", "default", "uid").Inc()
	s := New(Config{NodeName: "n1", Authenticator: a, Authorizer: a, Pods: n, Runtime: n, Images: n, RootDir: dir, LogDir: dir, Metrics: counts, Flags: map[string]string{"v": "2"},
		Cgroups: groups(t), Volumes: func(types.UID) map[string]string { return map[string]string{"v": dir} },
		TotalVolumes: func() (map[string]int, map[string]int) {
			return map[string]int{"kubernetes.io/csi:x.io": 2}, map[string]int{"kubernetes.io/csi:x.io": 1}
		}})
	return s, n, a
}

// groups are those of the pod and its container, as a kernel shows them.
func groups(t *testing.T) *cgroups.Tree {
	mount := t.TempDir()
	for path, text := range map[string]string{
		"cgroup.controllers": "", "kubepods/poduid/memory.current": "1000", "kubepods/poduid/memory.stat": "inactive_file 100\n", "kubepods/poduid/c1/cpu.stat": "usage_usec 3000000\n",
		"system/skiff/memory.current": "10", "system/crio/memory.current": "20",
	} {
		path = filepath.Join(mount, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := cgroups.New(cgroups.Config{Mount: mount, Root: "/", Driver: cgroups.Cgroupfs})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func get(s *Server, path string) *httptest.ResponseRecorder { return do(s, "GET", path) }

func do(s *Server, method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("User", "tester")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/#kubelet-authorization
func TestAuthorization(t *testing.T) {
	for _, c := range []struct {
		method, path string
		asks         []string
	}{
		{"GET", "/stats/summary", []string{"get nodes/n1/stats"}},
		{"GET", "/metrics/resource", []string{"get nodes/n1/metrics"}},
		{"GET", "/metrics", []string{"get nodes/n1/metrics"}},
		{"GET", "/logs/syslog", []string{"get nodes/n1/log"}},
		{"GET", "/pods", []string{"get nodes/n1/pods", "get nodes/n1/proxy"}},
		{"GET", "/runningpods/", []string{"get nodes/n1/pods", "get nodes/n1/proxy"}},
		{"GET", "/healthz", []string{"get nodes/n1/healthz", "get nodes/n1/proxy"}},
		{"GET", "/configz", []string{"get nodes/n1/configz", "get nodes/n1/proxy"}},
		{"GET", "/containerLogs/default/none/main", []string{"get nodes/n1/proxy"}},
		{"POST", "/exec/default/none/main", []string{"create nodes/n1/proxy"}},
		{"GET", "/metricsx", []string{"get nodes/n1/proxy"}},
		{"POST", "/checkpoint/default/none/main", []string{"create nodes/n1/checkpoint"}},
		{"GET", "/statusz", []string{"get nodes/n1/statusz"}},
		{"GET", "/flagz", []string{"get nodes/n1/configz"}},
		{"GET", "/debug/pprof/", []string{"get nodes/n1/proxy"}},
		{"PUT", "/debug/flags/v", []string{"update nodes/n1/proxy"}},
		{"GET", "/metrics/slis", []string{"get nodes/n1/metrics"}},
	} {
		s, _, a := newServer(t)
		if w := do(s, c.method, c.path); w.Code != http.StatusForbidden {
			t.Errorf("%s %s without rights = %d, want 403", c.method, c.path, w.Code)
		}
		if !slices.Equal(a.asked, c.asks) {
			t.Errorf("%s %s asks for %q, want %q", c.method, c.path, a.asked, c.asks)
		}
		s, _, _ = newServer(t, c.asks[len(c.asks)-1])
		if w := do(s, c.method, c.path); w.Code == http.StatusForbidden {
			t.Errorf("%s %s with the right to %s is forbidden", c.method, c.path, c.asks[len(c.asks)-1])
		}
	}
}

func TestUnauthorized(t *testing.T) {
	s, _, a := newServer(t)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/pods", nil))
	if w.Code != http.StatusUnauthorized || len(a.asked) > 0 {
		t.Errorf("anonymous = %d, asked %q; want 401", w.Code, a.asked)
	}
}

func TestAnswers(t *testing.T) {
	s, n, _ := newServer(t, "get nodes/n1/proxy", "create nodes/n1/proxy", "get nodes/n1/stats", "get nodes/n1/metrics", "get nodes/n1/log", "get nodes/n1/checkpoint", "get nodes/n1/configz", "get nodes/n1/statusz")
	if err := os.WriteFile(filepath.Join(s.config.LogDir, "syslog"), []byte("a line"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/healthz", 200, "ok"},
		{"/pods", 200, `"name":"web"`},
		{"/logs/syslog", 200, "a line"},
		{"/logs/../server.go", 307, ""}, // to /server.go, which is nothing
		{"/containerLogs/default/none/main", 404, `pod "none" does not exist`},
		{"/containerLogs/default/web/none", 404, `container "none" not found in pod "web"`},
		{"/containerLogs/default/web/main?tailLines=x", 400, "tailLines"},
		{"/containerLogs/default/web/main?tailLines=-1", 422, "Invalid request."},
		{"/exec/default/none/main?command=ls&output=1", 404, "pod does not exist"},
		{"/exec/default/web/main?command=ls", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"/exec/default/web/other-uid/main?command=ls&output=1", 404, "pod does not exist"},
		{"/stats/summary", 200, `"podRef":{"name":"web","namespace":"default","uid":"uid"}`},
		{"/metrics/resource", 200, `container_cpu_usage_seconds_total{container="main",namespace="default",pod="web"} 3`},
		{"/metrics/resource", 200, `resource_scrape_error 0`},
		{"/metrics/cadvisor", 200, "machine_cpu_cores"},
		{"/metrics", 200, `kubelet_node_name{node="n1"} 1`},
		{"/metrics", 200, `kubelet_running_pods 1`},
		{"/metrics", 200, `kubelet_running_containers{container_state="running"} 1`},
		{"/metrics", 200, `volume_manager_total_volumes{plugin_name="kubernetes.io/csi:x.io",state="actual_state_of_world"} 1`},
		{"/metrics", 200, `volume_manager_total_volumes{plugin_name="kubernetes.io/csi:x.io",state="desired_state_of_world"} 2`},
		{"/metrics", 200, `kubelet_volume_stats_capacity_bytes{namespace="default",persistentvolumeclaim="data"}`},
		{"/metrics", 200, `kubelet_http_requests_total{long_running="false",method="GET",path="pods",server_type="readwrite"} 1`},
		{"/metrics", 200, "process_resident_memory_bytes"},
		{"/metrics/probes", 200, `prober_probe_total{container="main",namespace="default",pod="web",pod_uid="uid",probe_type="Liveness",result="successful"} 1`},
		{"/metrics/cadvisor", 200, `container_cpu_usage_seconds_total{container="main",cpu="total",id="/kubepods/poduid/c1",image="busybox",name="c1",namespace="default",pod="web"} 3`},
		{"/metrics/cadvisor", 200, `container_memory_working_set_bytes{container="",id="/kubepods/poduid",image="",name="",namespace="default",pod="web"} 900`},
		{"/metrics/cadvisor", 200, `container_scrape_error 0`},
		{"/stats/summary", 200, `"pvcRef":{"name":"data","namespace":"default"}`},
		{"/metrics", 200, `kubelet_http_requests_total{long_running="false",method="GET",path="metrics/resource",server_type="readwrite"} 2`},
		{"/checkpoint/default/web/main", 405, ""},
		{"/healthz/ping", 200, "ok"},
		{"/healthz/none", 404, ""},
		{"/healthz?verbose", 200, "[+]syncloop ok"},
		{"/metrics/slis", 200, `kubernetes_healthcheck{name="syncloop",type="healthz"} 1`},
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/cmdline", 200, ""},
		{"/flagz", 200, "\nv"}, // what follows differs each time, so that nobody parses it
		{"/flagz", 200, "2\n"},
		{"/statusz", 200, "/configz /debug"},
	} {
		if w := get(s, c.path); w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("GET %s = %d %q, want %d with %q", c.path, w.Code, w.Body, c.code, c.want)
		}
	}
	n.err = errors.New("it is gone")
	n.pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}
	for path, want := range map[string]string{
		"/containerLogs/default/web/main":               `container "main" in pod "web" is waiting to start: trying and failing to pull image`,
		"/containerLogs/default/web/main?previous=true": `previous terminated container "main" in pod "web" not found`,
		"/exec/default/web/main?command=ls&output=1":    `container not found ("main")`,
		"/metrics/resource":                             "resource_scrape_error 1",
	} {
		if w := get(s, path); !strings.Contains(w.Body.String(), want) || w.Code >= 400 && w.Body.String() != want {
			t.Errorf("GET %s = %d %q, want %q", path, w.Code, w.Body, want)
		}
	}
}

// The operator may turn parts of the API off, and a query of the system's logs on.
func TestOff(t *testing.T) {
	for _, c := range []struct {
		config Config
		path   string
		code   int
		want   string
	}{
		{Config{Off: Off{Debugging: true}}, "/exec/default/web/main", 405, "Debug endpoints are disabled."},
		{Config{Off: Off{Debugging: true}}, "/configz", 404, ""},
		{Config{Off: Off{Debugging: true}}, "/healthz", 200, "ok"},
		{Config{Off: Off{Profiling: true}}, "/debug/pprof/heap", 405, "profiling endpoint is disabled."},
		{Config{Off: Off{Flags: true}}, "/debug/flags/v", 405, "flags endpoint is disabled."},
		{Config{}, "/debug/flags/v", 406, "unsupported http method"},
	} {
		a := &access{allowed: []string{"get nodes/n1/proxy", "get nodes/n1/log", "get nodes/n1/configz"}}
		c.config.NodeName, c.config.Authenticator, c.config.Authorizer, c.config.LogDir = "n1", a, a, t.TempDir()
		if w := get(New(c.config), c.path); w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("GET %s with %+v = %d %q, want %d with %q", c.path, c.config.Off, w.Code, w.Body, c.code, c.want)
		}
	}
}

// https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/
func TestCheckpoint(t *testing.T) {
	s, n, _ := newServer(t, "create nodes/n1/checkpoint")
	for _, c := range []struct {
		path    string
		code    int
		want    string
		seconds int64 // that the runtime has
	}{
		{"/checkpoint/default/none/main", 404, "pod does not exist", 0},
		{"/checkpoint/default/web/none", 404, "container none does not exist", 0},
		{"/checkpoint/default/web/main?timeout=soon", 404, "cannot parse value of timeout parameter", 0},
		{"/checkpoint/default/web/main?timeout=-1", 500, "checkpointing of default/web/main failed (CheckpointContainer requires the timeout value to be > 0)", 0},
		{"/checkpoint/default/web/main", 200, "", 120},
		{"/checkpoint/default/web/main?timeout=30", 200, "", 120},
		{"/checkpoint/default/web/main?timeout=30&timeout=300", 200, "", 300},
	} {
		n.checkpoint = nil
		w := do(s, "POST", c.path)
		if w.Code != c.code || c.code != 200 && w.Body.String() != c.want || n.checkpoint.GetTimeout() != c.seconds {
			t.Errorf("POST %s = %d %q with %d seconds, want %d %q with %d", c.path, w.Code, w.Body, n.checkpoint.GetTimeout(), c.code, c.want, c.seconds)
		}
		if c.code != 200 {
			continue
		}
		var answer struct{ Items []string }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Items) != 1 || answer.Items[0] != n.checkpoint.Location {
			t.Errorf("POST %s = %q, want the archive %q", c.path, w.Body, n.checkpoint.Location)
		}
		stamp, ours := strings.CutPrefix(n.checkpoint.Location, filepath.Join(s.config.RootDir, "checkpoints", "checkpoint-web_default-main-"))
		if _, err := time.Parse(time.RFC3339, strings.TrimSuffix(stamp, ".tar")); !ours || err != nil || n.checkpoint.ContainerId != "c1" {
			t.Errorf("container %s goes to %s: %v", n.checkpoint.ContainerId, n.checkpoint.Location, err)
		}
	}
	if info, err := os.Stat(filepath.Join(s.config.RootDir, "checkpoints")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of checkpoints: %v, %v; want it for nobody else", info, err)
	}
	n.err = status.Error(codes.Unimplemented, "no CRIU")
	want := "checkpointing of default/web/main failed (rpc error: code = Unimplemented desc = no CRIU)"
	if w := do(s, "POST", "/checkpoint/default/web/main"); w.Code != 500 || w.Body.String() != want {
		t.Errorf("a runtime that cannot = %d %q, want 500 %q", w.Code, w.Body, want)
	}
}

// Serve ends when its context does, and cuts connections that were upgraded to streams.
func TestServeEnds(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	s, _, _ := newServer(t)
	s.config.TLS = &tls.Config{Certificates: certified.TLS.Certificates}
	hijacked := make(chan struct{})
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := w.(http.Hijacker).Hijack(); err != nil {
			t.Error(err)
		}
		close(hijacked)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-hijacked
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the end = %v, want that the connection is cut", err)
	}
}

func TestBusyTime(t *testing.T) {
	got, err := busyTime([]byte("cpu  100 10 50 9999 777 1 2 3 40 4\ncpu0 ...\n"))
	if want := 1660 * time.Millisecond; err != nil || got != want {
		t.Errorf("busyTime = %v, %v; want %v", got, err, want)
	}
}

// How fast processor time is used is told between two summaries, and not from looks that are too close.
func TestCPURate(t *testing.T) {
	p, began := &statsProvider{}, time.Now()
	at := func(after, used time.Duration) *uint64 {
		total, stale := uint64(used), uint64(7)
		cpu := &stats.CPUStats{Time: metav1.NewTime(began.Add(after)), UsageCoreNanoSeconds: &total, UsageNanoCores: &stale}
		now := map[string]cpuSample{}
		p.rateLocked(now, "c1", cpu)
		p.used = now
		return cpu.UsageNanoCores
	}
	for _, c := range []struct {
		after, used time.Duration
		want        uint64
	}{{0, time.Second, 7}, {10 * time.Second, 6 * time.Second, 5e8}, {10500 * time.Millisecond, 6500 * time.Millisecond, 5e8}, {20 * time.Second, 6 * time.Second, 0}} {
		if got := at(c.after, c.used); got == nil || *got != c.want {
			t.Errorf("after %v: %v, want %d", c.after, got, c.want)
		}
	}
}
