// SPDX-License-Identifier: Apache-2.0

// Package volumes makes the volumes of pods on this node and takes them away again.
//
// Manager is what the kubelet calls: SetUp at each sync of a pod, Mounts for each container,
// TearDown once the pod's containers are gone. A kind of volume is a plugin in a file of its own,
// and plugins.go is the list of all. Directories are laid out as the upstream kubelet's:
//
//	<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>          the volume
//	<root>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>   its subPath mounts
//	<root>/pods/<uid>/plugins/kubernetes.io~<plugin>/<name>          what a plugin notes about it
//
// The disk and the mount table are the only state that matters: after a restart SetUp finds what is
// there, and TearDown needs nothing else. TearDown unmounts everything below a pod's directory and
// removes files only where no other mount begins, so that it never reaches what a pod had mounted.
//
// The manager polls nothing. When a ConfigMap, Secret, token, trust bundle or certificate that a pod uses
// becomes another one, Config.Changed is called, and the next SetUp of that pod writes it.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
	"github.com/skiff-k8s/skiff/kubelet/csi"
	"github.com/skiff-k8s/skiff/kubelet/diskusage"
	"github.com/skiff-k8s/skiff/kubelet/objects"
)

// Environment gives the environment of a container, for subPathExpr; kubelet/env does.
type Environment interface {
	Environ(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIP string, podIPs []string) ([]*runtimeapi.KeyValue, error)
}

// Config is what a Manager needs. All but the functions that say so must be set.
type Config struct {
	Root string // the kubelet's directory, /var/lib/kubelet by default

	Client  kubernetes.Interface            // claims, volumes and tokens, under the node's identity
	Factory informers.SharedInformerFactory // ClusterTrustBundles, once a pod uses one
	Objects *objects.Cache                  // the caller runs it
	Env     Environment

	// Node returns the Node object, for its allocatable memory and its labels.
	Node func() (*corev1.Node, error)
	// Changed asks for another SetUp of a pod. It must not block.
	Changed func(podUID types.UID)
	// Stale hears that a volume that the pod has could not be brought up to date: worth a FailedMount
	// event, but the pod goes on with what it has.
	Stale func(pod *corev1.Pod, err error)
	// Event sends one about a pod or a claim.
	Event func(about runtime.Object, kind, reason, message string)
	// NodeName is the node's; CSI are its drivers, nil for none.
	NodeName string
	CSI      *csi.Drivers
	// InUseChanged is told that VolumesInUse has another answer. It must not block. It may be nil.
	InUseChanged func()
	// Measured hears of what was done to a volume, by upstream's names, and when that began. It may be nil.
	Measured func(plugin, operation string, began time.Time, err error)
	// EnsureImage pulls the image of an image volume. Without it the reference is mounted as it is.
	EnsureImage func(ctx context.Context, pod *corev1.Pod, image *corev1.ImageVolumeSource) (*runtimeapi.ImageSpec, error)
	// RecursiveReadOnly says whether a runtime handler can make mounts recursively read-only.
	// Without it none can.
	RecursiveReadOnly func(runtimeHandler string) bool
}

// Manager makes and removes volumes. Calls for different pods may run at the same time; SetUp,
// Mounts and TearDown of one pod may not.
type Manager struct {
	cfg          Config
	plugins      []plugin
	tokens       *tokens
	bundles      *trustBundles
	certificates *podCertificates

	csi   *csiVolume
	inUse inUse
	disks diskusage.Asker

	mu      sync.Mutex // guards what follows
	pods    map[types.UID]map[string]mounted
	lacking map[types.UID][]string // the kinds of the volumes that a pod cannot have yet
}

// New returns a Manager.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, pods: map[types.UID]map[string]mounted{}, lacking: map[types.UID][]string{}}
	m.tokens = newTokens(cfg.Client, cfg.Changed)
	m.bundles = newTrustBundles(cfg.Factory, cfg.Changed)
	m.certificates = newPodCertificates(cfg)
	m.csi, m.inUse.left = newCSI(m), m.usersOnDisk
	m.plugins = m.allPlugins()
	return m
}

// Run serves what changes while pods run, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	m.bundles.run(ctx)
	m.certificates.run(ctx)
	m.csi.unstageLeft(ctx) // until ctx ends
	m.tokens.stop()
	m.certificates.stop()
	return nil
}

// SetUp makes all volumes that pod's containers use, or brings them up to date. It may be called again
// at any time, and then rewrites what has changed in the API. The error is an Aggregate with one entry
// per volume that the pod cannot have yet, each worth an event, FailedMount unless it has an EventReason.
func (m *Manager) SetUp(ctx context.Context, pod *corev1.Pod) error {
	m.cfg.Objects.Register(pod)
	if err := os.MkdirAll(filepath.Join(m.PodDir(pod.UID), "volumes"), 0o750); err != nil {
		return fmt.Errorf("make the pod's directory: %w", err)
	}
	ready := map[string]mounted{}
	var lacking []string
	var errs []error
	used := usedVolumes(pod)
	for i := range pod.Spec.Volumes {
		name := pod.Spec.Volumes[i].Name
		if !used[name] {
			continue
		}
		last, there := m.mountedVolume(pod, name)
		if there && !last.follows {
			ready[name] = last
			continue
		}
		mnt, err := m.setUpVolume(ctx, pod, &pod.Spec.Volumes[i], last, there)
		switch {
		case err == nil:
			ready[name] = mnt
		case there:
			ready[name] = last
			m.cfg.Stale(pod, err)
		case mnt.follows:
			ready[name] = mnt
			m.cfg.Stale(pod, err)
		default:
			errs = append(errs, err)
			if mnt.kind != "" {
				lacking = append(lacking, mnt.kind)
			}
		}
	}
	m.mu.Lock()
	m.pods[pod.UID], m.lacking[pod.UID] = ready, lacking
	m.mu.Unlock()
	return utilerrors.NewAggregate(errs)
}

