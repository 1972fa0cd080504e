// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/testhost"
)

// The test binary is also the program that runs on the test host: with this variable set it is a
// containerd and not a test.
const serverEnv = "SKIFF_CRI_TEST_SERVER"

const (
	testRoot    = "/var/lib/skiff/agent"
	testAddress = "/run/skiff/containerd/containerd.sock"
	busybox     = "docker.io/library/busybox:1"
)

func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	for ctx.Err() == nil {
		if err := serveForTest(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// serveForTest runs a containerd until it is told to end, or by SIGHUP to start again in the same process.
func serveForTest(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	c, err := New(Config{
		Root:     filepath.Join(testRoot, "containerd"),
		State:    filepath.Dir(testAddress),
		Address:  testAddress,
		BinDir:   filepath.Join(testRoot, "bin"),
		ImageDir: filepath.Join(testRoot, "images"),
	})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-c.Ready():
		case <-ctx.Done():
			return
		}
		// The connection in memory answers as the socket does.
		_, err := runtimeapi.NewRuntimeServiceClient(c.Conn()).Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			err = os.WriteFile("/run/ready", nil, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return c.Run(ctx)
}

// node is a test host with a containerd on it.
type node struct {
	*testhost.Host
	t       *testing.T
	process *testhost.Process
	logFile string

	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
}

func newNode(t *testing.T) *node {
	n := &node{Host: testhost.New(t, testhost.Options{}), t: t}
	dir := n.Path(filepath.Join(testRoot, "images"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeBusybox(t, filepath.Join(dir, "busybox.tar"))
	if err := os.WriteFile(filepath.Join(dir, "broken.tar"), []byte("not a tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.logFile = filepath.Join(t.TempDir(), "containerd.log")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of containerd:\n%s", n.log())
		}
	})
	n.start()
	return n
}

// log is what the containerd that was started last has logged so far.
func (n *node) log() string {
	log, err := os.ReadFile(n.logFile)
	if err != nil {
		n.t.Error(err)
	}
	return string(log)
}

// start starts containerd and waits until it is ready.
func (n *node) start() {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := n.Command(context.WithoutCancel(n.t.Context()), self)
	cmd.Env = append(os.Environ(), serverEnv+"=1")
	log, err := os.Create(n.logFile)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = log, log
	if n.process, err = n.Start(cmd); err != nil {
		n.t.Fatal(err)
	}
	n.connect()
}

// connect waits until containerd is ready, and connects to its socket.
func (n *node) connect() {
	n.t.Helper()
	n.await("containerd is ready", func() bool {
		select {
		case <-n.process.Done():
			n.t.Fatalf("containerd ended: %v\n%s", n.process.Wait(n.t.Context()), n.log())
		default:
		}
		return os.Remove(n.Path("/run/ready")) == nil
	})
	var err error
	n.conn, err = Dial("unix://" + n.Path(testAddress))
	if err != nil {
		n.t.Fatal(err)
	}
	n.runtime, n.images = runtimeapi.NewRuntimeServiceClient(n.conn), runtimeapi.NewImageServiceClient(n.conn)
}

func (n *node) kill() {
	n.t.Helper()
	n.conn.Close()
	if err := n.process.Kill(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) await(what string, done func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: not within a minute", what)
		}
	}
}

// must stops the test when a call fails.
func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// sandbox runs a pod that is on the network of its host, which needs no CNI plugin.
func (n *node) sandbox(podName string) (*runtimeapi.PodSandboxConfig, string) {
	n.t.Helper()
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: podName, Uid: podName + "-uid", Namespace: "default"},
		LogDirectory: "/var/log/pods/" + podName,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: n.CgroupRoot() + "/" + podName,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	res := must[*runtimeapi.RunPodSandboxResponse](n.t)(n.runtime.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}))
	return config, res.PodSandboxId
}

func (n *node) container(pod *runtimeapi.PodSandboxConfig, podID, name, script string) string {
	n.t.Helper()
	created := must[*runtimeapi.CreateContainerResponse](n.t)(n.runtime.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId:  podID,
		SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name},
			Image:    &runtimeapi.ImageSpec{Image: busybox},
			Command:  []string{"/bin/busybox", "sh", "-c", script},
			LogPath:  name + ".log",
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 100, OomScoreAdj: -997},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions,
					Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				},
			},
		},
	}))
	must[*runtimeapi.StartContainerResponse](n.t)(n.runtime.StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId}))
	return created.ContainerId
}

func (n *node) status(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	return must[*runtimeapi.ContainerStatusResponse](n.t)(n.runtime.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})).Status
}

func (n *node) exec(id string, command ...string) string {
	n.t.Helper()
	res := must[*runtimeapi.ExecSyncResponse](n.t)(n.runtime.ExecSync(n.t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 30}))
	if res.ExitCode != 0 {
		n.t.Fatalf("exec %v = %d: %s", command, res.ExitCode, res.Stderr)
	}
	return string(res.Stdout)
}

