// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	ktesting "k8s.io/client-go/testing"

	"github.com/skiff-k8s/skiff/kubelet/csi"
	"github.com/skiff-k8s/skiff/kubelet/csi/csitest"
)

// csiNode is a node with a CSI driver, whose attachments are always there.
type csiNode struct {
	*node
	driver *csitest.Driver
	inUse  atomic.Pointer[[]corev1.UniqueVolumeName] // what the Node object says
}

func newCSINode(t *testing.T, root string, driver *csitest.Driver, objs ...runtime.Object) *csiNode {
	t.Helper()
	objs = append(objs, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	n := &csiNode{node: newNodeAt(t, root, objs...), driver: driver}
	drivers := csi.New(n.client, "n1")
	registry := t.TempDir()
	stop, err := driver.Serve(registry)
	must(t, err)
	t.Cleanup(stop)
	must(t, drivers.Register(t.Context(), driver.Name, filepath.Join(driver.Dir, "csi.sock"), []string{"1.0.0"}))
	n.cfg.CSI, n.cfg.NodeName = drivers, "n1"
	n.cfg.InUseChanged = func() { names := n.VolumesInUse(); n.inUse.Store(&names) }
	n.cfg.Node = func() (*corev1.Node, error) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		if names := n.inUse.Load(); names != nil {
			node.Status.VolumesInUse = *names
		}
		return node, nil
	}
	n.client.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		r := a.(ktesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		r.Status.Token = "token for " + strings.Join(r.Spec.Audiences, ",")
		return true, r, nil
	})
	return n
}

func testDriver(t *testing.T, can ...csi.Capability) *csitest.Driver {
	return &csitest.Driver{Name: "x.io", NodeID: "id", Dir: t.TempDir(), Can: can}
}

func driverObject(change func(*storagev1.CSIDriverSpec)) *storagev1.CSIDriver {
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "x.io"}, Spec: storagev1.CSIDriverSpec{
		AttachRequired: ptr(false), PodInfoOnMount: ptr(false), FSGroupPolicy: ptr(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy),
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent},
	}}
	change(&d.Spec)
	return d
}

func csiClaim(name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	pvc, pv := claim(name, corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
		Driver: "x.io", VolumeHandle: "vol-" + name, FSType: "ext4", VolumeAttributes: map[string]string{"a": "b"},
		NodeStageSecretRef: &corev1.SecretReference{Namespace: "default", Name: "password"},
	}})
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	return pvc, pv
}

func last[T any](t *testing.T, d *csitest.Driver) T {
	t.Helper()
	for _, r := range slices.Backward(d.Requests()) {
		if typed, ok := any(r).(T); ok {
			return typed
		}
	}
	t.Fatalf("no such request in %v", d.Calls())
	panic("not reached")
}

func wantCalls(t *testing.T, d *csitest.Driver, want ...string) {
	t.Helper()
	if got := d.Calls(); !slices.Equal(got, want) {
		t.Errorf("driver was asked for %q, want %q", got, want)
	}
}

// A node that cannot attach one more volume, though CSINode says so, says otherwise from then on, and gives the pod up: if the driver lets
// its limit be asked for.
func TestCSITooManyVolumes(t *testing.T) {
	pvc, pv := csiClaim("one")
	code := int32(codes.ResourceExhausted)
	for _, c := range []struct {
		period *int64
		reason string
		limit  int32
	}{{ptr(int64(60)), "VolumeAttachmentLimitExceeded", 3}, {nil, "", 7}} {
		driver := testDriver(t)
		driver.MaxVolumes = 7
		attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: attachmentName("vol-one", "x.io", "n1")},
			Status: storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "no slot", ErrorCode: &code}}}
		n := newCSINode(t, t.TempDir(), driver, pvc, pv, password(), attachment, driverObject(func(s *storagev1.CSIDriverSpec) {
			s.AttachRequired, s.NodeAllocatableUpdatePeriodSeconds = ptr(true), c.period
		}))
		driver.Limit(3)
		err := n.SetUp(t.Context(), podWith("a", "one"))
		if err == nil || !strings.Contains(err.Error(), "no slot") {
			t.Errorf("SetUp = %v", err)
		}
		reason := ""
		for _, one := range err.(utilerrors.Aggregate).Errors() { //nolint:errorlint // it is what SetUp returns
			if final := (interface{ RejectReason() string })(nil); errors.As(one, &final) {
				reason = final.RejectReason()
			}
		}
		if reason != c.reason {
			t.Errorf("%v has the reason %q, want %q", err, reason, c.reason)
		}
		csiNode, err := n.client.StorageV1().CSINodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || *csiNode.Spec.Drivers[0].Allocatable.Count != c.limit {
			t.Errorf("CSINode says %v, %v; want %d", csiNode.Spec.Drivers, err, c.limit)
		}
	}
}

