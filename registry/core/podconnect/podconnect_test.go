// SPDX-License-Identifier: Apache-2.0

package podconnect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	criremotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/skiff-k8s/skiff/kubelet/server"
	"github.com/skiff-k8s/skiff/registry/core/podconnect"
)

const namespace = "default"

// objects is a storage of what a test needs.
type objects map[string]runtime.Object

func (o objects) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if obj, ok := o[name]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

// machine is a node without containers: its runtime has the real streaming server of a CRI runtime, and "runs"
// commands in this process.
type machine struct {
	runtimeapi.RuntimeServiceClient
	streams streaming.Server
	pod     *corev1.Pod
	logFile string
}

func (m *machine) Exec(_ context.Context, in *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	return m.streams.GetExec(in)
}

func (m *machine) Attach(_ context.Context, in *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	return m.streams.GetAttach(in)
}

func (m *machine) PortForward(_ context.Context, in *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	return m.streams.GetPortForward(in)
}

func (m *machine) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest, ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		LogPath: m.logFile, State: runtimeapi.ContainerState_CONTAINER_EXITED,
	}}, nil
}

func (m *machine) Pods() []*corev1.Pod { return []*corev1.Pod{m.pod} }

func (m *machine) PodByName(namespace, name string) (*corev1.Pod, bool) {
	return m.pod, m.pod.Namespace == namespace && m.pod.Name == name
}

func (m *machine) ContainerID(_ context.Context, _ types.UID, container string, _ bool) (string, error) {
	return "containerd://id-of-" + container, nil
}

func (m *machine) SandboxID(context.Context, types.UID) (string, error) { return "id-of-sandbox", nil }

// commands is what runs in the machine's containers.
type commands struct{}

// Exec knows "cat" and "fail".
func (commands) Exec(_ context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan criremotecommand.TerminalSize) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "fail":
		fmt.Fprintf(errOut, "%s fails", id)
		return utilexec.CodeExitError{Err: errors.New("it failed"), Code: 7}
	}
	return fmt.Errorf("no command %q", cmd)
}

func (commands) Attach(_ context.Context, id string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criremotecommand.TerminalSize) error {
	fmt.Fprintf(out, "attached to %s: ", id)
	_, err := io.Copy(out, in)
	return err
}

// PortForward serves an echo on every port.
func (commands) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	buf := make([]byte, 100)
	n, err := stream.Read(buf)
	if err != nil {
		return err
	}
	fmt.Fprintf(stream, "port %d heard %s", port, buf[:n])
	return stream.Close()
}

// cluster is an API server that has only pods' subresources, and the kubelet behind it.
type cluster struct {
	*httptest.Server
	machine *machine
	config  *restclient.Config
}

// anyone authenticates everybody, so that a test of streams needs no certificates.
func anyone(*http.Request) (*authenticator.Response, bool, error) {
	return &authenticator.Response{User: &user.DefaultInfo{Name: "tester"}}, true, nil
}

func newCluster(t *testing.T) *cluster {
	m := &machine{logFile: filepath.Join(t.TempDir(), "0.log"), pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", UID: "uid"},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "main"}}},
	}}
	runtimeServer := httptest.NewUnstartedServer(nil)
	streamConfig := streaming.DefaultConfig
	streamConfig.BaseURL = &url.URL{Scheme: "http", Host: runtimeServer.Listener.Addr().String()}
	var err error
	if m.streams, err = streaming.NewServer(streamConfig, commands{}); err != nil {
		t.Fatal(err)
	}
	runtimeServer.Config.Handler = m.streams
	runtimeServer.Start()
	t.Cleanup(runtimeServer.Close)

	kubelet := httptest.NewUnstartedServer(server.New(server.Config{
		NodeName: "node", Authenticator: authenticator.RequestFunc(anyone), Authorizer: authorizerfactory.NewAlwaysAllowAuthorizer(),
		Pods: m, Runtime: m,
	}).Handler())
	kubelet.EnableHTTP2 = true // as it has it; upgrades need HTTP/1.1 all the same
	kubelet.StartTLS()
	t.Cleanup(kubelet.Close)

	at := kubelet.Listener.Addr().(*net.TCPAddr)
	kubelets := podconnect.NodeKubelets{
		Nodes: objects{"node": &corev1.Node{Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "nowhere"}, {Type: corev1.NodeInternalIP, Address: at.IP.String()}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(at.Port)}},
		}}},
		Transport: kubelet.Client().Transport,
	}
	streams := podconnect.Streams{Pods: objects{"web": m.pod}, Kubelets: kubelets, Authorizer: authorizerfactory.NewAlwaysAllowAuthorizer()}
	mux := http.NewServeMux()
	mux.Handle("/exec", connect(podconnect.Exec{Streams: streams}, func() runtime.Object { return &corev1.PodExecOptions{} }))
	mux.Handle("/attach", connect(podconnect.Attach{Streams: streams}, func() runtime.Object { return &corev1.PodAttachOptions{} }))
	mux.Handle("/portforward", connect(podconnect.PortForward{Streams: streams}, func() runtime.Object { return &corev1.PodPortForwardOptions{} }))
	c := &cluster{Server: httptest.NewServer(mux), machine: m}
	t.Cleanup(c.Close)
	c.config = &restclient.Config{Host: c.URL}
	return c
}

