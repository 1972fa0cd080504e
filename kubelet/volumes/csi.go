// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/keymutex"
	pointer "k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/csi"
)

// csiVolume is a volume that a CSI driver makes available: a PersistentVolume, or one of the pod's own (inline).
//
// A PersistentVolume is attached to the node by others (csi_attach.go), staged once for all pods of the node, and
// published to each. What was done is noted on disk before it is done (csi_notes.go), so that it can be undone by
// another process.
type csiVolume struct {
	m      *Manager
	locks  keymutex.KeyMutex // by volume: nobody stages what another unstages
	staged sync.Map          // by volume: those that this process has staged
	left   leftStaged
}

func newCSI(m *Manager) *csiVolume {
	return &csiVolume{m: m, locks: keymutex.NewHashed(0), left: leftStaged{wake: make(chan struct{}, 1)}}
}

const csiPlugin = "kubernetes.io/csi"

func (*csiVolume) name() string { return csiPlugin }

func (*csiVolume) supports(v *volume) bool {
	return v.source.CSI != nil || v.pv != nil && v.pv.Spec.CSI != nil
}

// csiSource is what the API says about a volume, whichever kind of object says it.
type csiSource struct {
	driver, handle, fsType string
	readOnly               bool
	attributes             map[string]string
	mode                   corev1.PersistentVolumeAccessMode
	options                []string
	block                  bool
	lifecycle              storagev1.VolumeLifecycleMode
	publishSecret          *corev1.SecretReference
	stageSecret            *corev1.SecretReference
}

func csiSourceOf(v *volume) csiSource {
	if inline := v.source.CSI; inline != nil {
		s := csiSource{
			driver: inline.Driver, handle: inlineHandle(v.pod.UID, v.source.Name), fsType: pointer.Deref(inline.FSType, ""),
			readOnly: pointer.Deref(inline.ReadOnly, false), attributes: inline.VolumeAttributes, mode: corev1.ReadWriteOnce,
			lifecycle: storagev1.VolumeLifecycleEphemeral,
		}
		if inline.NodePublishSecretRef != nil {
			s.publishSecret = &corev1.SecretReference{Namespace: v.pod.Namespace, Name: inline.NodePublishSecretRef.Name}
		}
		return s
	}
	p := v.pv.Spec.CSI
	s := csiSource{
		driver: p.Driver, handle: p.VolumeHandle, fsType: p.FSType, readOnly: v.readOnly || p.ReadOnly,
		attributes: p.VolumeAttributes, mode: corev1.ReadWriteOnce, options: v.pv.Spec.MountOptions, block: isBlock(v.pv),
		lifecycle: storagev1.VolumeLifecyclePersistent, publishSecret: p.NodePublishSecretRef, stageSecret: p.NodeStageSecretRef,
	}
	if len(v.pv.Spec.AccessModes) > 0 {
		s.mode = v.pv.Spec.AccessModes[0]
	}
	return s
}

// note is what is always noted about a volume.
func (s csiSource) note() note { return note{"driverName": s.driver, "volumeHandle": s.handle} }

// inlineHandle is the name of a pod's own volume for the driver: the same for each call.
func inlineHandle(pod types.UID, volume string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(pod)+volume)))
}

// deviceError is an error of what is done once for all pods of the node. Users know it by another name.
type deviceError struct{ error }

func (e deviceError) Unwrap() error { return e.error }

func (c *csiVolume) setUp(ctx context.Context, v *volume) (mounted, error) {
	s := csiSourceOf(v)
	driver, err := c.driver(s.driver)
	if err != nil {
		return mounted{}, fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: %w", err)
	}
	object, err := c.driverObject(ctx, s.driver)
	if err != nil {
		return mounted{}, err
	}
	if err := lifecycleAllowed(s, object); err != nil {
		return mounted{}, err
	}
	var attachment map[string]string
	if !v.again || object != nil && pointer.Deref(object.Spec.RequiresRepublish, false) {
		if attachment, err = c.attached(ctx, v, s, object); err != nil {
			return mounted{}, err
		}
	}
	volume := s.note().volume()
	c.locks.LockKey(volume)
	defer func() { _ = c.locks.UnlockKey(volume) }()
	p := csiCall{csiVolume: c, v: v, source: s, driver: driver, object: object, attachment: attachment}
	if err := p.stage(ctx); err != nil {
		return mounted{}, deviceError{err}
	}
	return p.publish(ctx)
}