// A volume is attached, staged once, published to each pod, and all of that is undone, by another process too.
func TestCSIPersistentVolume(t *testing.T) {
	root := t.TempDir()
	driver := testDriver(t, csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS)
	pvc, pv := csiClaim("one")
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: attachmentName("vol-one", "x.io", "n1")},
		Status: storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"disk": "sdb"}}}
	n := newCSINode(t, root, driver, pvc, pv, password(), attachment, driverObject(func(s *storagev1.CSIDriverSpec) {
		s.AttachRequired, s.PodInfoOnMount = ptr(true), ptr(true)
		s.TokenRequests = []storagev1.TokenRequest{{Audience: "vault"}}
	}))
	a, b := podWith("a", "one"), podWith("b", "one")
	a.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(4321))}
	must(t, os.Mkdir(filepath.Join(driver.Dir, "vol-one"), 0o755))
	write(t, filepath.Join(driver.Dir, "vol-one", "file"), "data")
	n.setUp(t, a)
	n.setUp(t, b)
	n.setUp(t, b)
	wantCalls(t, driver, "NodeStageVolume", "NodePublishVolume", "NodePublishVolume")
	path := n.mounts(t, a)["/mnt/data"].HostPath
	if want := filepath.Join(n.PodDir(a.UID), "volumes/kubernetes.io~csi/pv-one/mount"); path != want {
		t.Errorf("path is %s, want %s", path, want)
	}
	if got := read(t, filepath.Join(path, "file")); got != "data" {
		t.Errorf("file has %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeSetgid == 0 {
		t.Errorf("volume is %v for the group, %v", info.Mode(), err)
	}
	stage, publish := last[*csipb.NodeStageVolumeRequest](t, driver), last[*csipb.NodePublishVolumeRequest](t, driver)
	if stage.PublishContext["disk"] != "sdb" || len(stage.Secrets) == 0 || stage.VolumeContext["a"] != "b" ||
		stage.VolumeCapability.GetMount().GetFsType() != "ext4" || stage.VolumeCapability.AccessMode.Mode != csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER {
		t.Errorf("stage request is %v", stage)
	}
	if c := publish.VolumeContext; c["csi.storage.k8s.io/pod.name"] != b.Name || c["csi.storage.k8s.io/ephemeral"] != "false" || publish.StagingTargetPath != stage.StagingTargetPath ||
		!strings.Contains(c["csi.storage.k8s.io/serviceAccount.tokens"], `"vault":{"token":"token for vault"`) {
		t.Errorf("publish request is %v", publish)
	}
	if f, err := n.Measure(t.Context(), a.UID, "data"); err != nil || f.Used != 100 || f.InodesFree != 9 {
		t.Errorf("volume has %+v, %v", f, err)
	}
	unique := corev1.UniqueVolumeName("kubernetes.io/csi/x.io^vol-one")
	if got := n.VolumesInUse(); !slices.Equal(got, []corev1.UniqueVolumeName{unique}) {
		t.Errorf("in use are %q", got)
	}

	must(t, n.TearDown(t.Context(), a.UID))
	wantCalls(t, driver, "NodeStageVolume", "NodePublishVolume", "NodePublishVolume", "NodeUnpublishVolume")

	// Another process: it knows what is in use, fails without the driver, and undoes the rest with it.
	after := newCSINode(t, root, driver, pvc, pv, password(), attachment)
	after.cfg.InUseChanged()
	if got := after.VolumesInUse(); !slices.Equal(got, []corev1.UniqueVolumeName{unique}) {
		t.Errorf("in use after a restart are %q", got)
	}
	driver.Fail("NodeStageVolume", status.Error(codes.InvalidArgument, "no"))
	if err := after.SetUp(t.Context(), b); err == nil { // it goes on running with what it has
		t.Error("SetUp with a failing driver succeeds")
	}
	drivers := after.cfg.CSI
	after.cfg.CSI = nil
	if err := after.TearDown(t.Context(), b.UID); err == nil || !strings.Contains(err.Error(), "driver name x.io not found in the list of registered CSI drivers") {
		t.Errorf("TearDown without the driver: %v", err)
	}
	after.cfg.CSI = drivers
	must(t, after.TearDown(t.Context(), b.UID))
	if calls := driver.Calls(); !slices.Equal(calls[len(calls)-2:], []string{"NodeUnpublishVolume", "NodeUnstageVolume"}) {
		t.Errorf("driver was asked for %q", calls)
	}
	if got := after.VolumesInUse(); len(got) > 0 {
		t.Errorf("in use in the end are %q", got)
	}
	for _, dir := range []string{"plugins/kubernetes.io/csi/x.io", "pods"} {
		if left, err := os.ReadDir(filepath.Join(root, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s are %v, %v", dir, left, err)
		}
	}
	if got := read(t, filepath.Join(driver.Dir, "vol-one", "file")); got != "data" {
		t.Errorf("file has %q in the end", got)
	}
}

// podWith is a pod of that UID, with the claim as /mnt/data.
func podWith(uid, claim string) *corev1.Pod {
	pod := newPod(vol("data", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}))
	pod.Name, pod.UID = "pod-"+uid, types.UID("uid-"+uid)
	return pod
}

