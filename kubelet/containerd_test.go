// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/cri"
	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/kubelet/podnet"
	"github.com/skiff-k8s/skiff/testhost"
)

// The test binary is also the node: with these variables set it runs a kubelet and a containerd on a test host.
const (
	phaseEnv  = "SKIFF_KUBELET_TEST_PHASE"
	cgroupEnv = "SKIFF_KUBELET_TEST_CGROUP"

	agentDir = "/var/lib/skiff/agent"
	busybox  = "docker.io/library/busybox:1"
)

func TestMain(m *testing.M) {
	phase := os.Getenv(phaseEnv)
	if phase == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := onHost(ctx, phase); err != nil {
		fmt.Fprintln(os.Stderr, "on the test host:", err)
		os.Exit(1)
	}
}

// Real containers: a pod runs with its init container, its end is reported with its message, the process is
// killed, the next one takes the running container over, and a deletion leaves no cgroup.
func TestRealContainers(t *testing.T) {
	host := testhost.New(t, testhost.Options{})
	dir := host.Path(filepath.Join(agentDir, "images"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeImage(filepath.Join(dir, "busybox.tar")); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range []string{"first", "second"} {
		var log bytes.Buffer
		cmd := host.Command(t.Context(), self)
		cmd.Env = append(os.Environ(), phaseEnv+"="+phase, cgroupEnv+"="+host.CgroupRoot())
		cmd.Stdout, cmd.Stderr = &log, &log
		p, err := host.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if phase == "first" {
			killWhenReady(t, host, p, &log)
			_ = p.Wait(t.Context()) // killed
			continue
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatalf("%s: %v\n%s", phase, err, log.String())
		}
	}
}

// killWhenReady ends the first process the hard way once its pod is ready.
func killWhenReady(t *testing.T, host *testhost.Host, p *testhost.Process, log *bytes.Buffer) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(host.Path("/run/first")); err == nil {
			if err := p.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			return
		}
		select {
		case <-p.Done():
			t.Fatalf("the first process ended: %v\n%s", p.Wait(t.Context()), log.String())
		default:
		}
	}
	t.Fatalf("the first process never had its pod ready\n%s", log.String())
}

// onHost is what the processes on the test host do.
func onHost(ctx context.Context, phase string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	containerd, err := cri.New(cri.Config{
		Root: filepath.Join(agentDir, "containerd"), State: "/run/skiff/containerd", BinDir: filepath.Join(agentDir, "bin"), ImageDir: filepath.Join(agentDir, "images"),
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- containerd.Run(ctx) }()
	select {
	case <-containerd.Ready():
	case err := <-ended:
		return fmt.Errorf("containerd: %w", err)
	}
	client := fake.NewClientset(realPod("web", "sleep 1000"))
	factory := informers.NewSharedInformerFactory(client, 0)
	k, err := New(Config{
		Node:    node.Config{Name: "n1", Hostname: "n1", IPs: []string{"127.0.0.1"}, MaxPods: 110, DataDir: "/var/lib/kubelet", KubeletVersion: "v1.37.2"},
		Cgroups: cgroups.Config{Mount: "/sys/fs/cgroup", Root: os.Getenv(cgroupEnv), Driver: cgroups.Cgroupfs},
		DNS:     podnet.DNS{Domain: "cluster.local"},
		Root:    "/var/lib/kubelet", LogRoot: "/var/log/pods", HostsFile: "/etc/hosts", CPUCFSQuota: true,
	}, Deps{
		Client: client, Informers: factory, Runtime: runtimeapi.NewRuntimeServiceClient(containerd.Conn()),
		Images: runtimeapi.NewImageServiceClient(containerd.Conn()), Volumes: noVolumes{new(atomic.Int64)}, Env: plainEnv{}, Recorder: record.NewFakeRecorder(10000),
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	go func() { ended <- k.Run(ctx) }()
	s := story{client: client, kubelet: k}
	web, err := s.await(ctx, "web", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning && p.Status.ContainerStatuses[0].Ready })
	if err != nil {
		return err
	}
	id := web.Status.ContainerStatuses[0].ContainerID
	if phase == "first" {
		if err := errors.Join(os.WriteFile("/run/first.new", []byte(id), 0o600), os.Rename("/run/first.new", "/run/first")); err != nil {
			return err
		}
		<-ctx.Done() // we are killed
		return nil
	}
	return s.second(ctx, id)
}

type story struct {
	client  *fake.Clientset
	kubelet *Kubelet
}

func (s *story) second(ctx context.Context, id string) error {
	if before, err := os.ReadFile("/run/first"); err != nil || string(before) != id {
		return fmt.Errorf("container was %s and is %s (%v); want the same", before, id, err)
	}
	if _, err := s.client.CoreV1().Pods("default").Create(ctx, realPod("fail", "echo last words; exit 3"), metav1.CreateOptions{}); err != nil {
		return err
	}
	failed, err := s.await(ctx, "fail", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if err != nil {
		return err
	}
	end := failed.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.ExitCode != 3 || end.Reason != "Error" || end.Message != "last words\n" {
		return fmt.Errorf("end of the container = %+v", end)
	}
	if err := s.restartsAll(ctx); err != nil {
		return err
	}
	for _, name := range []string{"web", "fail", "again"} {
		if err := s.remove(ctx, name); err != nil {
			return err
		}
	}
	left, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/memory", os.Getenv(cgroupEnv), "kubepods", "*", "pod*"))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("cgroups left: %v %w", left, err)
	}
	return nil
}

// restartsAll has a pod whose containers all start anew whenever one of them ends.
func (s *story) restartsAll(ctx context.Context) error {
	pod := realPod("again", "sleep 2; exit 42")
	beside := pod.Spec.Containers[0].DeepCopy()
	beside.Name, beside.Command = "beside", []string{"/bin/sh", "-c", "sleep 1000"}
	pod.Spec.Containers = append(pod.Spec.Containers, *beside)
	never := v1.ContainerRestartPolicyNever
	pod.Spec.Containers[0].RestartPolicy = &never
	pod.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{
		Action:    v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
	if _, err := s.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := s.await(ctx, "again", func(p *v1.Pod) bool {
		if len(p.Status.ContainerStatuses)+len(p.Status.InitContainerStatuses) != 3 {
			return false
		}
		for _, c := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
			if c.RestartCount != 2 || c.Name != "init" && c.State.Running == nil {
				return false
			}
		}
		return true
	})
	return err
}

func (s *story) remove(ctx context.Context, name string) error {
	pod, err := s.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	now, grace := metav1.Now(), int64(1)
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	if err := s.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), pod, "default"); err != nil {
		return err
	}
	_, err = s.await(ctx, name, func(p *v1.Pod) bool { return p == nil })
	return err
}