// setUpVolume finds the plugin for one volume and lets it work. With an error it may still return a
// volume that follows the API, as it was before a restart, or at least its kind. again says that this process has set it up before, as last.
func (m *Manager) setUpVolume(ctx context.Context, pod *corev1.Pod, source *corev1.Volume, last mounted, again bool) (mounted, error) {
	v, err := m.resolve(ctx, pod, source)
	if err != nil {
		return mounted{}, err
	}
	v.again, v.had = again, last.size
	for _, p := range m.plugins {
		if !p.supports(v) {
			continue
		}
		v.dir = filepath.Join(m.PodDir(pod.UID), "volumes", escape(p.name()), v.specName())
		began, kind := time.Now(), kindOf(p, v)
		var mnt mounted
		if err = m.checkOnce(v); err == nil {
			mnt, err = p.setUp(ctx, v)
		}
		m.measure(kind, v, began, err)
		if err == nil {
			mnt.name, mnt.kind = v.specName(), kind
			if v.pv != nil {
				mnt.pv, mnt.size = v.pv.Name, v.pv.Spec.Capacity[corev1.ResourceStorage]
			}
			return mnt, nil
		}
		mnt = mounted{kind: kind}
		if exists(filepath.Join(v.dir, dataLink)) {
			mnt = mounted{kind: kind, name: v.specName(), path: v.dir, readOnly: true, follows: true}
		}
		what, reason := operation(v, err)
		return mnt, setUpError{fmt.Errorf("%s failed for volume %q : %w", what, v.specName(), err), reason}
	}
	return mounted{}, fmt.Errorf("MountVolume.FindPluginBySpec failed for volume %q : no volume plugin matched", v.specName())
}

// setUpError is an error of one volume, with the reason of the event that tells about it.
type setUpError struct {
	error
	reason string
}

func (e setUpError) Unwrap() error       { return e.error }
func (e setUpError) EventReason() string { return e.reason }

// operation is upstream's name of what did not succeed, and the reason of the event about that.
func operation(v *volume, err error) (name, reason string) {
	device, block := errors.As(err, &deviceError{}), v.pv != nil && isBlock(v.pv)
	switch {
	case device && block:
		return "MapVolume.SetUpDevice", "FailedMapVolume"
	case device:
		return "MountVolume.MountDevice", "FailedMount"
	case block:
		return "MapVolume.MapPodDevice", "FailedMapVolume"
	}
	return "MountVolume.SetUp", "FailedMount"
}

// TearDown unmounts the pod's volumes and removes its directory. It may be called for a pod that was
// never set up, and again after an error.
func (m *Manager) TearDown(ctx context.Context, podUID types.UID) error {
	m.cfg.Objects.Unregister(podUID)
	m.tokens.forget(podUID)
	m.bundles.forget(podUID)
	m.certificates.forget(podUID)
	m.mu.Lock()
	delete(m.pods, podUID)
	delete(m.lacking, podUID)
	m.mu.Unlock()

	dir := m.PodDir(podUID)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := m.unmount(ctx, podUID, dir); err != nil {
		return err
	}
	if m.inUse.forget(podUID) && m.cfg.InUseChanged != nil {
		m.cfg.InUseChanged()
	}
	return removeTree(dir)
}

// unmount unmounts all volumes of a pod, what drivers have mounted by those.
func (m *Manager) unmount(ctx context.Context, podUID types.UID, dir string) error {
	subPaths := filepath.Join(dir, "volume-subpaths") // which would keep the volumes busy
	if _, err := os.Lstat(subPaths); err == nil {
		if err := unmountBelow(subPaths); err != nil {
			return err
		}
	}
	if err := m.csi.tearDown(ctx, podUID); err != nil {
		return err
	}
	return unmountBelow(dir)
}

// Orphans lists the pods that have a directory on this node, alive or not: the kubelet tears down
// those that it does not know.
func (m *Manager) Orphans() []types.UID {
	entries, err := os.ReadDir(filepath.Join(m.cfg.Root, "pods"))
	if err != nil {
		return nil
	}
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids
}

// PodDir is where everything of a pod lies.
func (m *Manager) PodDir(podUID types.UID) string {
	return filepath.Join(m.cfg.Root, "pods", string(podUID))
}

// usedVolumes names the volumes that some container of pod mounts or has as a device. Others are
// not set up.
func usedVolumes(pod *corev1.Pod) map[string]bool {
	used := map[string]bool{}
	for c := range podcontainers.All(pod) {
		for i := range c.VolumeMounts {
			used[c.VolumeMounts[i].Name] = true
		}
		for i := range c.VolumeDevices {
			used[c.VolumeDevices[i].Name] = true
		}
	}
	return used
}