// An inline volume is published and nothing else, if the driver has such volumes.
func TestCSIInline(t *testing.T) {
	driver := testDriver(t, csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	object := driverObject(func(s *storagev1.CSIDriverSpec) { s.RequiresRepublish = ptr(true) })
	n := newCSINode(t, t.TempDir(), driver, object)
	pod := newPod(vol("scratch", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "x.io", VolumeAttributes: map[string]string{"size": "1"}}}))
	want := `MountVolume.SetUp failed for volume "scratch" : kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: volume mode "Ephemeral" not supported by driver x.io (only supports ["Persistent"])`
	if err := n.SetUp(t.Context(), pod); err == nil || err.Error() != want {
		t.Errorf("SetUp says %v", err)
	}
	object.Spec.VolumeLifecycleModes = append(object.Spec.VolumeLifecycleModes, storagev1.VolumeLifecycleEphemeral)
	_, err := n.client.StorageV1().CSIDrivers().Update(t.Context(), object, metav1.UpdateOptions{})
	must(t, err)
	n.setUp(t, pod)
	n.setUp(t, pod) // which the driver wants to hear of
	wantCalls(t, driver, "NodePublishVolume", "NodePublishVolume")
	if r := last[*csipb.NodePublishVolumeRequest](t, driver); r.VolumeId != inlineHandle(pod.UID, "scratch") || r.VolumeContext["size"] != "1" || r.StagingTargetPath != "" {
		t.Errorf("publish request is %v", r)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
	wantCalls(t, driver, "NodePublishVolume", "NodePublishVolume", "NodeUnpublishVolume")
}