// await waits until the pod is as wanted; a pod that is gone is nil.
func (s *story) await(ctx context.Context, name string, is func(*v1.Pod) bool) (*v1.Pod, error) {
	var pod *v1.Pod
	for ctx.Err() == nil {
		var err error
		if pod, err = s.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
			pod = nil
		}
		if is(pod) {
			return pod, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("pod %s is not as wanted, but %+v", name, pod)
}

// realPod runs a shell command on the host's network, after an init container.
func realPod(name, command string) *v1.Pod {
	pod := testPod(name, v1.Container{
		Name: "main", Image: busybox, Command: []string{"/bin/sh", "-c", command},
		Resources:                v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("500m")}, Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse("32Mi")}},
		TerminationMessagePath:   "/dev/termination-log",
		TerminationMessagePolicy: v1.TerminationMessageFallbackToLogsOnError,
		ReadinessProbe:           &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", "test -e /etc/hosts"}}}, PeriodSeconds: 1, TimeoutSeconds: 5, SuccessThreshold: 1, FailureThreshold: 3},
	})
	pod.Spec.InitContainers = []v1.Container{{Name: "init", Image: busybox, ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"/bin/sh", "-c", "exit 0"}}}
	pod.Spec.HostNetwork, pod.Spec.RestartPolicy = true, v1.RestartPolicyNever
	pod.UID = types.UID("uid-" + name)
	return pod
}

// writeImage packs Debian's static busybox as an image.
func writeImage(path string) error {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("the tests need Debian's busybox-static: %w", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	errs := []error{
		w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}),
	}
	_, err = w.Write(program)
	for _, applet := range []string{"sh", "sleep"} {
		errs = append(errs, err, w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	image, err = mutate.ConfigFile(image, &ggcr.ConfigFile{
		Architecture: "amd64", OS: "linux", Config: ggcr.Config{Env: []string{"PATH=/bin"}}, RootFS: mustRootFS(image),
	})
	if err != nil {
		return err
	}
	tag, err := name.NewTag(busybox)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, image)
}

func mustRootFS(image ggcr.Image) ggcr.RootFS {
	config, err := image.ConfigFile()
	if err != nil {
		return ggcr.RootFS{}
	}
	return config.RootFS
}
