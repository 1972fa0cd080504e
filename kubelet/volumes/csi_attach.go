// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	pointer "k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/csi"
)

const (
	attachTimeout = 2 * time.Minute
	attachPoll    = 500 * time.Millisecond
)

// needsAttachment tells whether somebody attaches the volume to the node before the driver is called.
func needsAttachment(s csiSource, object *storagev1.CSIDriver) bool {
	return s.lifecycle == storagev1.VolumeLifecyclePersistent && (object == nil || pointer.Deref(object.Spec.AttachRequired, true))
}

// attachmentName is the name of the VolumeAttachment of a volume and a node.
func attachmentName(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// attached waits until the volume is attached to the node, and returns what the attacher says to the driver. Before
// that, the Node must say that the volume is in use: what it says is not detached.
func (c *csiVolume) attached(ctx context.Context, v *volume, s csiSource, object *storagev1.CSIDriver) (map[string]string, error) {
	if !needsAttachment(s, object) {
		return nil, nil
	}
	name := s.note().unique()
	if c.m.inUse.add(name, v.pod.UID) && c.m.cfg.InUseChanged != nil {
		c.m.cfg.InUseChanged()
	}
	var said map[string]string
	err := wait.PollUntilContextTimeout(ctx, attachPoll, attachTimeout, true, func(ctx context.Context) (bool, error) {
		if !c.m.saysInUse(name) {
			return false, nil
		}
		a, err := c.m.cfg.Client.StorageV1().VolumeAttachments().Get(ctx, attachmentName(s.handle, s.driver, c.m.cfg.NodeName), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // the authorizer has not seen it yet either
			return false, nil
		case err != nil:
			return false, err
		case a.DeletionTimestamp != nil:
			return false, errors.New("volume attachment is being deleted")
		case a.Status.Attached:
			said = a.Status.AttachmentMetadata
			return true, nil
		case csi.RefreshPeriod(object) > 0 && isExhausted(a.Status.AttachError):
			return false, c.tooMany(ctx, v, s, a.Status.AttachError)
		case a.Status.AttachError != nil:
			return false, errors.New(a.Status.AttachError.Message)
		}
		return false, nil
	})
	switch {
	case err != nil && ctx.Err() == nil && wait.Interrupted(err):
		return nil, fmt.Errorf("timed out waiting for external-attacher of %s CSI driver to attach volume %s", s.driver, s.handle)
	case err != nil:
		return nil, fmt.Errorf("WaitForAttach failed for volume %q : %w", v.specName(), err)
	}
	return said, nil
}

// tooManyError says that a volume cannot be attached to the node because others are: the pod has to go somewhere else.
type tooManyError struct {
	volume string
	err    error
}

func (e *tooManyError) Error() string {
	return fmt.Sprintf("Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[%s], unattached volumes=[%[1]s], failed to process volumes=[]: %v", e.volume, e.err)
}

func (e *tooManyError) Unwrap() error { return e.err }

// RejectReason is for the kubelet.
func (e *tooManyError) RejectReason() string { return "VolumeAttachmentLimitExceeded" }

func isExhausted(e *storagev1.VolumeError) bool {
	return e != nil && e.ErrorCode != nil && *e.ErrorCode == int32(codes.ResourceExhausted)
}

// tooMany is for a driver that lets its limits be asked for: the scheduler was told a wrong one.
func (c *csiVolume) tooMany(ctx context.Context, v *volume, s csiSource, e *storagev1.VolumeError) error {
	if err := c.m.cfg.CSI.Refresh(ctx, s.driver); err != nil {
		klog.FromContext(ctx).Error(err, "Keeping CSINode up to date", "pod", klog.KObj(v.pod))
	}
	return &tooManyError{volume: v.source.Name, err: errors.New(e.Message)}
}

// saysInUse tells whether the Node object says that the volume is in use.
func (m *Manager) saysInUse(name corev1.UniqueVolumeName) bool {
	node, err := m.cfg.Node()
	return err == nil && slices.Contains(node.Status.VolumesInUse, name)
}

// inUse knows which attached volumes the node's pods use. What earlier processes left is on disk, and is read when
// it is first asked for.
type inUse struct {
	left func() (map[corev1.UniqueVolumeName]sets.Set[types.UID], error)

	mu    sync.Mutex
	users map[corev1.UniqueVolumeName]sets.Set[types.UID] // guarded by mu; nil before the disk was read
}

// usersLocked returns the users, who are on disk at first. The caller holds mu.
func (u *inUse) usersLocked() map[corev1.UniqueVolumeName]sets.Set[types.UID] {
	if u.users != nil {
		return u.users
	}
	var err error
	if u.users, err = u.left(); err != nil {
		klog.Background().Error(err, "Reading which volumes are in use")
	}
	return u.users
}

// usersOnDisk are those that notes tell of.
func (m *Manager) usersOnDisk() (map[corev1.UniqueVolumeName]sets.Set[types.UID], error) {
	users := map[corev1.UniqueVolumeName]sets.Set[types.UID]{}
	of, err := m.notes()
	for dir, n := range of {
		if n[noteAttachment] != "" {
			pod := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dir)))) // pods/<uid>/volumes/<plugin>/<name>
			insert(users, n.unique(), types.UID(pod))
		}
	}
	left, leftErr := m.stagedForNobody()
	for _, n := range left {
		if n[noteAttachment] != "" {
			insert(users, n.unique(), nobody)
		}
	}
	return users, errors.Join(err, leftErr)
}

func insert(users map[corev1.UniqueVolumeName]sets.Set[types.UID], name corev1.UniqueVolumeName, pod types.UID) {
	if users[name] == nil {
		users[name] = sets.New[types.UID]()
	}
	users[name].Insert(pod)
}

// add notes a user, and tells whether the volume is new.
func (u *inUse) add(name corev1.UniqueVolumeName, pod types.UID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	users := u.usersLocked()
	_, known := users[name]
	insert(users, name, pod)
	return !known
}

// forget notes that a pod uses nothing any more, and tells whether that matters to the Node.
func (u *inUse) forget(pod types.UID) (changed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	users := u.usersLocked()
	for name, pods := range users {
		if pods.Delete(pod); len(pods) == 0 {
			delete(users, name)
			changed = true
		}
	}
	return changed
}

// remove notes that somebody does not use a volume any more, and tells whether that matters to the Node.
func (u *inUse) remove(name corev1.UniqueVolumeName, pod types.UID) (changed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	users := u.usersLocked()
	pods, known := users[name]
	if pods.Delete(pod); len(pods) == 0 {
		delete(users, name)
	}
	return known && len(pods) == 0
}

// VolumesInUse lists the attached volumes that this node's pods use, for the Node's status.
func (m *Manager) VolumesInUse() []corev1.UniqueVolumeName {
	m.inUse.mu.Lock()
	defer m.inUse.mu.Unlock()
	return slices.Sorted(maps.Keys(m.inUse.usersLocked()))
}