// What fails is said in upstream's words, and tried again.
func TestCSIErrors(t *testing.T) {
	driver := testDriver(t, csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	pvc, pv := csiClaim("one")
	n := newCSINode(t, t.TempDir(), driver, pvc, pv, password(), driverObject(func(*storagev1.CSIDriverSpec) {}))
	pod := podWith("a", "one")
	for _, c := range []struct{ call, want string }{
		{"NodeStageVolume", `MountVolume.MountDevice failed for volume "pv-one" : rpc error: code = Internal desc = no`},
		{"NodePublishVolume", `MountVolume.SetUp failed for volume "pv-one" : rpc error: code = Internal desc = no`},
	} {
		driver.Fail(c.call, status.Error(codes.Internal, "no"))
		if err := n.SetUp(t.Context(), pod); err == nil || err.Error() != c.want {
			t.Errorf("%s fails: SetUp says %v", c.call, err)
		}
		driver.Fail(c.call, nil)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
	wantCalls(t, driver, "NodeStageVolume", "NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume")
}

// A pod that goes before its volume was staged leaves nothing to be unstaged, unless the driver may still do it.
func TestCSIStageFails(t *testing.T) {
	for name, c := range map[string]struct {
		code codes.Code
		want []string
	}{
		"for good":  {codes.InvalidArgument, []string{"NodeStageVolume"}},
		"who knows": {codes.DeadlineExceeded, []string{"NodeStageVolume", "NodeUnstageVolume"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, driver := t.TempDir(), testDriver(t, csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
			pvc, pv := csiClaim("one")
			n := newCSINode(t, root, driver, pvc, pv, password(), driverObject(func(*storagev1.CSIDriverSpec) {}))
			driver.Fail("NodeStageVolume", status.Error(c.code, "no"))
			if err := n.SetUp(t.Context(), podWith("a", "one")); err == nil {
				t.Error("SetUp succeeds")
			}
			must(t, n.TearDown(t.Context(), "uid-a"))
			wantCalls(t, driver, c.want...)
			if left, err := os.ReadDir(filepath.Join(root, "plugins/kubernetes.io/csi/x.io")); err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
}

// A volume for one pod is refused to the next one on the node, also by another process, until the first one is gone.
func TestOncePod(t *testing.T) {
	root, driver := t.TempDir(), testDriver(t)
	pvc, pv := csiClaim("one")
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	n := newCSINode(t, root, driver, pvc, pv, password(), driverObject(func(*storagev1.CSIDriverSpec) {}))
	first, second := podWith("a", "one"), podWith("b", "one")
	n.setUp(t, first)
	n.setUp(t, first)
	for _, node := range []*csiNode{n, newCSINode(t, root, driver, pvc, pv, password(), driverObject(func(*storagev1.CSIDriverSpec) {}))} {
		err := node.SetUp(t.Context(), second)
		if err == nil || err.Error() != `MountVolume.SetUp failed for volume "pv-one" : volume uses the ReadWriteOncePod access mode and is already in use by another pod` {
			t.Errorf("the second pod: %v", err)
		}
	}
	must(t, n.TearDown(t.Context(), first.UID))
	n.setUp(t, second)
	must(t, n.TearDown(t.Context(), second.UID))
}

// A volume that cannot be unstaged does not keep its pod, nor the next one, which has it staged anew. It stays in use, and another process
// unstages it in the end.
func TestCSIUnstageFails(t *testing.T) {
	root, driver := t.TempDir(), testDriver(t, csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	pvc, pv := csiClaim("one")
	objects := []runtime.Object{pvc, pv, password(), driverObject(func(s *storagev1.CSIDriverSpec) { s.AttachRequired = ptr(true) }), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: attachmentName("vol-one", "x.io", "n1")}, Status: storagev1.VolumeAttachmentStatus{Attached: true}}}
	n := newCSINode(t, root, driver, objects...)
	inUse := []corev1.UniqueVolumeName{"kubernetes.io/csi/x.io^vol-one"}
	driver.Fail("NodeUnstageVolume", errors.New("busy"))
	for _, uid := range []string{"a", "b"} {
		n.setUp(t, podWith(uid, "one"))
		must(t, n.TearDown(t.Context(), types.UID("uid-"+uid)))
		if got := n.VolumesInUse(); !slices.Equal(got, inUse) {
			t.Errorf("in use are %q, want %q", got, inUse)
		}
	}
	if calls := driver.Calls(); len(slices.DeleteFunc(slices.Clone(calls), func(c string) bool { return c != "NodeStageVolume" })) != 2 {
		t.Errorf("driver was asked for %q, want it to stage for both pods", calls)
	}

	after := newCSINode(t, root, driver, objects...)
	if got := after.VolumesInUse(); !slices.Equal(got, inUse) {
		t.Errorf("in use after a restart are %q, want %q", got, inUse)
	}
	driver.Fail("NodeUnstageVolume", nil)
	for deadline := time.Now().Add(time.Minute); len(after.VolumesInUse()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the volume is still in use; the driver was asked for %q", driver.Calls())
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, "plugins/kubernetes.io/csi/x.io")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A device is published where the runtime can give it to a container, and taken away again.
func TestCSIBlock(t *testing.T) {
	driver := testDriver(t)
	pvc, pv := csiClaim("one")
	pv.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock)
	n := newCSINode(t, t.TempDir(), driver, pvc, pv, driverObject(func(*storagev1.CSIDriverSpec) {}))
	pod := podWith("a", "one")
	pod.Spec.Containers[0].VolumeMounts = nil
	pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}
	n.setUp(t, pod)
	devices, err := n.Devices(t.Context(), pod, &pod.Spec.Containers[0])
	if err != nil || len(devices) != 1 {
		t.Fatalf("devices are %v, %v", devices, err)
	}
	if _, err := os.Stat(devices[0].HostPath); err != nil || devices[0].ContainerPath != "/dev/x" {
		t.Errorf("device is %v, %v", devices[0], err)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
	if _, err := os.Stat(filepath.Dir(devices[0].HostPath)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("device is left: %v", err)
	}
}

// A volume that has become larger has its file system grown, at once or while the pod runs.
func TestCSIExpand(t *testing.T) {
	driver := testDriver(t, csipb.NodeServiceCapability_RPC_EXPAND_VOLUME)
	pvc, pv := csiClaim("one")
	size := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
	}
	pv.Spec.Capacity, pvc.Status.Capacity = size("2Gi"), size("1Gi")
	pvc.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending}
	pvc.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}}
	n := newCSINode(t, t.TempDir(), driver, pvc, pv, driverObject(func(*storagev1.CSIDriverSpec) {}))
	pod := podWith("a", "one")
	check := func(want string, conditions int) {
		t.Helper()
		got, err := n.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "one", metav1.GetOptions{})
		must(t, err)
		if has := got.Status.Capacity[corev1.ResourceStorage]; has.String() != want || len(got.Status.Conditions) != conditions {
			t.Errorf("claim is %+v, want %s", got.Status, want)
		}
	}
	n.setUp(t, pod)
	check("2Gi", 0)
	wantCalls(t, driver, "NodePublishVolume", "NodeExpandVolume")
	for _, about := range []string{"Pod", "PersistentVolumeClaim"} {
		got := "none"
		select {
		case got = <-n.events:
		default:
		}
		if want := fmt.Sprintf("*v1.%s Normal FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded for volume %q n1", about, pv.Name); got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	}

	grow := func(to string) {
		t.Helper()
		pv.Spec.Capacity = size(to)
		_, err := n.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
		must(t, err)
		n.setUp(t, pod) // the resizer has not said yet that the rest is the node's, and will: then the claim is not to be done with
		claim, err := n.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "one", metav1.GetOptions{})
		must(t, err)
		claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending}
		_, err = n.client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
		must(t, err)
	}
	grow("3Gi")
	check("2Gi", 0)
	n.setUp(t, pod)
	check("3Gi", 0)
	wantCalls(t, driver, "NodePublishVolume", "NodeExpandVolume", "NodeExpandVolume")

	driver.Fail("NodeExpandVolume", status.Error(codes.OutOfRange, "too large"))
	grow("9Gi")
	n.setUp(t, pod)
	n.setUp(t, pod)
	check("3Gi", 1)
	wantCalls(t, driver, "NodePublishVolume", "NodeExpandVolume", "NodeExpandVolume", "NodeExpandVolume")
	must(t, n.TearDown(t.Context(), pod.UID))
}