// connect does for a subresource what the API server's machinery does.
func connect(storage rest.Connecter, newOptions func() runtime.Object) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		opts := newOptions()
		q := r.URL.Query()
		switch o := opts.(type) {
		case *corev1.PodExecOptions:
			o.Command, o.Stdin, o.Stdout, o.Stderr = q["command"], q.Has("stdin"), q.Has("stdout"), q.Has("stderr")
		case *corev1.PodAttachOptions:
			o.Stdin, o.Stdout, o.Stderr = q.Has("stdin"), q.Has("stdout"), q.Has("stderr")
		}
		ctx := request.WithNamespace(r.Context(), namespace)
		ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "tester"})
		ctx = request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: strings.ToLower(r.Method), Resource: "pods", Name: "web", Namespace: namespace})
		h, err := storage.Connect(ctx, "web", opts, responder{w})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

type responder struct{ w http.ResponseWriter }

func (r responder) Object(int, runtime.Object) {}
func (r responder) Error(err error)            { http.Error(r.w, err.Error(), http.StatusInternalServerError) }

// executors are both protocols that kubectl has.
func (c *cluster) executors(t *testing.T, pathAndQuery string) map[string]remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(c.URL + pathAndQuery)
	if err != nil {
		t.Fatal(err)
	}
	bySPDY, err := remotecommand.NewSPDYExecutor(c.config, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	byWebSocket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"SPDY": bySPDY, "WebSocket": byWebSocket}
}

func TestExec(t *testing.T) {
	c := newCluster(t)
	for protocol, executor := range c.executors(t, "/exec?command=cat&stdin=true&stdout=true") {
		t.Run(protocol, func(t *testing.T) {
			sent := strings.Repeat("0123456789abcdef", 50_000) // more than any buffer on the way
			var got bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(sent), Stdout: &got})
			if err != nil || got.String() != sent {
				t.Errorf("exec cat = %d bytes, %v; want the %d that were sent", got.Len(), err, len(sent))
			}
		})
	}
}

func TestExecExitCode(t *testing.T) {
	c := newCluster(t)
	for protocol, executor := range c.executors(t, "/exec?command=fail&stdout=true&stderr=true") {
		t.Run(protocol, func(t *testing.T) {
			var out, errOut bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
			var exit exec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 7 || errOut.String() != "id-of-main fails" {
				t.Errorf("exec fail = %v, stderr %q; want exit code 7", err, errOut.String())
			}
		})
	}
}

func TestAttach(t *testing.T) {
	c := newCluster(t)
	for protocol, executor := range c.executors(t, "/attach?stdin=true&stdout=true") {
		t.Run(protocol, func(t *testing.T) {
			var got bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &got})
			if err != nil || got.String() != "attached to id-of-main: hello" {
				t.Errorf("attach = %q, %v", got.String(), err)
			}
		})
	}
}

func TestPortForward(t *testing.T) {
	c := newCluster(t)
	u, err := url.Parse(c.URL + "/portforward")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("SPDY", func(t *testing.T) {
		f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:80"}, stopAfter(t), make(chan struct{}), io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		forwardAndAsk(t, f)
	})
	t.Run("WebSocket", func(t *testing.T) {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(u, c.config)
		if err != nil {
			t.Fatal(err)
		}
		f, err := portforward.New(dialer, []string{"0:80"}, stopAfter(t), make(chan struct{}), io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		forwardAndAsk(t, f)
	})
}

func stopAfter(t *testing.T) chan struct{} {
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	return stop
}

func forwardAndAsk(t *testing.T, f *portforward.PortForwarder) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case err := <-ended:
		t.Fatalf("ForwardPorts ended: %v", err)
	case <-f.Ready:
	case <-time.After(30 * time.Second):
		t.Fatal("ForwardPorts was not ready within 30 s")
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "port 80 heard hello" {
		t.Errorf("the port answers %q, %v", got, err)
	}
}

