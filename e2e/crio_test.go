// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A node works with CRI-O, as far as a stand-in can tell: a containerd whose answers are turned into those that CRI-O's source has.
func TestCRIO(t *testing.T) {
	t.Parallel()
	n := newHost(t)
	n.other = true
	proxy := newCRIProxy(t, n)
	crio := &standIn{runtime: runtimeapi.NewRuntimeServiceClient(proxy.backend), images: runtimeapi.NewImageServiceClient(proxy.backend)}
	proxy.dialect = crio.dialect()
	runtime := n.playRuntime()
	n.flags = []string{"--container-runtime-endpoint=unix://" + proxy.address}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	if got := n.kubectl("get", "node", "alpha", "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"); got != "cri-o://"+crioVersion {
		t.Errorf("container runtime = %q", got)
	}
	n.kubectl("create", "namespace", "demo")
	n.runPod("steady", "echo began; sleep 3600", `    readinessProbe: {exec: {command: [test, -d, /scratch]}, periodSeconds: 1}`)
	n.becomes("steady", ".status.containerStatuses[0].ready", "true")
	before := n.instance("steady")

	t.Run("what a pod's status says", func(t *testing.T) { n.with(t).namesAsCRIO() })
	t.Run("streams and logs", func(t *testing.T) { n.with(t).reachesSteady() })
	t.Run("ends of containers", func(t *testing.T) { n.with(t).endsAsCRIO() })
	t.Run("what it uses", func(t *testing.T) { n.with(t).measuresAsCRIO() })
	t.Run("pods come and go", func(t *testing.T) {
		n := n.with(t)
		n.makeHerd()
		n.herdIs(2)
		n.scaleHerd(4)
		n.herdIs(4)
		n.endHerd()
	})
	log, err := os.ReadFile(n.log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "Container events ended") {
		t.Error("the log tells of events, of which CRI-O has none")
	}
	t.Run("CRI-O is killed", func(t *testing.T) {
		n := n.with(t)
		n.kill(runtime)
		runtime = n.playRuntime()
		n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=90s")
		n.makeHerd()
		n.herdIs(2)
		n.endHerd()
	})
	t.Run("Skiff is killed", func(t *testing.T) {
		n := n.with(t)
		n.killServer()
		n.start()
		n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=90s")
		n.reachesSteady()
	})
	if now := n.instance("steady"); now != before {
		t.Errorf("the pod that nobody touched is %s, was %s", now, before)
	}
	n.kubectl("delete", "namespace", "demo", "--timeout=120s")
	n.nothingOf("demo")
}

func (n *node) killServer() {
	n.t.Helper()
	if err := n.server.process.Signal(syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	<-n.server.process.Done()
}

// namesAsCRIO looks at how containers and images are named.
func (n *node) namesAsCRIO() {
	n.t.Helper()
	got := n.kubectl("get", "pod", "-n", "demo", "steady", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].imageID} {.status.containerStatuses[0].image}")
	if want := regexp.MustCompile(`^cri-o://[0-9a-f]{64} docker\.io/library/busybox@sha256:[0-9a-f]{64} docker\.io/library/busybox:stable$`); !want.MatchString(got) {
		n.t.Errorf("its container, image and name of that are %q", got)
	}
}

func (n *node) reachesSteady() {
	n.t.Helper()
	if out := n.kubectl("exec", "-n", "demo", "steady", "--", "echo", "here"); out != "here\n" {
		n.t.Errorf("exec says %q", out)
	}
	if out, err := n.pipe("through\n", "exec", "-i", "-n", "demo", "steady", "--", "cat"); err != nil || out != "through\n" {
		n.t.Errorf("exec -i cat = %q, %v", out, err)
	}
	if out := n.kubectl("logs", "-n", "demo", "steady"); out != "began\n" {
		n.t.Errorf("its log is %q", out)
	}
}

