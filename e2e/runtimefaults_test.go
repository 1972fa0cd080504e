// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/skiff-k8s/skiff/testhost"
)

// A node lives through what somebody else's container runtime does to it: it answers slowly, with errors, or not at all. The
// runtime is reached by a proxy that does all that.
func TestRuntimeFaults(t *testing.T) {
	t.Parallel()
	n := newHost(t)
	n.other = true
	proxy := newCRIProxy(t, n)
	n.playRuntime()
	n.flags = []string{"--container-runtime-endpoint=unix://" + proxy.address}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.kubectl("create", "namespace", "demo")
	n.runPod("steady", "sleep 3600", "")
	n.becomes("steady", ".status.phase", "Running")
	before := n.instance("steady")
	t.Run("answers that are lost", func(t *testing.T) {
		n := n.with(t)
		n.makeHerd()
		proxy.lose.Store(3)
		n.scaleHerd(4)
		n.eventually(time.Minute, "answers were lost", func() error {
			if lost := proxy.lost.Load(); lost < 4 {
				return fmt.Errorf("%d were", lost)
			}
			return nil
		})
		proxy.lose.Store(0)
		n.herdIs(4)
		proxy.lose.Store(3)
		n.scaleHerd(1)
		n.herdIs(1)
		proxy.lose.Store(0)
		n.endHerd()
	})
	t.Run("slow answers", func(t *testing.T) {
		n := n.with(t)
		proxy.delay.Store(int64(700 * time.Millisecond))
		defer proxy.delay.Store(0)
		n.makeHerd()
		n.herdIs(2)
		n.endHerd()
	})
	t.Run("nothing but errors for a while", func(t *testing.T) {
		n := n.with(t)
		proxy.refuse.Store(true)
		n.kubectl("wait", "--for=condition=Ready=False", "node/alpha", "--timeout=90s")
		if message := n.kubectl("get", "node", "alpha", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`); !strings.Contains(message, "container runtime is down") {
			t.Errorf("the node says %q", message)
		}
		proxy.refuse.Store(false)
		n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=90s")
		n.makeHerd()
		n.herdIs(2)
		n.endHerd()
	})
	if now := n.instance("steady"); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
	if out := n.kubectl("exec", "-n", "demo", "steady", "--", "echo", "here"); out != "here\n" {
		t.Errorf("exec says %q", out)
	}
	n.kubectl("delete", "namespace", "demo", "--timeout=120s")
	n.nothingOf("demo")
}

// playRuntime starts the other runtime and waits until it listens.
func (n *node) playRuntime() *testhost.Process {
	n.t.Helper()
	process := n.play("containerd")
	n.eventually(time.Minute, "the other runtime listens", func() error {
		conn, err := n.Dial(n.t.Context(), "unix", otherCRISocket)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return process
}

func (n *node) kill(process *testhost.Process) {
	n.t.Helper()
	if err := process.Signal(syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	<-process.Done()
}

// instance is the container of a pod, how often it was started, and whether it runs.
func (n *node) instance(pod string) string {
	n.t.Helper()
	return n.kubectl("get", "pod", "-n", "demo", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
}

// processes are the IDs of those on the host whose names begin with something.
func (n *node) processes(prefix string) []string {
	n.t.Helper()
	return strings.Fields(n.inside("sh", "-c", "for p in /proc/[0-9]*; do grep -q ^"+prefix+" $p/comm 2>/dev/null && echo ${p#/proc/}; done; true"))
}

func (n *node) makeHerd() {
	n.t.Helper()
	n.kubectl("create", "deployment", "-n", "demo", "herd", "--image=busybox:stable", "--replicas=2", "--", "sleep", "3600")
	n.kubectl("patch", "deployment", "-n", "demo", "herd", "-p", `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"busybox","imagePullPolicy":"IfNotPresent"}]}}}}`)
}

func (n *node) scaleHerd(replicas int) {
	n.t.Helper()
	n.kubectl("scale", "deployment", "-n", "demo", "herd", fmt.Sprintf("--replicas=%d", replicas))
}

// herdIs waits until so many pods of the herd are Ready, no other is left, and each has one container that runs.
func (n *node) herdIs(replicas int) {
	n.t.Helper()
	n.eventually(150*time.Second, fmt.Sprintf("%d pods run, each once", replicas), func() error {
		out, err := n.try("get", "pods", "-n", "demo", "-l", "app=herd", "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[0].ready}{.metadata.deletionTimestamp} {end}")
		if err != nil {
			return err
		}
		pods := strings.Fields(out)
		sandboxes, containers := 0, 0
		lines := n.containers("demo")
		for _, line := range lines {
			switch {
			case strings.HasPrefix(line, "sandbox herd-") && strings.HasSuffix(line, "SANDBOX_READY"):
				sandboxes++
			case strings.HasPrefix(line, "container busybox ") && strings.HasSuffix(line, "CONTAINER_RUNNING"):
				containers++
			}
		}
		for _, pod := range pods {
			if !strings.HasSuffix(pod, "=true") {
				return fmt.Errorf("pods: %s", out)
			}
		}
		if len(pods) != replicas || sandboxes != replicas || containers != replicas {
			return fmt.Errorf("pods: %s; sandboxes and containers:\n%s", out, strings.Join(lines, "\n"))
		}
		return nil
	})
}

func (n *node) endHerd() {
	n.t.Helper()
	n.kubectl("delete", "deployment", "-n", "demo", "herd", "--wait=true")
	n.eventually(90*time.Second, "the herd is gone", func() error {
		if out, err := n.try("get", "pods", "-n", "demo", "-l", "app=herd", "-o", "name"); err != nil || out != "" {
			return fmt.Errorf("there is %q, %w", out, err)
		}
		return nil
	})
}

func (n *node) nothingOf(namespace string) {
	n.t.Helper()
	n.eventually(60*time.Second, "nothing of the namespace is left", func() error {
		if left := n.containers(namespace); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

// criProxy passes calls of the CRI on to the other runtime, unless it is told to do worse.
type criProxy struct {
	address string
	backend *grpc.ClientConn

	delay  atomic.Int64 // of each answer
	refuse atomic.Bool  // every call
	lose   atomic.Int64 // the answer of each n-th call that changes something; 0: none
	lost   atomic.Int64 // so far

	dialect map[string]translation // by method: what it says instead of the runtime's words

	mu      sync.Mutex
	changes int64 // guarded by mu: calls that change something
}

func newCRIProxy(t *testing.T, n *node) *criProxy {
	t.Helper()
	backend, err := grpc.NewClient("passthrough:///cri", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return n.Dial(ctx, "unix", otherCRISocket) }))
	if err != nil {
		t.Fatal(err)
	}
	p := &criProxy{address: "/run/proxy.sock", backend: backend}
	listener, err := net.Listen("unix", n.Path(p.address))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(frames{}), grpc.UnknownServiceHandler(p.pass), grpc.MaxRecvMsgSize(16<<20))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		backend.Close()
		_ = os.Remove(n.Path(p.address))
	})
	return p
}

var changing = []string{"RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer"}

// loses says whether the answer of a call shall be lost.
func (p *criProxy) loses(method string) bool {
	every := p.lose.Load()
	if every == 0 {
		return false
	}
	for _, name := range changing {
		if strings.HasSuffix(method, "/"+name) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changes++
			return p.changes%every == 0
		}
	}
	return false
}

// translation makes of a call what another runtime would understand and say. What is nil stays as it is.
type translation struct {
	silent  bool // the call ends at once, without an answer
	request func(ctx context.Context, message []byte) ([]byte, error)
	answer  func(ctx context.Context, message []byte) ([]byte, error)
	failed  func(ctx context.Context, request []byte, err error) (answer []byte, _ error)
}

// pass is the handler of all calls.
func (p *criProxy) pass(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if p.refuse.Load() {
		return grpcstatus.Error(codes.Internal, "the proxy refuses everything")
	}
	incoming, _ := metadata.FromIncomingContext(stream.Context())
	ctx := metadata.NewOutgoingContext(stream.Context(), incoming)
	out, err := p.backend.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(frames{}), grpc.MaxCallRecvMsgSize(16<<20))
	if err != nil {
		return err
	}
	var message frame
	if err := stream.RecvMsg(&message); err != nil { // all calls of the CRI have one request
		return err
	}
	words := p.dialect[path.Base(method)]
	if words.silent {
		return nil
	}
	if words.request != nil {
		if message.bytes, err = words.request(ctx, message.bytes); err != nil {
			return err
		}
	}
	if err := errors.Join(out.SendMsg(&message), out.CloseSend()); err != nil {
		return err
	}
	for {
		var answer frame
		err := out.RecvMsg(&answer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && words.answer != nil {
			answer.bytes, err = words.answer(ctx, answer.bytes)
		}
		failed := err != nil
		if failed && words.failed != nil {
			answer.bytes, err = words.failed(ctx, message.bytes, err)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(p.delay.Load())):
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if p.loses(method) {
			p.lost.Add(1)
			return grpcstatus.Error(codes.Unavailable, "the proxy lost the answer")
		}
		if err := stream.SendMsg(&answer); err != nil || failed {
			return err
		}
	}
}
