// SPDX-License-Identifier: Apache-2.0

package persistentvolume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	basemetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func volume(name, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, c := range change {
		c(pv)
	}
	return pv
}

func claim(size string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: "uid-claim"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
			StorageClassName: ptr.To(""),
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func promised(uid types.UID) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "ns", Name: "claim", UID: uid}
	}
}

func modes(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Spec.AccessModes = m }
}

func wants(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }
}

func ofClass(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func marked(keys ...string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		for _, k := range keys {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, k, "yes")
		}
	}
}

// What a claim's controller does, from the objects to the claim in the end and its last event.
func TestClaims(t *testing.T) {
	delayed := storagev1.VolumeBindingWaitForFirstConsumer
	const bound, pending, lost = corev1.ClaimBound, corev1.ClaimPending, corev1.ClaimLost
	for _, c := range []struct {
		name   string
		claim  *corev1.PersistentVolumeClaim
		others []runtime.Object
		phase  corev1.PersistentVolumeClaimPhase
		volume string
		event  string
	}{
		{"the smallest that is large enough", claim("2Gi"), []runtime.Object{volume("a", "1Gi"), volume("c", "4Gi"), volume("b", "3Gi")}, bound, "b", ""},
		{"as few modes as possible", claim("1Gi"), []runtime.Object{
			volume("a", "1Gi", modes(corev1.ReadWriteOnce, corev1.ReadWriteMany)), volume("b", "2Gi")}, bound, "b", ""},
		{"all modes asked for", claim("1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = append(c.Spec.AccessModes, corev1.ReadOnlyMany)
		}), []runtime.Object{volume("a", "1Gi")}, pending, "", "Normal FailedBinding no persistent volumes available for this claim and no storage class is set"},
		{"by selector", claim("1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "fast"}}
		}), []runtime.Object{volume("a", "1Gi"), volume("b", "9Gi", func(pv *corev1.PersistentVolume) { pv.Labels = map[string]string{"disk": "fast"} })}, bound, "b", ""},
		{"another class", claim("1Gi"), []runtime.Object{volume("a", "1Gi", func(pv *corev1.PersistentVolume) { pv.Spec.StorageClassName = "x" })}, pending, "", "Normal FailedBinding no persistent"},
		{"another mode", claim("1Gi"), []runtime.Object{volume("a", "1Gi", func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })}, pending, "", "Normal FailedBinding no persistent"},
		{"other attributes", claim("1Gi"), []runtime.Object{volume("a", "1Gi", func(pv *corev1.PersistentVolume) { pv.Spec.VolumeAttributesClassName = ptr.To("gold") })}, pending, "", "Normal FailedBinding no persistent"},
		{"one that is being deleted", claim("1Gi"), []runtime.Object{volume("a", "1Gi", func(pv *corev1.PersistentVolume) {
			pv.DeletionTimestamp, pv.Finalizers = ptr.To(metav1.Now()), []string{"x/y"}
		})}, pending, "", "Normal FailedBinding no persistent"},
		{"one promised to it, by name", claim("1Gi"), []runtime.Object{volume("a", "1Gi"), volume("b", "9Gi", promised(""))}, bound, "b", ""},
		{"not one promised to its predecessor", claim("1Gi"), []runtime.Object{volume("b", "9Gi", promised("uid-old"))}, pending, "", "Normal FailedBinding no persistent"},

		{"the one that it names", claim("1Gi", wants("b")), []runtime.Object{volume("a", "1Gi"), volume("b", "9Gi")}, bound, "b", ""},
		{"the one that it names is not there", claim("1Gi", wants("b")), []runtime.Object{volume("a", "1Gi")}, pending, "b", ""},
		{"the one that it names is too small", claim("2Gi", wants("a")), []runtime.Object{volume("a", "1Gi")}, pending, "a", `Warning VolumeMismatch Cannot bind to requested volume "a": requested PV is too small`},
		{"the one that it names is another's", claim("1Gi", wants("a")), []runtime.Object{volume("a", "1Gi", promised("uid-other"))}, pending, "a", `Warning FailedBinding volume "a" already bound to a different claim.`},

		{"bound before, reference gone", claim("1Gi", marked(storagehelper.AnnBindCompleted)), []runtime.Object{volume("a", "1Gi")}, lost, "", "Warning ClaimLost Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"},
		{"bound before, volume gone", claim("1Gi", wants("b"), marked(storagehelper.AnnBindCompleted)), []runtime.Object{volume("a", "1Gi")}, lost, "b", "Warning ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"},
		{"bound before, volume is another's", claim("1Gi", wants("a"), marked(storagehelper.AnnBindCompleted)), []runtime.Object{volume("a", "1Gi", promised("uid-other"))}, lost, "a", "Warning ClaimMisbound Two claims are bound to the same volume, this one is bound incorrectly"},
		{"bound before, volume has forgotten", claim("1Gi", wants("a"), marked(storagehelper.AnnBindCompleted)), []runtime.Object{volume("a", "1Gi")}, bound, "a", ""},

		{"waits for a pod", claim("1Gi", ofClass("late")), []runtime.Object{class("late", "x.io/p", delayed), volume("a", "1Gi", func(pv *corev1.PersistentVolume) { pv.Spec.StorageClassName = "late" })},
			pending, "", "Normal WaitForFirstConsumer waiting for first consumer to be created before binding"},
		{"waits for a scheduler", claim("1Gi", ofClass("late")), []runtime.Object{class("late", "x.io/p", delayed), consumer("one", "")}, pending, "", "Normal WaitForPodScheduled waiting for pod one to be scheduled"},
		{"waits for the scheduler of two", claim("1Gi", ofClass("late")), []runtime.Object{class("late", "x.io/p", delayed), consumer("two", ""), consumer("one", ""), consumer("three", "node")}, pending, "", "Normal WaitForPodScheduled waiting for pods one,two to be scheduled"},
		{"no such class", claim("1Gi", ofClass("none")), nil, pending, "", `Warning ProvisioningFailed storageclass.storage.k8s.io "none" not found`},
		{"a class that provisions nothing", claim("1Gi", ofClass("manual")), []runtime.Object{class("manual", storagehelper.NotSupportedProvisioner, storagev1.VolumeBindingImmediate)}, pending, "", "Warning ProvisioningFailed no volume plugin matched name: kubernetes.io/no-provisioner"},
		{"a provisioner", claim("1Gi", ofClass("fast")), []runtime.Object{class("fast", "x.io/p", storagev1.VolumeBindingImmediate)}, pending, "", "Normal ExternalProvisioning Waiting for a volume to be created either by the external provisioner 'x.io/p' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := start(t, append(c.others, c.claim)...)
				got := cluster.claim()
				if got.Status.Phase != c.phase || got.Spec.VolumeName != c.volume {
					t.Errorf("claim is %s with volume %q, want %s with %q", got.Status.Phase, got.Spec.VolumeName, c.phase, c.volume)
				}
				if last := cluster.lastEvent(); !strings.HasPrefix(last, c.event) || c.event == "" && last != "" {
					t.Errorf("last event is %q, want %q", last, c.event)
				}
				if c.phase == bound {
					cluster.wantBound(c.volume)
				}
			})
		})
	}
}