// A WebSocket begins with GET, but needs the right to create.
func TestExecNeedsCreate(t *testing.T) {
	streams := podconnect.Streams{Authorizer: onlyVerb("get")}
	ctx := request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "get", Resource: "pods", Subresource: "exec", Name: "web"})
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "reader"})
	_, err := podconnect.Exec{Streams: streams}.Connect(ctx, "web", &corev1.PodExecOptions{}, nil)
	if !apierrors.IsForbidden(err) {
		t.Errorf("Connect = %v, want Forbidden", err)
	}
}

type onlyVerb string

func (v onlyVerb) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() == string(v) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "no rule", nil
}

func TestContainerName(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init"}}, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}},
	}}
	log := podconnect.Log{Pods: objects{"web": pod}}
	for name, want := range map[string]string{
		"":     "a container name must be specified for pod web, choose one of: [init a b]",
		"none": "container none is not valid for pod web",
	} {
		_, err := log.Get(t.Context(), "web", &corev1.PodLogOptions{Container: name})
		if !apierrors.IsBadRequest(err) || err.Error() != want {
			t.Errorf("Get log of container %q = %v, want bad request: %s", name, err, want)
		}
	}
	if _, err := log.Get(t.Context(), "web", &corev1.PodLogOptions{Container: "init"}); err != nil {
		t.Errorf("Get log of a pod that has no node = %v, want an empty log", err)
	}
	bad := int64(-1)
	if _, err := log.Get(t.Context(), "web", &corev1.PodLogOptions{TailLines: &bad}); !apierrors.IsInvalid(err) {
		t.Errorf("Get with tailLines -1 = %v, want Invalid", err)
	}
}

func TestLog(t *testing.T) {
	c := newCluster(t)
	lines := "2026-11-22T10:00:00.000000000Z stdout F one\n2026-11-22T10:00:01.000000000Z stderr F two\n2026-11-22T10:00:02.000000000Z stdout P thr\n2026-11-22T10:00:02.000000001Z stdout F ee\n"
	if err := os.WriteFile(c.machine.logFile, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	kubelet := server.New(server.Config{
		Authenticator: authenticator.RequestFunc(anyone), Authorizer: authorizerfactory.NewAlwaysAllowAuthorizer(),
		Pods: c.machine, Runtime: c.machine,
	})
	for query, want := range map[string]string{
		"":                                "one\ntwo\nthree\n",
		"?tailLines=2":                    "three\n", // parts of a line count, as they do upstream
		"?limitBytes=5":                   "one\nt",
		"?stream=Stderr":                  "two\n",
		"?timestamps=true&tailLines=0":    "",
		"?sinceTime=2026-11-22T10:00:01Z": "two\nthree\n",
		"?follow=true":                    "one\ntwo\nthree\n", // the container has exited
	} {
		w := httptest.NewRecorder()
		kubelet.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/containerLogs/default/web/main"+query, nil))
		if w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("log%s = %d %q, want %q", query, w.Code, w.Body.String(), want)
		}
	}
}

// The API server must not be sent to addresses that are no pod's.
func TestServiceProxyOnlyToPods(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.42.0.5"}}}}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	port, name := int32(8080), "http"
	for address, reachable := range map[string]bool{"10.42.0.5": true, "169.254.169.254": false} {
		slice := &discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}, TargetRef: &corev1.ObjectReference{Namespace: namespace, Name: "web"}}},
		}
		p := podconnect.ServiceProxy{Services: objects{"web": svc}, Pods: objects{"web": pod}, EndpointSlices: slices{slice}}
		_, err := p.Connect(request.WithNamespace(t.Context(), namespace), "web:80", &corev1.ServiceProxyOptions{}, nil)
		if (err == nil) != reachable {
			t.Errorf("proxy to %s: %v", address, err)
		}
	}
}

type slices []*discoveryv1.EndpointSlice

func (s slices) GetEndpointSlices(string, string) ([]*discoveryv1.EndpointSlice, error) {
	return s, nil
}
