// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/localpath"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
)

// directories are those of local-path volumes on nodes that exist only in this test.
type directories struct {
	mu   sync.Mutex
	made []string // guarded by mu: node/volume
	fail error    // guarded by mu
}

func (d *directories) Make(_ context.Context, node, volume string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return "", d.fail
	}
	if name := node + "/" + volume; !slices.Contains(d.made, name) {
		d.made = append(d.made, name)
	}
	return "/data/" + volume, nil
}

func (d *directories) Remove(_ context.Context, node, volume string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	d.made = slices.DeleteFunc(d.made, func(name string) bool { return name == node+"/"+volume })
	return nil
}

func (d *directories) setFail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

func (d *directories) have() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.made)
}

func (c *cluster) createClaim(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	c.t.Helper()
	claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if claim.Spec.AccessModes == nil {
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	claim, err := c.CoreV1().PersistentVolumeClaims("ns").Create(c.t.Context(), claim, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return claim
}

func (c *cluster) wantClaim(name, what string, right func(*corev1.PersistentVolumeClaim) bool) {
	c.t.Helper()
	c.eventually("claim "+name+" "+what, func(ctx context.Context) error {
		claim, err := c.CoreV1().PersistentVolumeClaims("ns").Get(ctx, name, metav1.GetOptions{})
		if err != nil || right(claim) {
			return err
		}
		return fmt.Errorf("%+v %+v", claim.ObjectMeta, claim.Status)
	})
}

func (c *cluster) wantVolumeGone(name string) {
	c.t.Helper()
	c.eventually("volume "+name+" is gone", func(ctx context.Context) error {
		pv, err := c.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%+v %+v: %w", pv.ObjectMeta, pv.Status, err)
	})
}

// A claim of the class local-path gets a directory on the node that was selected, keeps it while a pod uses it, and
// takes it along when it goes.
func TestLocalPath(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.node("one", map[string]string{corev1.LabelHostname: "host-one"})
	if _, err := c.StorageV1().StorageClasses().Create(ctx, localpath.Class(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim := c.createClaim(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("local-path")}})
	c.wantEvent("PersistentVolumeClaim", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	name := "pvc-" + string(claim.UID)

	// A scheduler selects a node that is gone, then one whose kubelet does not answer at first.
	selectNode := func(node string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, storagehelper.AnnSelectedNode, node)
		if _, err := c.CoreV1().PersistentVolumeClaims("ns").Patch(ctx, "data", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	selectNode("gone")
	c.wantClaim("data", "asks for another node", func(claim *corev1.PersistentVolumeClaim) bool {
		return claim.Annotations[storagehelper.AnnSelectedNode] == "" && claim.Annotations[storagehelper.AnnStorageProvisioner] == localpath.Provisioner
	})
	c.wantEvent("PersistentVolumeClaim", "ProvisioningFailed", `failed to provision volume with StorageClass "local-path": node "gone" not found`)
	c.directories.setFail(errors.New("no answer"))
	selectNode("one")
	c.wantEvent("PersistentVolumeClaim", "ProvisioningFailed", `failed to provision volume with StorageClass "local-path": no answer`)
	c.directories.setFail(nil)
	c.wantClaim("data", "is bound", func(claim *corev1.PersistentVolumeClaim) bool {
		return claim.Status.Phase == corev1.ClaimBound && claim.Spec.VolumeName == name
	})
	c.wantEvent("PersistentVolumeClaim", "ProvisioningSucceeded", "Successfully provisioned volume "+name)
	pv, err := c.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pv.Spec.Local == nil || pv.Spec.Local.Path != "/data/"+name || storagehelper.CheckNodeAffinity(pv, map[string]string{corev1.LabelHostname: "host-one"}) != nil ||
		storagehelper.CheckNodeAffinity(pv, map[string]string{corev1.LabelHostname: "host-two"}) == nil {
		t.Errorf("volume is %+v", pv.Spec)
	}

	// It grows.
	patch := []byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	if _, err := c.CoreV1().PersistentVolumeClaims("ns").Patch(ctx, "data", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantClaim("data", "has grown", func(claim *corev1.PersistentVolumeClaim) bool {
		return claim.Status.Capacity.Storage().String() == "2Gi" && claim.Status.AllocatedResources.Storage().String() == "2Gi" &&
			len(claim.Status.AllocatedResourceStatuses) == 0 && !slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
			return c.Type == corev1.PersistentVolumeClaimResizing
		})
	})
	c.wantEvent("PersistentVolumeClaim", "VolumeResizeSuccessful", "ExpandVolume succeeded for volume ns/data")

	// In use, deleted, used no more.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"}, Spec: corev1.PodSpec{
		NodeName: "one", Containers: []corev1.Container{{Name: "c", Image: "v1"}}, TerminationGracePeriodSeconds: ptr.To[int64](0),
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
	}}
	unused := func(status corev1.ConditionStatus) func(*corev1.PersistentVolumeClaim) bool {
		return func(claim *corev1.PersistentVolumeClaim) bool {
			return slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
				return c.Type == corev1.PersistentVolumeClaimUnused && c.Status == status
			})
		}
	}
	c.wantClaim("data", "is unused", unused(corev1.ConditionTrue))
	if _, err := c.CoreV1().Pods("ns").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantClaim("data", "is used", unused(corev1.ConditionFalse))
	if err := c.CoreV1().PersistentVolumeClaims("ns").Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantClaim("data", "is kept for the pod", func(claim *corev1.PersistentVolumeClaim) bool {
		return claim.DeletionTimestamp != nil && slices.Contains(claim.Finalizers, "kubernetes.io/pvc-protection")
	})
	if have := c.directories.have(); len(have) != 1 || have[0] != "one/"+name {
		t.Errorf("directories are %q", have)
	}
	if err := c.CoreV1().Pods("ns").Delete(ctx, "user", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantVolumeGone(name)
	if have := c.directories.have(); len(have) != 0 {
		t.Errorf("directories are %q after the claim's deletion", have)
	}
}