// endsAsCRIO has containers end in all ways.
func (n *node) endsAsCRIO() {
	n.t.Helper()
	terminated := ".status.containerStatuses[0].state.terminated"
	n.runPod("done", "exit 0", "  restartPolicy: Never")
	n.runPod("failed", "exit 3", "  restartPolicy: Never")
	n.runPod("again", "exit 1", "")
	n.endsHangingProbe() // by exit code -1, not by an error
	n.becomes("done", terminated+".reason", "Completed")
	n.becomes("failed", terminated+".reason", "Error")
	n.becomes("failed", terminated+".exitCode", "3")
	n.becomes("again", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")

	n.runWith("unstartable", "busybox:stable", "[/nowhere]", "scratch, emptyDir: {}", "")
	n.becomes("unstartable", ".status.containerStatuses[0].state.waiting.reason", "RunContainerError") // and nothing is left of the container
	n.runWith("unreachable", "127.0.0.1:9/nothing:1", "[sleep]", "scratch, emptyDir: {}", "")
	n.becomes("unreachable", ".status.containerStatuses[0].state.waiting.reason", "RegistryUnavailable")
	n.kubectl("delete", "pod", "-n", "demo", "done", "failed", "again", "hung", "unstartable", "unreachable", "--wait=true", "--timeout=90s")
}

// measuresAsCRIO looks for the pod in what dashboards read.
func (n *node) measuresAsCRIO() {
	n.t.Helper()
	for path, want := range map[string]*regexp.Regexp{
		"stats/summary":    regexp.MustCompile(`(?s)"network": ?\{[^{]*"name": ?"eth0",\s*"rxBytes"`),
		"metrics/cadvisor": regexp.MustCompile(`container_network_receive_bytes_total\{container="",id="[^"]*",image="",interface="eth0",name="[^"]*",namespace="demo",pod="steady"\}`),
		"metrics/resource": regexp.MustCompile(`container_memory_working_set_bytes\{container="main",namespace="demo",pod="steady"\}`),
	} {
		n.eventually(30*time.Second, path+" tells of it", func() error {
			out, err := n.try("get", "--raw", "/api/v1/nodes/alpha/proxy/"+path)
			if err == nil && !want.MatchString(out) {
				err = fmt.Errorf("there is no %s", want)
			}
			return err
		})
	}
}

// crioVersion is one without known escapes.
const crioVersion = "1.34.2"

// standIn turns what containerd says into what CRI-O says, wherever its source (1.34) shows a difference. What is below the CRI stays
// containerd's: cgroups are named without "crio-", a sandbox has a process, there is no conmon.
type standIn struct {
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
}

func (c *standIn) dialect() map[string]translation {
	d := map[string]translation{
		"Version":            {answer: answers(crioNames)},
		"Status":             {answer: answers(crioStatus)},
		"GetContainerEvents": {silent: true}, // unless enable_pod_events is set

		"RunPodSandbox":       {request: answers(crioCgroup)},
		"ListPodSandbox":      {answer: answers(crioSandboxes)},
		"PodSandboxStatus":    {answer: answers(crioSandbox)},
		"ListPodSandboxStats": {answer: answers(crioStats)},

		"CreateContainer": {request: answers(func(_ context.Context, r *runtimeapi.CreateContainerRequest) error { return theirs(r.Config.Image) })},
		"StartContainer":  {failed: c.removeUnstarted},
		"RemoveContainer": {request: answers(c.mustExist)},
		"ListContainers":  {answer: answers(c.containers)},
		"ContainerStatus": {answer: answers(c.container)},
		"ExecSync":        {failed: crioExec},
		"CheckpointContainer": {request: func(context.Context, []byte) ([]byte, error) {
			return nil, errors.New("checkpoint/restore support not available")
		}},

		"ListImages":  {answer: answers(crioImages)},
		"ImageStatus": {request: answers(func(_ context.Context, r *runtimeapi.ImageStatusRequest) error { return theirs(r.Image) }), answer: answers(crioImage)},
		"RemoveImage": {request: answers(func(_ context.Context, r *runtimeapi.RemoveImageRequest) error { return theirs(r.Image) })},
		"PullImage":   {answer: answers(c.pulled), failed: crioPull},
		"ImageFsInfo": {answer: answers(crioDisk)},
	}
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			if t := d[m.MethodName]; t.failed == nil {
				t.failed = plain
				d[m.MethodName] = t
			}
		}
	}
	return d
}