func consumer(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}}}},
	}
}

type cluster struct {
	*controllertest.Cluster
	t *testing.T
}

func start(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{controllertest.New(t, objects...), t}
	claims, err := NewClaims(c.Clientset, c.Factory, c.Events, metrics.New().Volumes)
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := NewVolumes(c.Clientset, c.Factory, c.Events, metrics.New().Volumes)
	if err != nil {
		t.Fatal(err)
	}
	c.Run(claims, volumes)
	c.settle()
	return c
}

// settle lets the retries of stale caches pass.
func (c *cluster) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (c *cluster) claim() *corev1.PersistentVolumeClaim {
	c.t.Helper()
	got, err := c.CoreV1().PersistentVolumeClaims("ns").Get(c.t.Context(), "claim", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

func (c *cluster) volume(name string) *corev1.PersistentVolume {
	c.t.Helper()
	got, err := c.CoreV1().PersistentVolumes().Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

func (c *cluster) lastEvent() string {
	last := ""
	for {
		select {
		case e := <-c.Events.Events:
			last = e
		default:
			return last
		}
	}
}

// wantBound checks both sides of a binding.
func (c *cluster) wantBound(name string) {
	c.t.Helper()
	claim, pv := c.claim(), c.volume(name)
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID || pv.Status.Phase != corev1.VolumeBound {
		c.t.Errorf("volume is %s for %+v", pv.Status.Phase, pv.Spec.ClaimRef)
	}
	size := claim.Status.Capacity[corev1.ResourceStorage]
	if !bindCompleted(claim) || size.Cmp(pv.Spec.Capacity[corev1.ResourceStorage]) != 0 || len(claim.Status.AccessModes) != len(pv.Spec.AccessModes) {
		c.t.Errorf("claim has annotations %v and status %+v", claim.Annotations, claim.Status)
	}
}

// A claim without a class gets the default one, also when that comes later.
func TestDefaultClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }))
		if got := c.claim(); got.Spec.StorageClassName != nil {
			t.Fatalf("class is %q", *got.Spec.StorageClassName)
		}
		late := class("late", "x.io/p", storagev1.VolumeBindingImmediate)
		late.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		if _, err := c.StorageV1().StorageClasses().Create(t.Context(), late, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if got := c.claim(); ptr.Deref(got.Spec.StorageClassName, "") != "late" || got.Annotations[storagehelper.AnnStorageProvisioner] != "x.io/p" {
			t.Errorf("class is %v, annotations are %v", got.Spec.StorageClassName, got.Annotations)
		}
	})
}