func (c *csiVolume) driver(name string) (*csi.Driver, error) {
	if c.m.cfg.CSI == nil {
		return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
	}
	return c.m.cfg.CSI.Get(name)
}

// driverObject returns the CSIDriver object, or nil if there is none. It is read each time: few volumes are made.
func (c *csiVolume) driverObject(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	object, err := c.m.cfg.Client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CSIDriver: %w", err)
	}
	return object, nil
}

func lifecycleAllowed(s csiSource, object *storagev1.CSIDriver) error {
	switch {
	case object == nil && s.lifecycle == storagev1.VolumeLifecyclePersistent:
		return nil
	case object == nil:
		return fmt.Errorf("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode %q not supported by driver %s (no CSIDriver object)", s.lifecycle, s.driver)
	case !slices.Contains(object.Spec.VolumeLifecycleModes, s.lifecycle):
		return fmt.Errorf("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode %q not supported by driver %s (only supports %q)", s.lifecycle, s.driver, object.Spec.VolumeLifecycleModes)
	}
	return nil
}

// csiCall is what the calls to a driver about one volume of one pod are made of.
type csiCall struct {
	*csiVolume
	v          *volume
	source     csiSource
	driver     *csi.Driver
	object     *storagev1.CSIDriver // may be nil
	attachment map[string]string    // what the attacher says to the driver
	staging    string               // where the volume is staged; empty if the driver does not do that
}

// stage makes a PersistentVolume available to the node.
func (p *csiCall) stage(ctx context.Context) error {
	if p.source.lifecycle != storagev1.VolumeLifecyclePersistent {
		return nil
	}
	can, err := p.driver.Has(ctx, csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	if err != nil || !can {
		return err
	}
	p.staging = p.m.stagingPath(p.source)
	volume := p.source.note().volume()
	if _, done := p.csiVolume.staged.Load(volume); done {
		return nil
	}
	secrets, err := p.secrets(ctx, p.source.stageSecret, "NodeStageSecretRef")
	if err != nil {
		return err
	}
	capability, err := p.capability(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.staging, 0o750); err != nil {
		return err
	}
	_, err = readNote(p.v.dir)
	isNew := errors.Is(err, os.ErrNotExist) // else an earlier process has staged it
	if isNew {
		err = p.noteVolume("")
	}
	if err := errors.Join(err, writeNote(filepath.Dir(p.staging), p.stagingNote())); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, csi.Timeout)
	defer cancel()
	_, err = p.driver.NodeStageVolume(ctx, &csipb.NodeStageVolumeRequest{
		VolumeId: p.source.handle, PublishContext: p.attachment, StagingTargetPath: p.staging,
		VolumeCapability: capability, Secrets: secrets, VolumeContext: p.source.attributes,
	})
	switch {
	case err == nil:
		p.csiVolume.staged.Store(volume, true)
	case isNew && csi.Final(err):
		return errors.Join(err, p.notStaged())
	}
	return err
}

// notStaged takes back the notes about a volume that the driver did not stage, and has nothing to unstage of.
func (p *csiCall) notStaged() error {
	if err := os.Remove(filepath.Join(p.v.dir, noteFile)); err != nil {
		return err
	}
	if others, err := p.m.hasOthers(p.source.note(), p.v.dir); err != nil || others {
		return err // they had it before this process
	}
	return removeStaging(p.staging)
}

// publish makes the volume available to the pod.
func (p *csiCall) publish(ctx context.Context) (mounted, error) {
	target := p.m.targetPath(p.v, p.source)
	capability, err := p.capability(ctx)
	if err != nil {
		return mounted{}, err
	}
	republish := p.object != nil && pointer.Deref(p.object.Spec.RequiresRepublish, false)
	if !p.v.again || republish {
		if err := p.callPublish(ctx, target, capability); err != nil {
			return mounted{}, err
		}
	}
	grows, err := p.expand(ctx, target, capability)
	if err == nil && !p.v.again {
		err = p.own(ctx, target)
	}
	return mounted{path: target, device: p.source.block, readOnly: p.source.readOnly, follows: grows || republish, csi: &p.source}, err
}