// answers makes a change of one message a change of its bytes.
func answers[M any, P interface {
	*M
	proto.Message
}](change func(context.Context, P) error) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, message []byte) ([]byte, error) {
		m := P(new(M))
		if err := proto.Unmarshal(message, m); err != nil {
			return nil, err
		}
		if err := change(ctx, m); err != nil {
			return nil, err
		}
		return proto.Marshal(m)
	}
}

// plain is an error as CRI-O returns most: it has no code.
func plain(_ context.Context, _ []byte, err error) ([]byte, error) {
	switch s := grpcstatus.Convert(err); s.Code() {
	case codes.NotFound, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Unimplemented:
		return nil, err
	default:
		return nil, errors.New(s.Message())
	}
}

func crioNames(_ context.Context, v *runtimeapi.VersionResponse) error {
	v.RuntimeName, v.RuntimeVersion = "cri-o", crioVersion
	return nil
}

// crioStatus has two conditions, and of its configuration the image of sandboxes and the runtimes below it.
func crioStatus(_ context.Context, s *runtimeapi.StatusResponse) error {
	var conditions []*runtimeapi.RuntimeCondition
	for _, c := range s.Status.Conditions {
		if c.Type == runtimeapi.RuntimeReady || c.Type == runtimeapi.NetworkReady {
			conditions = append(conditions, c)
		}
	}
	s.Status.Conditions, s.Features = conditions, &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true}
	if len(s.Info) > 0 {
		s.Info = map[string]string{"config": `{"sandboxImage":"registry.k8s.io/pause:3.10.1","crio":{"DefaultRuntime":"runc","Runtimes":{"runc":{"RuntimePath":"/var/lib/containerd/bin/runc","RuntimeType":"oci"}}}}`}
	}
	return nil
}

// crioCgroup refuses a parent in the form of the other cgroup driver.
func crioCgroup(_ context.Context, r *runtimeapi.RunPodSandboxRequest) error {
	if parent := r.Config.Linux.CgroupParent; strings.HasSuffix(parent, ".slice") {
		return fmt.Errorf("cri-o configured with cgroupfs cgroup manager, but received systemd slice as parent: %s", parent)
	}
	return nil
}

// The infra container of a sandbox is called POD, which its labels say.
const (
	containerNameLabel = "io.kubernetes.container.name"
	infraContainer     = "POD"
)

func crioSandboxes(_ context.Context, r *runtimeapi.ListPodSandboxResponse) error {
	for _, s := range r.Items {
		s.Labels[containerNameLabel] = infraContainer
	}
	return nil
}

func crioSandbox(_ context.Context, r *runtimeapi.PodSandboxStatusResponse) error {
	r.Status.Labels[containerNameLabel] = infraContainer
	r.Timestamp, r.ContainersStatuses = 0, nil // without events
	return nil
}

// crioStats has no pressure, no speeds at first, and takes the first interface for that of the pod.
func crioStats(_ context.Context, r *runtimeapi.ListPodSandboxStatsResponse) error {
	for _, s := range r.Stats {
		s.Attributes.Labels[containerNameLabel] = infraContainer
		linux := s.GetLinux()
		if linux == nil {
			continue
		}
		linux.Io = nil
		if linux.Cpu != nil {
			linux.Cpu.Psi, linux.Cpu.UsageNanoCores = nil, nil
		}
		if network := linux.Network; network != nil && network.DefaultInterface != nil {
			network.Interfaces = append(network.Interfaces, network.DefaultInterface)
			network.DefaultInterface = &runtimeapi.NetworkInterfaceUsage{Name: "lo"}
		}
		for _, c := range linux.Containers {
			c.Io = nil
			if c.Cpu != nil {
				c.Cpu.Psi, c.Cpu.UsageNanoCores = nil, nil
			}
		}
	}
	return nil
}

// removeUnstarted does what CRI-O does with a container that cannot be started.
func (c *standIn) removeUnstarted(ctx context.Context, request []byte, err error) ([]byte, error) {
	r := &runtimeapi.StartContainerRequest{}
	if err := proto.Unmarshal(request, r); err != nil {
		return nil, err
	}
	if _, err := c.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: r.ContainerId}); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("failed to start container %s: %s", r.ContainerId, grpcstatus.Convert(err).Message())
}

