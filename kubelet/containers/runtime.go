// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"cmp"
	"context"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Config is what the operator chose.
type Config struct {
	LogRoot           string // /var/log/pods
	ContainerLogLinks string // /var/log/containers: symbolic links that log collectors follow; empty for none
	PodRoot           string // <kubelet root>/pods
	SeccompRoot       string // <kubelet root>/seccomp
	SeccompDefault    bool   // containers that name no profile have the runtime's
	CPUCFSQuota       bool
	CPUCFSPeriod      time.Duration
	PodPidsLimit      int64
	// MinOOMScoreAdj is the lowest that this process may give to a container: 0 without CAP_SYS_RESOURCE, else -1000.
	MinOOMScoreAdj int64
	// MemoryCapacity of the node in bytes; OOM scores are relative to it.
	MemoryCapacity int64
	Swap           Swap
	MaxBackOff     time.Duration // the longest wait before a failed container is started again; 0: five minutes
	// MemoryQoS is for cgroups of version 2; AllocatableMemory is what all pods may have together, in bytes.
	MemoryQoS         cgroups.MemoryQoS
	AllocatableMemory int64
	WholeOOMKill      bool // when its memory runs out, all of a container's processes end; for cgroups of version 2
	// HugePageSizes that the kernel has, as CRI writes them ("2MB").
	HugePageSizes []string
}

// Host answers what a pod's configuration takes from its node.
type Host interface {
	CgroupParent(pod *v1.Pod) string
	DNS(pod *v1.Pod) (*runtimeapi.DNSConfig, error)
	Hostname(pod *v1.Pod) (hostname, domain string, err error)
	RuntimeHandler(pod *v1.Pod) (string, error)
	// UserNamespace is the pod's, made at the first call.
	UserNamespace(pod *v1.Pod) (*runtimeapi.UserNamespace, error)
	Environ(ctx context.Context, pod *v1.Pod, c *v1.Container, podIP string, podIPs []string) ([]*runtimeapi.KeyValue, error)
	Mounts(ctx context.Context, pod *v1.Pod, c *v1.Container, podIPs []string) ([]*runtimeapi.Mount, error)
	Devices(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]*runtimeapi.Device, error)
	// Assigned is what the container was given of what only one can have.
	Assigned(ctx context.Context, pod *v1.Pod, c *v1.Container) (*Assigned, error)
	// OwnCPUs says whether CPUs are among it.
	OwnCPUs(pod *v1.Pod, c *v1.Container) bool

	// PodLimits are those of the pod's cgroup now and as its spec wants them, and the memory it uses.
	PodLimits(pod *v1.Pod) (have, want cgroups.Limits, memory int64, err error)
	SetPodLimits(pod *v1.Pod, limits cgroups.Limits) error
}

// Assigned are devices and CPUs of a container, and what it needs for them.
type Assigned struct {
	Envs        []*runtimeapi.KeyValue
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	CDI         []*runtimeapi.CDIDevice
	Annotations map[string]string
	CPUs        string // as a list such as "0-1,4"; empty for any
	MemoryNodes string // likewise
}

// Grants remember what containers have been given.
type Grants interface {
	Actuated(uid apitypes.UID, container string) (given v1.ResourceRequirements, known bool)
	PodActuated(uid apitypes.UID) (given *v1.ResourceRequirements, known bool)
	Actuate(pod *v1.Pod, whole bool, containers ...string) error
}

// Images makes an image be there, or says why it is not.
type Images interface {
	Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, sandbox *runtimeapi.PodSandboxConfig, handler string) (*runtimeapi.Image, *images.Error)
}

// Runtime runs pods' containers. Its methods may be called concurrently for different pods, not for one pod.
type Runtime struct {
	cfg     Config
	cri     runtimeapi.RuntimeServiceClient
	images  Images
	host    Host
	health  Health
	grants  Grants
	events  record.EventRecorder
	metrics *metrics.Metrics
	backoff *flowcontrol.Backoff
	turns   chan struct{} // one for each sandbox that is being made
	logs    logFiles
}

// The first and the longest wait before a failed container is started again.
const (
	backoffFirst = 10 * time.Second
	backoffMost  = 5 * time.Minute
)

// New makes a Runtime on a CRI connection.
func New(cfg Config, cri runtimeapi.RuntimeServiceClient, images Images, host Host, health Health, grants Grants, events record.EventRecorder, counts *metrics.Metrics) *Runtime {
	if cfg.CPUCFSPeriod == 0 {
		cfg.CPUCFSPeriod = 100 * time.Millisecond
	}
	most := cmp.Or(cfg.MaxBackOff, backoffMost)
	return &Runtime{
		cfg: cfg, cri: cri, images: images, host: host, health: health, grants: grants, events: events, metrics: counts,
		backoff: flowcontrol.NewBackOff(min(backoffFirst, most), most),
		turns:   make(chan struct{}, 2*runtime.NumCPU()),
	}
}

// PodDir is where this node keeps files of the pod that are not volumes.
func (r *Runtime) PodDir(uid apitypes.UID) string { return filepath.Join(r.cfg.PodRoot, string(uid)) }

// LogDir is where the runtime writes the pod's logs, one folder per container.
func (r *Runtime) LogDir(pod *v1.Pod) string {
	return filepath.Join(r.cfg.LogRoot, strings.Join([]string{pod.Namespace, pod.Name, string(pod.UID)}, "_"))
}

// podText names a pod in messages as "name_namespace(uid)".
func podText(pod *v1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}

func isNotFound(err error) bool { return grpcstatus.Code(err) == codes.NotFound }

// criMessage is the runtime's own text, without gRPC's wrapping.
func criMessage(err error) string {
	if s, ok := grpcstatus.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