func (p *csiCall) callPublish(ctx context.Context, target string, capability *csipb.VolumeCapability) error {
	secrets, err := p.secrets(ctx, p.source.publishSecret, "NodePublishSecretRef")
	if err != nil {
		return err
	}
	attributes, secrets, err := p.podContext(ctx, secrets)
	if err != nil {
		return err
	}
	if err := p.noteVolume(target); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, csi.Timeout)
	defer cancel()
	_, err = p.driver.NodePublishVolume(ctx, &csipb.NodePublishVolumeRequest{
		VolumeId: p.source.handle, PublishContext: p.attachment, StagingTargetPath: p.staging, TargetPath: target,
		VolumeCapability: capability, Readonly: p.source.readOnly, Secrets: secrets, VolumeContext: attributes,
	})
	return err
}

// noteVolume notes what the pod is about to have, for who undoes it. Without a target it is not published yet.
func (p *csiCall) noteVolume(target string) error {
	n := p.stagingNote()
	n["specVolID"], n["nodeName"], n["volumeLifecycleMode"] = p.v.specName(), p.m.cfg.NodeName, string(p.source.lifecycle)
	if target != "" {
		n[noteTarget] = target
	}
	return writeNote(p.v.dir, n)
}

// stagingNote is what is noted where a volume is staged, and more where it is published.
func (p *csiCall) stagingNote() note {
	n := p.source.note()
	if needsAttachment(p.source, p.object) {
		n[noteAttachment] = attachmentName(p.source.handle, p.source.driver, p.m.cfg.NodeName)
	}
	return n
}

func (p *csiCall) secrets(ctx context.Context, ref *corev1.SecretReference, field string) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := p.m.cfg.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("fetching %s %s/%s failed: %w", field, ref.Namespace, ref.Name, err)
	}
	data := map[string]string{}
	for k, v := range secret.Data {
		data[k] = string(v)
	}
	return data, nil
}

// capability says how the volume shall be usable.
func (p *csiCall) capability(ctx context.Context) (*csipb.VolumeCapability, error) {
	mode, err := p.driver.Mode(ctx, p.source.mode)
	if err != nil {
		return nil, err
	}
	c := &csipb.VolumeCapability{AccessMode: &csipb.VolumeCapability_AccessMode{Mode: mode}}
	if p.source.block {
		c.AccessType = &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}
		return c, nil
	}
	mount := &csipb.VolumeCapability_MountVolume{FsType: p.source.fsType, MountFlags: p.source.options}
	groups, err := p.driver.Has(ctx, csipb.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP)
	if err != nil {
		return nil, err
	}
	if group := p.v.fsGroup(); groups && group != nil {
		mount.VolumeMountGroup = strconv.FormatInt(*group, 10)
	}
	c.AccessType = &csipb.VolumeCapability_Mount{Mount: mount}
	return c, nil
}

// podContext adds to what the driver is told what its CSIDriver object wants to know of the pod.
func (p *csiCall) podContext(ctx context.Context, secrets map[string]string) (attributes, withTokens map[string]string, err error) {
	attributes = maps.Clone(p.source.attributes)
	if p.object == nil {
		return attributes, secrets, nil
	}
	if attributes == nil {
		attributes = map[string]string{}
	}
	if pointer.Deref(p.object.Spec.PodInfoOnMount, false) {
		pod := p.v.pod
		maps.Copy(attributes, map[string]string{
			"csi.storage.k8s.io/pod.name": pod.Name, "csi.storage.k8s.io/pod.namespace": pod.Namespace,
			"csi.storage.k8s.io/pod.uid": string(pod.UID), "csi.storage.k8s.io/serviceAccount.name": pod.Spec.ServiceAccountName,
			"csi.storage.k8s.io/ephemeral": strconv.FormatBool(p.source.lifecycle == storagev1.VolumeLifecycleEphemeral),
		})
	}
	if len(p.object.Spec.TokenRequests) == 0 {
		return attributes, secrets, nil
	}
	tokens, err := p.m.tokens.forDriver(ctx, p.v.pod, p.object.Spec.TokenRequests)
	if err != nil {
		return nil, nil, fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get service accoount token attributes: %w", err)
	}
	const key = "csi.storage.k8s.io/serviceAccount.tokens"
	if pointer.Deref(p.object.Spec.ServiceAccountTokenInSecrets, false) {
		if secrets == nil {
			secrets = map[string]string{}
		}
		secrets[key] = tokens
	} else {
		attributes[key] = tokens
	}
	return attributes, secrets, nil
}