// A claim is told of a volume that comes later, and of its own file system that is smaller than the volume.
func TestLaterVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, claim("1Gi"))
		pv := volume("a", "2Gi", func(pv *corev1.PersistentVolume) {
			pv.Status.Phase = corev1.VolumePending
			pv.Annotations = map[string]string{sizeBefore: "1Gi"}
		})
		if _, err := c.CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		got := c.claim()
		if size := got.Status.Capacity[corev1.ResourceStorage]; got.Status.Phase != corev1.ClaimBound || size.String() != "1Gi" {
			t.Errorf("claim is %+v", got.Status)
		}
	})
}

// What becomes of a volume, by what it says of its claim and what the claim says.
func TestVolumes(t *testing.T) {
	provisioned := func(by string) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) {
			metav1.SetMetaDataAnnotation(&pv.ObjectMeta, storagehelper.AnnDynamicallyProvisioned, by)
		}
	}
	ours := func(pv *corev1.PersistentVolume) {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, storagehelper.AnnBoundByController, "yes")
	}
	policy := func(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Spec.PersistentVolumeReclaimPolicy = p }
	}
	phase := func(p corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
		return func(pv *corev1.PersistentVolume) { pv.Status.Phase = p }
	}
	elsewhere := claim("1Gi", wants("other"), marked(storagehelper.AnnBindCompleted))
	elsewhere.Status.Phase = corev1.ClaimBound
	other := volume("other", "1Gi", promised("uid-claim"), phase(corev1.VolumeBound))
	for _, c := range []struct {
		name  string
		pv    *corev1.PersistentVolume
		claim *corev1.PersistentVolumeClaim
		phase corev1.PersistentVolumePhase
		ref   string // namespace/name/UID of the claim that it is promised to
		event string
	}{
		{"new", volume("a", "1Gi", phase(corev1.VolumePending)), nil, corev1.VolumeAvailable, "", ""},
		{"promised, claim not there", volume("a", "1Gi", promised(""), phase(corev1.VolumePending)), nil, corev1.VolumeAvailable, "ns/claim/", ""},
		{"claim gone, Retain", volume("a", "1Gi", promised("uid-gone"), phase(corev1.VolumeBound)), nil, corev1.VolumeReleased, "ns/claim/uid-gone", ""},
		{"claim made anew", volume("a", "1Gi", promised("uid-gone"), phase(corev1.VolumeBound)), claim("1Gi"), corev1.VolumeReleased, "ns/claim/uid-gone", ""},
		{"claim gone, Recycle", volume("a", "1Gi", promised("uid-gone"), policy(corev1.PersistentVolumeReclaimRecycle)), nil, corev1.VolumeFailed, "ns/claim/uid-gone", "Warning VolumeFailedRecycle No recycler plugin found for the volume!"},
		{"claim gone, Delete, made by hand", volume("a", "1Gi", promised("uid-gone"), policy(corev1.PersistentVolumeReclaimDelete)), nil, corev1.VolumeFailed, "ns/claim/uid-gone",
			`Warning VolumeFailedDelete error getting deleter volume plugin for volume "a": no deletable volume plugin matched`},
		{"claim gone, Delete, a path of the host", volume("a", "1Gi", promised("uid-gone"), policy(corev1.PersistentVolumeReclaimDelete), func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}
		}), nil, corev1.VolumeFailed, "ns/claim/uid-gone", "Warning VolumeFailedDelete host_path deleter only supports /tmp/.+ but received provided /data"},
		{"claim gone, Delete, provisioned", volume("a", "1Gi", promised("uid-gone"), policy(corev1.PersistentVolumeReclaimDelete), provisioned("x.io/p")), nil, corev1.VolumeReleased, "ns/claim/uid-gone", ""},
		{"claim has another", volume("a", "1Gi", promised("uid-claim"), ours), elsewhere, corev1.VolumeAvailable, "", ""},
		{"claim has another, promised by a person", volume("a", "1Gi", promised("uid-claim")), elsewhere, corev1.VolumeAvailable, "ns/claim/", ""},
		{"claim has another, provisioned in vain", volume("a", "1Gi", promised("uid-claim"), policy(corev1.PersistentVolumeReclaimDelete), provisioned("x.io/p")), elsewhere, corev1.VolumeReleased, "ns/claim/uid-claim", ""},
		{"claim wants another mode", volume("a", "1Gi", promised("uid-claim"), func(pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }),
			claim("1Gi", ofClass("none")), corev1.VolumeAvailable, "ns/claim/uid-claim", `Warning VolumeMismatch Cannot bind PersistentVolume "a" to requested PersistentVolumeClaim due to incompatible volumeMode.`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				objects := []runtime.Object{c.pv}
				if c.claim != nil {
					objects = append(objects, c.claim)
				}
				if c.claim == elsewhere {
					objects = append(objects, other)
				}
				cluster := start(t, objects...)
				pv := cluster.volume("a")
				ref := ""
				if r := pv.Spec.ClaimRef; r != nil {
					ref = r.Namespace + "/" + r.Name + "/" + string(r.UID)
				}
				if pv.Status.Phase != c.phase || ref != c.ref {
					t.Errorf("volume is %s for %q, want %s for %q", pv.Status.Phase, ref, c.phase, c.ref)
				}
				found := c.event == ""
				for !found && len(cluster.Events.Events) > 0 {
					found = <-cluster.Events.Events == c.event
				}
				if !found {
					t.Errorf("no event %q", c.event)
				}
			})
		})
	}
}