// A volume that several nodes have is grown on each of them, though its claim says already that it has grown.
func TestCSIExpandShared(t *testing.T) {
	for _, notRequired := range []bool{false, true} {
		driver := testDriver(t, csipb.NodeServiceCapability_RPC_EXPAND_VOLUME)
		pvc, pv := csiClaim("one")
		pvc.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		want := []string{"NodePublishVolume", "NodeExpandVolume"}
		if notRequired {
			pvc.Annotations = map[string]string{notOnNodes: "true"}
			want = want[:1]
		}
		size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		pv.Spec.Capacity, pvc.Status.Capacity = size, size
		n := newCSINode(t, t.TempDir(), driver, pvc, pv, driverObject(func(*storagev1.CSIDriverSpec) {}))
		pod := podWith("a", "one")
		n.setUp(t, pod)
		n.setUp(t, pod)
		wantCalls(t, driver, "NodePublishVolume")

		size = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
		pv.Spec.Capacity, pvc.Status.Capacity = size, size
		_, err := n.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
		must(t, err)
		_, err = n.client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(t.Context(), pvc, metav1.UpdateOptions{})
		must(t, err)
		n.setUp(t, pod)
		n.setUp(t, pod)
		wantCalls(t, driver, want...)
		must(t, n.TearDown(t.Context(), pod.UID))
	}
}