// removePods removes all pods.
func (n *node) removePods() {
	n.t.Helper()
	if err := RemoveAllPods(n.t.Context(), n.runtime); err != nil {
		n.t.Fatal(err)
	}
}

// A pod's life, as the kubelet would have it: sandbox, container, exec, log, events, stats, end.
func TestPod(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	events := must[grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse]](t)(n.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{}))
	pod, podID := n.sandbox("web")
	id := n.container(pod, podID, "main", "echo to stdout; echo to stderr >&2; trap 'exit 3' TERM; while :; do sleep 0.1; done")

	if out := n.exec(id, "/bin/busybox", "grep", "Seccomp:", "/proc/1/status"); strings.Fields(out)[1] != "2" {
		t.Errorf("the runtime's default seccomp profile is not applied: %q", out)
	}
	logFile := n.Path("/var/log/pods/web/main.log")
	n.await("log lines", func() bool {
		log, _ := os.ReadFile(logFile)
		return strings.Contains(string(log), "stdout F to stdout\n") && strings.Contains(string(log), "stderr F to stderr\n")
	})
	stats := must[*runtimeapi.ContainerStatsResponse](t)(n.runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})).Stats
	if stats.Memory.GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("ContainerStats = %v, want memory in use", stats)
	}
	podStats := must[*runtimeapi.ListPodSandboxStatsResponse](t)(n.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})).Stats
	if len(podStats) != 1 || len(podStats[0].GetLinux().GetContainers()) != 1 {
		t.Errorf("ListPodSandboxStats = %v, want one pod with one container", podStats)
	}
	must[*runtimeapi.StopContainerResponse](t)(n.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 30}))
	if got := n.status(id); got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.ExitCode != 3 {
		t.Errorf("after StopContainer: %v with exit code %d, want exit code 3", got.State, got.ExitCode)
	}
	n.removePods()
	wantEvents(t, events, id,
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	n.await("nothing is left but containerd", func() bool {
		left := must[testhost.Inventory](t)(n.Leftovers(ctx))
		for _, line := range left {
			// The kubelet, not the runtime, removes a pod's cgroup.
			if !strings.HasPrefix(line, "cgroup ") && line != "process cri.test" {
				return false
			}
		}
		return true
	})
}

func wantEvents(t *testing.T, events grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], id string, want ...runtimeapi.ContainerEventType) {
	t.Helper()
	for len(want) > 0 {
		event, err := events.Recv()
		if err != nil {
			t.Fatalf("waiting for %v: %v", want[0], err)
		}
		if event.ContainerId != id {
			continue // the sandbox has events too
		}
		if event.ContainerEventType != want[0] {
			t.Errorf("event %v, want %v", event.ContainerEventType, want[0])
		}
		want = want[1:]
	}
}

// After kill -9 a new process takes the running containers over; what ended in between has ended.
func TestTakeOver(t *testing.T) {
	n := newNode(t)
	pod, podID := n.sandbox("web")
	stays := n.container(pod, podID, "stays", "while :; do sleep 1; done")
	ends := n.container(pod, podID, "ends", "while [ ! -e /tmp/end ]; do sleep 0.01; done; exit 4")
	before := n.status(stays)

	n.exec(ends, "/bin/busybox", "sh", "-c", "mkdir -p /tmp && (sleep 1; touch /tmp/end) >/dev/null 2>&1 &")
	n.kill()
	n.start()

	after := n.status(stays)
	if after.State != runtimeapi.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
		t.Errorf("after the restart the container is %v since %d, want that it still runs since %d", after.State, after.StartedAt, before.StartedAt)
	}
	n.exec(stays, "/bin/busybox", "true")
	n.await("the exit code of the other container", func() bool {
		got := n.status(ends)
		return got.State == runtimeapi.ContainerState_CONTAINER_EXITED && got.ExitCode == 4
	})
	sandbox := must[*runtimeapi.PodSandboxStatusResponse](t)(n.runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podID}))
	if sandbox.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the sandbox is %v", sandbox.Status.State)
	}
	n.removePods()
}

// A process that is told to end does, leaves the containers alone, and imports nothing again when it comes back.
func TestRestart(t *testing.T) {
	n := newNode(t)
	pod, podID := n.sandbox("web")
	id := n.container(pod, podID, "main", "while :; do sleep 1; done")
	if err := n.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := n.process.Wait(t.Context()); err != nil {
		t.Errorf("Run after SIGTERM: %v", err)
	}
	if first := n.log(); strings.Count(first, `"Imported images"`) != 2 || strings.Count(first, `"Cannot import images"`) != 1 {
		t.Errorf("the log of the first start does not tell of two archives imported and one broken:\n%s", first)
	}
	n.start()
	if n.status(id).State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Error("the container does not run any more")
	}
	if strings.Contains(n.log(), `"Imported images"`) {
		t.Errorf("unchanged archives were imported again:\n%s", n.log())
	}
	n.removePods()
}