// mustExist refuses to remove a container that is not there.
func (c *standIn) mustExist(ctx context.Context, r *runtimeapi.RemoveContainerRequest) error {
	_, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: r.ContainerId})
	if grpcstatus.Code(err) == codes.NotFound {
		return grpcstatus.Errorf(codes.NotFound, "could not find container %q: %v", r.ContainerId, err)
	}
	return err
}

func (c *standIn) containers(ctx context.Context, r *runtimeapi.ListContainersResponse) error {
	digests, err := c.digests(ctx)
	for _, container := range r.Containers {
		container.ImageRef, container.ImageId = digests[container.ImageId], ours(container.ImageId)
		container.Image = &runtimeapi.ImageSpec{Image: container.ImageId} // what was asked for
	}
	return err
}

func (c *standIn) container(ctx context.Context, r *runtimeapi.ContainerStatusResponse) error {
	digests, err := c.digests(ctx)
	r.Status.ImageRef, r.Status.ImageId = digests[r.Status.ImageId], ours(r.Status.ImageId)
	return err
}

// digests are those of the images by ID: by them CRI-O says what a container was made of, or by IDs where there are none.
func (c *standIn) digests(ctx context.Context) (map[string]string, error) {
	all, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for _, image := range all.Images {
		switch {
		case len(image.RepoDigests) > 0:
			digests[image.Id] = image.RepoDigests[0]
		case len(image.RepoTags) > 0: // CRI-O knows one of each image, containerd none of those from archives
			name, _, _ := strings.Cut(image.RepoTags[0], ":")
			digests[image.Id] = name + "@" + image.Id
		default:
			digests[image.Id] = ours(image.Id)
		}
	}
	return digests, nil
}

// crioExec says that a command took too long by an exit code, and of all that hinders it that there is no such container.
func crioExec(ctx context.Context, _ []byte, err error) ([]byte, error) {
	switch {
	case ctx.Err() != nil:
		return nil, err
	case grpcstatus.Code(err) == codes.DeadlineExceeded:
		return proto.Marshal(&runtimeapi.ExecSyncResponse{Stderr: []byte("command timed out"), ExitCode: -1})
	}
	return nil, grpcstatus.Errorf(codes.NotFound, "container is not created or running: %s", grpcstatus.Convert(err).Message())
}

// CRI-O's IDs of images do not name the algorithm.
const algorithm = "sha256:"

func ours(id string) string { return strings.TrimPrefix(id, algorithm) }

var bareID = regexp.MustCompile(`^[0-9a-f]{64}$`)

func theirs(image *runtimeapi.ImageSpec) error {
	if bareID.MatchString(image.Image) {
		image.Image = algorithm + image.Image
	}
	return nil
}

func crioImages(_ context.Context, r *runtimeapi.ListImagesResponse) error {
	for _, image := range r.Images {
		image.Id, image.Spec = ours(image.Id), nil
	}
	return nil
}

func crioImage(_ context.Context, r *runtimeapi.ImageStatusResponse) error {
	if r.Image != nil {
		r.Image.Id, r.Image.Spec = ours(r.Image.Id), &runtimeapi.ImageSpec{}
	}
	return nil
}

// pulled names an image by its digest.
func (c *standIn) pulled(ctx context.Context, r *runtimeapi.PullImageResponse) error {
	digests, err := c.digests(ctx)
	r.ImageRef = digests[r.ImageRef]
	return err
}

// crioPull tells a registry that is away from other reasons.
func crioPull(_ context.Context, _ []byte, err error) ([]byte, error) {
	text := grpcstatus.Convert(err).Message()
	if strings.Contains(text, "connection refused") {
		text = "RegistryUnavailable: pinging container registry: " + text
	}
	return nil, errors.New(text)
}

// crioDisk says where containers write, too: with the images.
func crioDisk(_ context.Context, r *runtimeapi.ImageFsInfoResponse) error {
	r.ContainerFilesystems = r.ImageFilesystems
	return nil
}