// own gives the volume to the pod's fsGroup, unless the driver does.
func (p *csiCall) own(ctx context.Context, target string) error {
	group := p.v.fsGroup()
	if group == nil || p.source.block || p.source.readOnly || !groupsApply(p.v, p.source, p.object) {
		return nil
	}
	if does, err := p.driver.Has(ctx, csipb.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP); err != nil || does {
		return err
	}
	if err := p.m.giveVolume(p.v.pod, target, group, false); err != nil {
		return fmt.Errorf("applyFSGroup failed for vol %s: %w", p.source.handle, err)
	}
	return nil
}

// groupsApply tells whether the driver's volumes take an fsGroup, which by default those do that have a file system and
// are for one node.
func groupsApply(v *volume, s csiSource, object *storagev1.CSIDriver) bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if object != nil && object.Spec.FSGroupPolicy != nil {
		policy = *object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.NoneFSGroupPolicy:
		return false
	case storagev1.FileFSGroupPolicy:
		return true
	}
	if s.fsType == "" {
		return false
	}
	return v.pv == nil || slices.ContainsFunc(v.pv.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteOnce || m == corev1.ReadWriteOncePod
	})
}

// tearDown takes a pod's CSI volumes away: what else is mounted there must be gone.
func (c *csiVolume) tearDown(ctx context.Context, pod types.UID) error {
	dirs, err := filepath.Glob(filepath.Join(c.m.PodDir(pod), "volumes", escape(csiPlugin), "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if err := c.tearDownVolume(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", filepath.Base(dir), err))
		}
	}
	return errors.Join(errs...)
}

func (c *csiVolume) tearDownVolume(ctx context.Context, dir string) error {
	n, err := readNote(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was done
	}
	if err != nil {
		return err
	}
	driver, err := c.driver(n["driverName"])
	if err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: %w", err)
	}
	c.locks.LockKey(n.volume())
	defer func() { _ = c.locks.UnlockKey(n.volume()) }()
	ctx, cancel := context.WithTimeout(ctx, csi.Timeout)
	defer cancel()
	if err := unpublish(ctx, driver, n, dir); err != nil {
		return err
	}
	if err := c.unstage(ctx, driver, n, dir); err != nil {
		c.leave(ctx, n, err) // no longer the pod's concern
	}
	return os.Remove(filepath.Join(dir, noteFile))
}

// unpublish takes a volume away from a pod.
func unpublish(ctx context.Context, driver *csi.Driver, n note, dir string) error {
	target := n[noteTarget]
	if target == "" {
		return nil
	}
	if _, err := driver.NodeUnpublishVolume(ctx, &csipb.NodeUnpublishVolumeRequest{VolumeId: n["volumeHandle"], TargetPath: target}); err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed: %w", err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove what a volume was mounted on: %w", err)
	}
	if parent := filepath.Dir(target); parent != dir {
		_ = os.Remove(parent) // unless the device is published for another pod
	}
	return nil
}

// unstage takes a volume away from the node if the pod of dir was the last to have it.
func (c *csiVolume) unstage(ctx context.Context, driver *csi.Driver, n note, dir string) error {
	if n["volumeLifecycleMode"] == string(storagev1.VolumeLifecycleEphemeral) {
		return nil
	}
	if others, err := c.m.hasOthers(n, dir); err != nil || others {
		return err
	}
	staged := c.m.stagingPath(csiSource{driver: n["driverName"], handle: n["volumeHandle"]})
	if _, err := readNote(filepath.Dir(staged)); errors.Is(err, os.ErrNotExist) {
		return nil // the driver does not stage
	}
	c.staged.Delete(n.volume())
	if _, err := driver.NodeUnstageVolume(ctx, &csipb.NodeUnstageVolumeRequest{VolumeId: n["volumeHandle"], StagingTargetPath: staged}); err != nil {
		return fmt.Errorf("UnmountDevice failed: %w", err)
	}
	return removeStaging(staged)
}