// One process may run a containerd again after it has ended one.
func TestRunAgain(t *testing.T) {
	n := newNode(t)
	pod, podID := n.sandbox("web")
	id := n.container(pod, podID, "main", "while :; do sleep 1; done")
	if err := n.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	n.conn.Close()
	n.connect()
	n.exec(id, "/bin/busybox", "true")
	n.removePods()
}

// Images of the image directory are there, by the names in their archives, and pinned.
func TestImages(t *testing.T) {
	n := newNode(t)
	list := must[*runtimeapi.ListImagesResponse](t)(n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{}))
	names := map[string]bool{}
	for _, image := range list.Images {
		for _, tag := range image.RepoTags {
			names[tag] = image.Pinned
		}
	}
	for _, want := range []string{busybox, "localhost/skiff/pause:1"} {
		if !names[want] {
			t.Errorf("no pinned image %s in %v", want, names)
		}
	}
	info := must[*runtimeapi.ImageFsInfoResponse](t)(n.images.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{}))
	if len(info.ImageFilesystems) == 0 {
		t.Error("ImageFsInfo knows no file system")
	}
}

// A pull goes to the mirrors that hosts.toml names.
func TestPull(t *testing.T) {
	n := newNode(t)
	listener := must[net.Listener](t)(n.Listen(t.Context(), "tcp", "127.0.0.1:5000"))
	images := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	push(t, images.Handler, "team/tool", "2", busyboxImage(t))
	go images.Serve(listener)
	defer images.Close()
	dir := n.Path("/etc/skiff/certs.d/registry.example")
	hosts := "server = \"https://registry.example\"\n[host.\"http://127.0.0.1:5000\"]\n"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600)); err != nil {
		t.Fatal(err)
	}
	const image = "registry.example/team/tool:2"
	res := must[*runtimeapi.PullImageResponse](t)(n.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}}))
	status := must[*runtimeapi.ImageStatusResponse](t)(n.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}}))
	if status.GetImage() == nil || res.ImageRef == "" {
		t.Errorf("after the pull of %q, ImageStatus = %v", res.ImageRef, status)
	}
	_, err := n.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "registry.example/team/none:1"}})
	if grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("pull of an image that does not exist = %v, want NotFound", err)
	}
}

// push puts an image with one layer into a registry.
func push(t *testing.T, registry http.Handler, repository, tag string, image v1.Image) {
	t.Helper()
	send := func(method, path, contentType string, body []byte) {
		r := httptest.NewRequest(method, "/v2/"+repository+path, bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		if registry.ServeHTTP(w, r); w.Code != http.StatusCreated {
			t.Fatalf("%s %s = %d %s", method, path, w.Code, w.Body)
		}
	}
	layer := must[[]v1.Layer](t)(image.Layers())[0]
	content := must[[]byte](t)(io.ReadAll(must[io.ReadCloser](t)(layer.Compressed())))
	send("POST", "/blobs/uploads/?digest="+must[v1.Hash](t)(layer.Digest()).String(), "application/octet-stream", content)
	config := must[[]byte](t)(image.RawConfigFile())
	send("POST", "/blobs/uploads/?digest="+must[v1.Hash](t)(image.ConfigName()).String(), "application/octet-stream", config)
	send("PUT", "/manifests/"+tag, string(must[types.MediaType](t)(image.MediaType())), must[[]byte](t)(image.RawManifest()))
}

func TestNewNeedsDirectories(t *testing.T) {
	if _, err := New(Config{Root: "/a", State: "/b"}); err == nil {
		t.Error("New without a directory for the programs succeeded")
	}
}

func writeBusybox(t *testing.T, path string) {
	t.Helper()
	if err := tarball.WriteToFile(path, must[name.Tag](t)(name.NewTag(busybox)), busyboxImage(t)); err != nil {
		t.Fatal(err)
	}
}

func busyboxImage(t *testing.T) v1.Image {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need Debian's busybox-static: %v", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}))
	if err == nil {
		_, err = w.Write(program)
	}
	for _, applet := range []string{"sh", "sleep", "mkdir", "touch"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	l := must[v1.Layer](t)(tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	}))
	image := must[v1.Image](t)(mutate.AppendLayers(empty.Image, l))
	config := must[*v1.ConfigFile](t)(image.ConfigFile())
	config.Architecture, config.OS = "amd64", "linux"
	config.Config.Env = []string{"PATH=/bin"}
	return must[v1.Image](t)(mutate.ConfigFile(image, config))
}