// What local-path cannot do is said on the claim, once and for all.
func TestLocalPathRefuses(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	class := localpath.Class()
	class.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
	if _, err := c.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, spec := range map[string]corev1.PersistentVolumeClaimSpec{
		"no node was selected: the StorageClass must have `volumeBindingMode: WaitForFirstConsumer`": {},
		"only volumeMode Filesystem is supported":                                                    {VolumeMode: ptr.To(corev1.PersistentVolumeBlock)},
		"claim.Spec.Selector is not supported":                                                       {Selector: &metav1.LabelSelector{}},
	} {
		spec.StorageClassName = ptr.To("local-path")
		c.createClaim(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{GenerateName: "data-"}, Spec: spec})
		c.wantEvent("PersistentVolumeClaim", "ProvisioningFailed", `failed to provision volume with StorageClass "local-path": `+name)
	}
}

// A simulated node has no kubelet that could make or remove a directory, and needs none.
func TestLocalPathOnSimulatedNodes(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.node("simulated-0", map[string]string{corev1.LabelHostname: "simulated-0", simulated.NodeLabel: "true"})
	c.directories.setFail(errors.New("there is no kubelet"))
	if _, err := c.StorageV1().StorageClasses().Create(ctx, localpath.Class(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim := c.createClaim(&corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Annotations: map[string]string{storagehelper.AnnSelectedNode: "simulated-0"}},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("local-path")}})
	c.wantClaim("data", "is bound", func(claim *corev1.PersistentVolumeClaim) bool { return claim.Status.Phase == corev1.ClaimBound })
	if err := c.CoreV1().PersistentVolumeClaims("ns").Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the volume is gone", func(ctx context.Context) error {
		_, err := c.CoreV1().PersistentVolumes().Get(ctx, "pvc-"+string(claim.UID), metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
}

// Classes of attributes are kept while a volume names them.
func TestVolumeAttributesClassProtection(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, DriverName: "x.io", Parameters: map[string]string{"speed": "9"}}
	if _, err := c.StorageV1().VolumeAttributesClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		VolumeAttributesClassName: ptr.To("gold"),
		PersistentVolumeSource:    corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "x.io", VolumeHandle: "1"}},
	}}
	if _, err := c.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kept := func(deleted bool) func(context.Context) error {
		return func(ctx context.Context) error {
			class, err := c.StorageV1().VolumeAttributesClasses().Get(ctx, "gold", metav1.GetOptions{})
			if err == nil && ((class.DeletionTimestamp != nil) != deleted || !slices.Contains(class.Finalizers, "kubernetes.io/vac-protection")) {
				err = fmt.Errorf("%+v", class.ObjectMeta)
			}
			return err
		}
	}
	c.eventually("class is protected", kept(false))
	c.eventually("volume is protected", func(ctx context.Context) error {
		pv, err := c.CoreV1().PersistentVolumes().Get(ctx, "pv", metav1.GetOptions{})
		if err == nil && (!slices.Contains(pv.Finalizers, "kubernetes.io/pv-protection") || pv.Status.Phase != corev1.VolumeAvailable) {
			err = fmt.Errorf("%+v %+v", pv.ObjectMeta, pv.Status)
		}
		return err
	})
	if err := c.StorageV1().VolumeAttributesClasses().Delete(ctx, "gold", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("class is kept for the volume", kept(true))
	if err := c.CoreV1().PersistentVolumes().Delete(ctx, "pv", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantVolumeGone("pv")
	c.eventually("class is gone", func(ctx context.Context) error {
		_, err := c.StorageV1().VolumeAttributesClasses().Get(ctx, "gold", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("there: %w", err)
	})
}

// A pod's ephemeral volume gets a claim of its own, which goes with it. A stranger's claim is not taken.
func TestEphemeralVolumes(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "v1"}},
		Volumes: []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("none"),
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
				},
			},
		}}}},
	}}
	c.createClaim(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "pod-scratch"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("none")}})
	c.wantClaim("pod-scratch", "is protected", func(claim *corev1.PersistentVolumeClaim) bool { return len(claim.Finalizers) > 0 })
	created, err := c.CoreV1().Pods("ns").Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.wantEvent("Pod", "FailedBinding", "ephemeral volume scratch: PVC ns/pod-scratch was not created for pod ns/pod (pod is not owner)")
	if err := c.CoreV1().PersistentVolumeClaims("ns").Delete(ctx, "pod-scratch", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantClaim("pod-scratch", "is the pod's", func(claim *corev1.PersistentVolumeClaim) bool {
		return metav1.IsControlledBy(claim, created) && claim.Labels["a"] == "b"
	})
	if err := c.CoreV1().Pods("ns").Delete(ctx, "pod", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	c.eventually("claim goes with the pod", func(ctx context.Context) error {
		_, err := c.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "pod-scratch", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("there: %w", err)
	})
}