// A path of the host below /tmp goes with its claim, but nothing that is only linked from there.
func TestTemporaryPath(t *testing.T) {
	parent, err := os.MkdirTemp("/tmp", "skiff-volume-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	if err := os.Mkdir(filepath.Join(parent, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(parent, "link")); err != nil {
		t.Fatal(err)
	}
	for path, gone := range map[string]bool{parent + "/data": true, parent + "/link/hostname-of-nobody": false} {
		synctest.Test(t, func(t *testing.T) {
			c := start(t, volume("a", "1Gi", promised("uid-gone"), func(pv *corev1.PersistentVolume) {
				pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
				pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}
			}))
			pv, err := c.CoreV1().PersistentVolumes().Get(t.Context(), "a", metav1.GetOptions{})
			if gone != apierrors.IsNotFound(err) || !gone && pv.Status.Phase != corev1.VolumeFailed {
				t.Errorf("%s: the volume is %+v, %v", path, pv.Status, err)
			}
		})
	}
	if _, err := os.Stat(parent + "/data"); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
}

// Deletions are counted by the provisioner of the volume's class, whatever the volume says of who has made it.
func TestDeleters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, class("fast", "x.io/p", storagev1.VolumeBindingImmediate))
		b := newBinder(c.Clientset, c.Factory, c.Events, metrics.New().Volumes)
		of := func(name string) *corev1.PersistentVolume {
			return volume("a", "1Gi", func(pv *corev1.PersistentVolume) {
				pv.Spec.StorageClassName = name
				metav1.SetMetaDataAnnotation(&pv.ObjectMeta, storagehelper.AnnDynamicallyProvisioned, "x.io/one-of-many")
			})
		}
		if got := b.deleterOf(of("fast"), ""); got != "x.io/p" {
			t.Errorf("the deleter is %q, want the class's provisioner", got)
		}
		if got := b.deleterOf(of("gone"), ""); got != "" {
			t.Errorf("without its class the deleter is %q", got)
		}
		if got := b.deleterOf(of("fast"), "VolumeFailedDelete"); got != "" {
			t.Errorf("of what nobody deletes, the deleter is %q", got)
		}
	})
}

// It is measured how long others take to make and to delete a volume, and what did not work.
func TestOperationsAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := metrics.New()
		registry := basemetrics.NewKubeRegistry()
		if err := set.Register(registry); err != nil {
			t.Fatal(err)
		}
		o := newOperations(set.Volumes)
		o.begin("ns/claim", "x.io/p", provisioning)
		time.Sleep(time.Second)
		o.begin("ns/claim", "x.io/p", provisioning) // asked again
		o.result("ns/claim", errors.New("not saved"))
		time.Sleep(time.Second)
		o.result("ns/claim", nil)
		o.result("ns/claim", nil) // seen again
		o.begin("pv", "", deletion)
		o.forget("pv")
		o.result("pv", nil)

		labels := []string{"x.io/p", provisioning}
		failed, err := testutil.GetCounterMetricValue(set.Volumes.OperationErrors.WithLabelValues(labels...))
		if err != nil || failed != 1 {
			t.Errorf("%v failures, want 1 (%v)", failed, err)
		}
		took, err := testutil.GetHistogramMetricValue(set.Volumes.OperationDuration.WithLabelValues(labels...))
		count, countErr := testutil.GetHistogramMetricCount(set.Volumes.OperationDuration.WithLabelValues(labels...))
		if err != nil || countErr != nil || took != 2 || count != 1 {
			t.Errorf("%d operations took %v s, want one of 2 s (%v, %v)", count, took, err, countErr)
		}
		if n, err := testutil.GetHistogramMetricCount(set.Volumes.OperationDuration.WithLabelValues("N/A", deletion)); err != nil || n != 0 {
			t.Errorf("%d deletions were measured, want none (%v)", n, err)
		}
	})
}
