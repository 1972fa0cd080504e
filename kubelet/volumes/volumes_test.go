// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/objects"
)

const inside = "SKIFF_TEST_IN_MOUNT_NAMESPACE"

// TestMain runs the tests in a mount namespace of their own, so that what they mount ends with them.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "make mounts private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	goruntime.LockOSThread() // the thread whose end would end the child
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// node is a Manager with a fake API.
type node struct {
	*Manager
	client  *fake.Clientset
	changed chan types.UID
	stale   chan error
	events  chan string
}

func newNode(t *testing.T, objs ...runtime.Object) *node {
	t.Helper()
	return newNodeAt(t, t.TempDir(), objs...)
}

func newNodeAt(t *testing.T, root string, objs ...runtime.Object) *node {
	t.Helper()
	client := fake.NewClientset(objs...)
	changed := make(chan types.UID, 100)
	notify := func(uid types.UID) { changed <- uid }
	cache := objects.New(client, notify)
	n := &node{client: client, changed: changed, stale: make(chan error, 100), events: make(chan string, 100)}
	n.Manager = New(Config{
		Root: root, Client: client,
		Factory: informers.NewSharedInformerFactory(client, 0), Objects: cache, Changed: notify,
		Env:   constantEnv{},
		Stale: func(_ *corev1.Pod, err error) { n.stale <- err },
		Event: func(about runtime.Object, kind, reason, message string) {
			n.events <- fmt.Sprintf("%T %s %s %s", about, kind, reason, message)
		},
		Node: func() (*corev1.Node, error) {
			return &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid", Labels: map[string]string{"kubernetes.io/hostname": "n1"}},
				Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{"memory": resource.MustParse("1Gi")}},
			}, nil
		},
		RecursiveReadOnly: func(string) bool { return true },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = cache.Run(ctx); close(done) }()
	ran := make(chan struct{})
	go func() { _ = n.Run(ctx); close(ran) }()
	t.Cleanup(func() { cancel(); <-done; <-ran })
	return n
}

type constantEnv struct{}

func (constantEnv) Environ(context.Context, *corev1.Pod, *corev1.Container, string, []string) ([]*runtimeapi.KeyValue, error) {
	return []*runtimeapi.KeyValue{{Key: "NAME", Value: []byte("sub")}}, nil
}

// Volumes are counted by kind: those that pods are to have, and those that they have.
func TestTotals(t *testing.T) {
	n := newNode(t)
	pod := newPod(
		vol("disk", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		vol("more", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		vol("cm", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("not-there")}}),
	)
	if err := n.SetUp(t.Context(), pod); err == nil {
		t.Error("a ConfigMap that is not there was found")
	}
	check := func(wantWanted, wantPresent map[string]int) {
		t.Helper()
		if wanted, present := n.Totals(); !maps.Equal(wanted, wantWanted) || !maps.Equal(present, wantPresent) {
			t.Errorf("wanted %v, present %v, want %v and %v", wanted, present, wantWanted, wantPresent)
		}
	}
	check(map[string]int{"kubernetes.io/configmap": 1, "kubernetes.io/empty-dir": 2}, map[string]int{"kubernetes.io/empty-dir": 2})
	if err := n.TearDown(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	check(nil, nil)
}

// A pod with each kind of volume; then nothing of it is left, and what it had from the node is.
func TestAllKindsAndTearDown(t *testing.T) {
	host := t.TempDir()
	write(t, filepath.Join(host, "keep"), "precious")
	pod := newPod(
		vol("disk", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		vol("mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: quantity("1Mi")}}),
		vol("host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}),
		vol("cm", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings")}}),
		vol("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password", DefaultMode: ptr(int32(0o400))}}),
		vol("down", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "a/labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "mem", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
		}}}),
		vol("image", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "docker.io/x/y:1"}}),
	)
	pod.Spec.Containers[0].VolumeMounts[0].SubPath = "deep/er"
	n := newNode(t, settings("v1"), password())
	n.setUp(t, pod)
	mounts := n.mounts(t, pod)
	dir := n.PodDir(pod.UID)
	for name, want := range map[string]string{
		"disk":   filepath.Join(dir, "volume-subpaths/disk/main/0"),
		"mem":    filepath.Join(dir, "volumes/kubernetes.io~empty-dir/mem"),
		"host":   host,
		"cm":     filepath.Join(dir, "volumes/kubernetes.io~configmap/cm"),
		"secret": filepath.Join(dir, "volumes/kubernetes.io~secret/secret"),
		"down":   filepath.Join(dir, "volumes/kubernetes.io~downward-api/down"),
	} {
		m := mounts["/mnt/"+name]
		if m == nil || m.HostPath != want {
			t.Errorf("%s is mounted from %v, want %s", name, m, want)
			continue
		}
		if readOnly := name != "disk" && name != "mem" && name != "host"; m.Readonly != readOnly {
			t.Errorf("%s: readonly = %v", name, m.Readonly)
		}
	}
	if m := mounts["/mnt/image"]; m.HostPath != "" || m.Image.GetImage() != "docker.io/x/y:1" || !m.Readonly {
		t.Errorf("image mount %v", m)
	}
	for path, want := range map[string]string{
		"cm/key": "v1", "cm/bin": "\x00\x01", "secret/word": "xyzzy", "down/a/labels": "app=\"web\"", "down/mem": "1024",
	} {
		name, rest, _ := strings.Cut(path, "/")
		if got := read(t, filepath.Join(mounts["/mnt/"+name].HostPath, rest)); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	checkMode(t, mounts["/mnt/secret"].HostPath+"/word", 0o400)
	checkMode(t, mounts["/mnt/cm"].HostPath+"/key", 0o644)
	checkMode(t, filepath.Join(dir, "volumes/kubernetes.io~empty-dir/disk"), 0o777|fs.ModeDir)
	var st unix.Statfs_t
	if err := unix.Statfs(mounts["/mnt/mem"].HostPath, &st); err != nil || st.Type != unix.TMPFS_MAGIC || int64(st.Blocks)*st.Bsize != 1<<20 {
		t.Errorf("memory medium: %+v, %v", st, err)
	}
	if err := unix.Statfs(mounts["/mnt/secret"].HostPath, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("a secret is not in memory: %+v, %v", st, err)
	}
	// What a container with Bidirectional propagation might leave behind.
	within := filepath.Join(dir, "volumes/kubernetes.io~empty-dir/disk/bind")
	must(t, os.Mkdir(within, 0o700))
	must(t, unix.Mount(host, within, "", unix.MS_BIND, ""))
	must(t, os.Symlink(host, filepath.Join(dir, "volumes/kubernetes.io~empty-dir/disk/link")))

	if got := n.Orphans(); !slices.Contains(got, pod.UID) {
		t.Errorf("Orphans = %v", got)
	}
	// Another Manager, as after a restart, can do it too.
	again := newNodeAt(t, n.cfg.Root)
	must(t, again.TearDown(t.Context(), pod.UID))
	must(t, again.TearDown(t.Context(), pod.UID))
	if left, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(n.cfg.Root)); len(left) > 0 || exists(dir) || len(again.Orphans()) > 0 {
		t.Errorf("left behind: mounts %v, directory %v", left, exists(dir))
	}
	if read(t, filepath.Join(host, "keep")) != "precious" {
		t.Error("reached into the node's files")
	}
}

// SetUp again changes nothing; a new Manager finds the mounts of the old one.
func TestSetUpIsIdempotent(t *testing.T) {
	pod := newPod(vol("mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}),
		vol("secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password"}}))
	pod.Spec.Containers[0].VolumeMounts[0].SubPath = "s"
	n := newNode(t, password())
	n.setUp(t, pod)
	path := n.mounts(t, pod)["/mnt/mem"].HostPath
	write(t, filepath.Join(path, "state"), "kept")
	before := mountTable(t, n.cfg.Root)
	version, err := os.Readlink(n.mounts(t, pod)["/mnt/secret"].HostPath + "/..data")
	must(t, err)

	n = newNodeAt(t, n.cfg.Root, password())
	n.setUp(t, pod)
	if got := read(t, filepath.Join(n.mounts(t, pod)["/mnt/mem"].HostPath, "state")); got != "kept" {
		t.Errorf("state = %q", got)
	}
	if after := mountTable(t, n.cfg.Root); !slices.Equal(before, after) {
		t.Errorf("mounts %v became %v", before, after)
	}
	if now, _ := os.Readlink(n.mounts(t, pod)["/mnt/secret"].HostPath + "/..data"); now != version {
		t.Errorf("an unchanged secret was written again: %s, %s", version, now)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// A changed ConfigMap is announced, and the next SetUp swaps all files at once.
func TestUpdate(t *testing.T) {
	pod := newPod(vol("cm", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings")}}))
	n := newNode(t, settings("v1"))
	n.setUp(t, pod)
	dir := n.mounts(t, pod)["/mnt/cm"].HostPath
	must(t, os.Mkdir(filepath.Join(dir, "nested"), 0o755)) // a mount point is no file of ours
	old := settings("v2")
	old.ResourceVersion = "2"
	old.BinaryData = nil
	_, err := n.client.CoreV1().ConfigMaps("default").Update(t.Context(), old, metav1.UpdateOptions{})
	must(t, err)
	n.wait(t, pod.UID)
	n.setUp(t, pod)
	if got := read(t, filepath.Join(dir, "key")); got != "v2" {
		t.Errorf("key = %q", got)
	}
	if exists(filepath.Join(dir, "bin")) || !exists(filepath.Join(dir, "nested")) {
		t.Error("a removed key must go, a directory must stay")
	}
	if got := entries(t, dir, ".."); len(got) != 2 {
		t.Errorf("versions left: %v", got)
	}
	// Deleted, it stays as it was: upstream keeps the last content too.
	must(t, n.client.CoreV1().ConfigMaps("default").Delete(t.Context(), "settings", metav1.DeleteOptions{}))
	n.wait(t, pod.UID)
	for _, n := range []*node{n, newNodeAt(t, n.cfg.Root)} { // and after a restart
		n.setUp(t, pod)
		if err := <-n.stale; err.Error() != `MountVolume.SetUp failed for volume "cm" : configmap "settings" not found` {
			t.Errorf("stale: %v", err)
		}
	}
	if got := read(t, filepath.Join(dir, "key")); got != "v2" {
		t.Errorf("key = %q", got)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// A ConfigMap that comes later is announced, and an optional one is not waited for.
func TestMissingSources(t *testing.T) {
	yes := true
	pod := newPod(
		vol("cm", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings")}}),
		vol("opt", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password", Optional: &yes}}),
		vol("items", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: ref("other"), Items: []corev1.KeyToPath{{Key: "none", Path: "x"}}}}}}}),
	)
	n := newNode(t, other())
	err := n.SetUp(t.Context(), pod)
	for _, want := range []string{
		`MountVolume.SetUp failed for volume "cm" : configmap "settings" not found`,
		`MountVolume.SetUp failed for volume "items" : configmap references non-existent config key: none`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SetUp = %v, want %s", err, want)
		}
	}
	if _, err := n.Mounts(t.Context(), pod, &pod.Spec.Containers[0], nil); err == nil || err.Error() != `cannot find volume "cm" to mount into container "main"` {
		t.Errorf("Mounts = %v", err)
	}
	_, err = n.client.CoreV1().ConfigMaps("default").Create(t.Context(), settings("v1"), metav1.CreateOptions{})
	must(t, err)
	n.wait(t, pod.UID)
	pod.Spec.Volumes[2].Projected.Sources[0].ConfigMap.Items[0] = corev1.KeyToPath{Key: "a", Path: "sub/dir/x", Mode: ptr(int32(0o600))}
	n.setUp(t, pod)
	file := n.mounts(t, pod)["/mnt/items"].HostPath + "/sub/dir/x"
	if read(t, file) != "b" {
		t.Error("items with a path")
	}
	checkMode(t, file, 0o600)
	must(t, n.TearDown(t.Context(), pod.UID))
}

// The usual volume of a service account: token, CA and namespace, readable by the pod's user only.
func TestServiceAccountVolume(t *testing.T) {
	pod := newPod(vol("kube-api-access-x", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(3607))}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref("settings"), Items: []corev1.KeyToPath{{Key: "key", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}))
	pod.Spec.ServiceAccountName = "robot"
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1234)), FSGroup: ptr(int64(5678))}
	n := newNode(t, settings("ca"))
	requests := 0
	n.client.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		requests++
		tr := a.(ktesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		if tr.Spec.BoundObjectRef.UID != pod.UID || *tr.Spec.ExpirationSeconds != 3607 {
			return true, nil, fmt.Errorf("bad request %+v", tr.Spec)
		}
		if requests == 2 {
			tr.Spec.ExpirationSeconds = ptr(int64(0))
		}
		tr.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprintf("token-%d", requests)}
		return true, tr, nil
	})
	n.setUp(t, pod)
	n.setUp(t, pod)
	dir := n.mounts(t, pod)["/mnt/kube-api-access-x"].HostPath
	if got := read(t, dir+"/token") + read(t, dir+"/ca.crt") + read(t, dir+"/namespace"); got != "token-1cadefault" || requests != 1 {
		t.Errorf("files %q after %d requests", got, requests)
	}
	info, err := os.Stat(dir + "/token")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 5678 || info.Mode().Perm() != 0o640 {
		t.Errorf("token: owner %d:%d, mode %v", st.Uid, st.Gid, info.Mode())
	}
	// The next token is due at once: the pod's SetUp is asked for.
	n.tokens.forget(pod.UID)
	n.setUp(t, pod)
	n.wait(t, pod.UID)
	n.setUp(t, pod)
	if got := read(t, dir+"/token"); got != "token-3" {
		t.Errorf("token = %q, want the third", got)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// Tokens are renewed at 80 % of their life, or after a day.
func TestRenewal(t *testing.T) {
	for life, latest := range map[time.Duration]time.Duration{time.Hour: 48 * time.Minute, 1000 * time.Hour: 24 * time.Hour} {
		got := renewal(life)
		if got > latest || got < latest-tokenJitter {
			t.Errorf("a token of %v is renewed after %v, want about %v", life, got, latest)
		}
	}
}

// The life of a token is counted from when it was asked for. By a node's clock it may seem to have expired when it comes, or much too late.
func TestTokenByAnotherClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, 2 * time.Hour, -2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			client := fake.NewClientset()
			made := 0
			client.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
				made++
				request := a.(ktesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
				request.Spec.ExpirationSeconds = ptr(int64(600)) // the server may allow less than was asked for
				expires := time.Now().Add(10*time.Minute - ahead)
				request.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprint(made), ExpirationTimestamp: metav1.NewTime(expires)}
				return true, request, nil
			})
			changed := make(chan types.UID, 1)
			tokens := newTokens(client, func(uid types.UID) { changed <- uid })
			defer tokens.stop()
			pod, projection := newPod(), &corev1.ServiceAccountTokenProjection{ExpirationSeconds: ptr(int64(3600))}
			get := func(want string) {
				t.Helper()
				if text, err := tokens.get(t.Context(), pod, projection); err != nil || string(text) != want {
					t.Errorf("%s ahead of the server: token %q, %v, want %q", ahead, text, err, want)
				}
			}
			get("1")
			began := time.Now()
			time.Sleep(7*time.Minute + 30*time.Second)
			get("1")
			<-changed
			if age := time.Since(began); age > 8*time.Minute {
				t.Errorf("%s ahead of the server: it is renewed after %s", ahead, age)
			}
			get("2")
		})
	}
}

// All types of hostPath, with upstream's words.
func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "")
	must(t, os.Mkdir(dir+"/dir", 0o755))
	must(t, unix.Mknod(dir+"/sock", unix.S_IFSOCK|0o600, 0))
	must(t, os.Symlink("dir", dir+"/link"))
	for _, c := range []struct{ path, typ, want string }{
		{"/none", "", ""},
		{"/none", "Directory", "hostPath type check failed: " + dir + "/none is not a directory"},
		{"/file", "Directory", "hostPath type check failed: " + dir + "/file is not a directory"},
		{"/dir", "Directory", ""},
		{"/link", "Directory", ""},
		{"/dir", "File", "hostPath type check failed: " + dir + "/dir is not a file"},
		{"/file", "File", ""},
		{"/made/dir", "DirectoryOrCreate", ""},
		{"/file", "DirectoryOrCreate", "hostPath type check failed: " + dir + "/file is not a directory"},
		{"/made/file", "FileOrCreate", ""},
		{"/sock", "Socket", ""},
		{"/file", "Socket", "hostPath type check failed: " + dir + "/file is not a socket file"},
		{"/file", "CharDevice", "hostPath type check failed: " + dir + "/file is not a character device"},
		{"/file", "BlockDevice", "hostPath type check failed: " + dir + "/file is not a block device"},
		{"/file", "Pipe", "Pipe is an invalid volume type"},
	} {
		err := checkType(dir+c.path, corev1.HostPathType(c.typ))
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s as %s: %v, want %q", c.path, c.typ, err, c.want)
		}
	}
	if err := checkType("/dev/null", corev1.HostPathCharDev); err != nil {
		t.Error(err)
	}
	checkMode(t, dir+"/made/dir", 0o755|fs.ModeDir)
	checkMode(t, dir+"/made/file", 0o644)
}

// A claim on a hostPath or local volume; and claims that are not ready.
func TestClaims(t *testing.T) {
	host := t.TempDir()
	write(t, host+"/f", "data")
	pod := newPod(
		vol("hp", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c1"}}),
		vol("lo", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c2", ReadOnly: true}}),
		vol("eph", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}),
	)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(4321))}
	c1, p1 := claim("c1", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}})
	c2, p2 := claim("c2", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: host}})
	c3, p3 := claim("web-eph", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}})
	n := newNode(t, c1, p1, c2, p2, c3, p3)
	err := n.SetUp(t.Context(), pod)
	if err == nil || !strings.Contains(err.Error(), "was not created for pod") {
		t.Errorf("somebody else's ephemeral claim: %v", err)
	}
	yes := true
	c3.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "web", UID: pod.UID, Controller: &yes}}
	_, err = n.client.CoreV1().PersistentVolumeClaims("default").Update(t.Context(), c3, metav1.UpdateOptions{})
	must(t, err)
	n.setUp(t, pod)
	mounts := n.mounts(t, pod)
	if mounts["/mnt/hp"].HostPath != host || mounts["/mnt/eph"].HostPath != host {
		t.Errorf("hostPath volumes: %v, %v", mounts["/mnt/hp"], mounts["/mnt/eph"])
	}
	lo := mounts["/mnt/lo"]
	if lo.HostPath != filepath.Join(n.PodDir(pod.UID), "volumes/kubernetes.io~local-volume/pv-c2") || !lo.Readonly || read(t, lo.HostPath+"/f") != "data" {
		t.Errorf("local volume: %v", lo)
	}
	info, err := os.Stat(host + "/f")
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Gid == 4321 {
		t.Error("a local volume that is read-only was given to the pod's group")
	}
	must(t, n.TearDown(t.Context(), pod.UID))
	if read(t, host+"/f") != "data" {
		t.Error("a local volume lost its data")
	}
	pod.UID = "uid-2"
	c1.Status.Phase = corev1.ClaimPending
	_, err = n.client.CoreV1().PersistentVolumeClaims("default").Update(t.Context(), c1, metav1.UpdateOptions{})
	must(t, err)
	if err := n.SetUp(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "error processing PVC default/c1: PVC is not bound") {
		t.Errorf("SetUp = %v", err)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// Nobody gets out of a volume by a subPath, whatever links the volume has.
func TestSubPath(t *testing.T) {
	secretDir := t.TempDir()
	write(t, secretDir+"/passwd", "root")
	pod := newPod(vol("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	n := newNode(t)
	n.setUp(t, pod)
	dir := n.mounts(t, pod)["/mnt/v"].HostPath
	must(t, os.Symlink(secretDir, dir+"/absolute"))
	must(t, os.Symlink("../../../../../../../../.."+secretDir, dir+"/relative"))
	must(t, os.Symlink("absolute", dir+"/chain"))
	must(t, os.Mkdir(dir+"/real", 0o750))
	must(t, os.Symlink("real", dir+"/good"))
	write(t, dir+"/file", "content")
	mount := func(sub, expr string) (string, error) {
		pod.Spec.Containers[0].VolumeMounts[0].SubPath, pod.Spec.Containers[0].VolumeMounts[0].SubPathExpr = sub, expr
		ms, err := n.Mounts(t.Context(), pod, &pod.Spec.Containers[0], nil)
		if err != nil {
			return "", err
		}
		return ms[0].HostPath, nil
	}
	for _, bad := range []string{"absolute", "relative", "chain", "absolute/passwd", "relative/new", "chain/a/b", "/etc", "..", "a/../../b"} {
		if path, err := mount(bad, ""); err == nil {
			t.Errorf("subPath %s: mounted at %s", bad, path)
		} else if strings.Contains(err.Error(), secretDir) {
			t.Errorf("subPath %s: the error tells about the node: %v", bad, err)
		}
	}
	if got := entries(t, secretDir, ""); len(got) != 1 {
		t.Errorf("made outside of the volume: %v", got)
	}
	for _, good := range []string{"real", "good", "file", "a/new/dir", ".hidden..x"} {
		path, err := mount(good, "")
		if err != nil {
			t.Errorf("subPath %s: %v", good, err)
			continue
		}
		var a, b unix.Stat_t
		if unix.Stat(path, &a) != nil || unix.Stat(filepath.Join(dir, good), &b) != nil || a.Ino != b.Ino {
			t.Errorf("subPath %s is not what is mounted", good)
		}
	}
	checkMode(t, dir+"/a/new/dir", 0o777|fs.ModeDir)
	if path, err := mount("", "x/$(NAME)"); err != nil || !exists(dir+"/x/sub") {
		t.Errorf("subPathExpr: %s, %v", path, err)
	}
	if _, err := mount("", "$(NONE)"); err == nil || err.Error() != "missing value for NONE" {
		t.Errorf("subPathExpr: %v", err)
	}
	if left := mountTable(t, n.PodDir(pod.UID)); len(left) != 1 {
		t.Errorf("each mount replaces the last: %v", left)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// What a container that swaps directories for links may do at any moment.
func TestSubPathRace(t *testing.T) {
	outside := t.TempDir()
	pod := newPod(vol("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	n := newNode(t)
	n.setUp(t, pod)
	dir := n.mounts(t, pod)["/mnt/v"].HostPath
	pod.Spec.Containers[0].VolumeMounts[0].SubPath = "d/e"
	stop := make(chan struct{})
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.RemoveAll(dir + "/d")
			_ = os.Symlink(outside, dir+"/d")
			_ = os.Remove(dir + "/d")
			_ = os.MkdirAll(dir+"/d/e", 0o755)
		}
	}()
	for range 300 {
		ms, err := n.Mounts(t.Context(), pod, &pod.Spec.Containers[0], nil)
		if err != nil {
			continue
		}
		var a, b unix.Stat_t
		if unix.Stat(ms[0].HostPath, &a) == nil && unix.Stat(outside, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev {
			t.Fatal("escaped")
		}
	}
	close(stop)
	<-swapped
	if got := entries(t, outside, ""); len(got) > 0 {
		t.Errorf("made outside: %v", got)
	}
	must(t, n.TearDown(t.Context(), pod.UID))
}

// fsGroup owns the volume; OnRootMismatch looks at the root only.
func TestOwnership(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/sub", 0o700))
	write(t, dir+"/sub/file", "")
	must(t, os.Symlink("/etc/passwd", dir+"/link"))
	group, policy := int64(777), corev1.FSGroupChangeOnRootMismatch
	must(t, setOwnership(dir, &group, false, &policy))
	checkMode(t, dir+"/sub", 0o770|fs.ModeDir|fs.ModeSetgid)
	checkMode(t, dir+"/sub/file", 0o664)
	must(t, os.Chmod(dir+"/sub/file", 0o600))
	must(t, setOwnership(dir, &group, false, &policy))
	checkMode(t, dir+"/sub/file", 0o600)
	must(t, setOwnership(dir, &group, false, nil))
	checkMode(t, dir+"/sub/file", 0o660)
}

// Recursive read-only and propagation, with upstream's rules.
func TestMountOptions(t *testing.T) {
	enabled, both := corev1.RecursiveReadOnlyEnabled, corev1.MountPropagationBidirectional
	vm := &corev1.VolumeMount{Name: "v", RecursiveReadOnly: &enabled}
	if _, err := recursiveReadOnly(vm, true); err == nil {
		t.Error("recursive read-only needs readOnly")
	}
	vm.ReadOnly = true
	if got, err := recursiveReadOnly(vm, true); !got || err != nil {
		t.Errorf("recursive read-only: %v, %v", got, err)
	}
	if _, err := recursiveReadOnly(vm, false); err == nil || err.Error() != `volume "v" requested recursive read-only mode, but it is not supported by the runtime` {
		t.Errorf("without support: %v", err)
	}
	vm.MountPropagation = &both
	if _, err := recursiveReadOnly(vm, true); err == nil {
		t.Error("recursive read-only and propagation exclude each other")
	}
	if got, err := propagationOf(vm); got != runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL || err != nil {
		t.Errorf("propagation: %v, %v", got, err)
	}
}

// Volumes inside volumes get their mount points.
func TestNested(t *testing.T) {
	c := &corev1.Container{VolumeMounts: []corev1.VolumeMount{
		{Name: "outer", MountPath: "/etc/app"}, {Name: "a", MountPath: "/etc/app/a"}, {Name: "b", MountPath: "/etc/app/a/b"},
		{Name: "c", MountPath: "/etc/app-c"}, {Name: "d", MountPath: "/etc/app/a-d/"},
	}}
	if got := nestedIn(c, "outer"); !slices.Equal(got, []string{"a-d", "a"}) && !slices.Equal(got, []string{"a", "a-d"}) {
		t.Errorf("nested: %v", got)
	}
}

func (n *node) setUp(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := n.SetUp(t.Context(), pod); err != nil {
		t.Fatalf("SetUp: %v", err)
	}
}

// mounts returns those of the pod's container by the path in it.
func (n *node) mounts(t *testing.T, pod *corev1.Pod) map[string]*runtimeapi.Mount {
	t.Helper()
	ms, err := n.Mounts(t.Context(), pod, &pod.Spec.Containers[0], []string{"10.42.0.5"})
	if err != nil {
		t.Fatalf("Mounts: %v", err)
	}
	byPath := map[string]*runtimeapi.Mount{}
	for _, m := range ms {
		byPath[m.ContainerPath] = m
	}
	return byPath
}

func (n *node) wait(t *testing.T, uid types.UID) {
	t.Helper()
	select {
	case got := <-n.changed:
		if got != uid {
			t.Fatalf("%s changed, want %s", got, uid)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no change was announced")
	}
}

// newPod has one container that mounts each volume at /mnt/<name>.
func newPod(volumes ...corev1.Volume) *corev1.Pod {
	c := corev1.Container{Name: "main"}
	for _, v := range volumes {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/mnt/" + v.Name})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-1", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{c}},
	}
}

func vol(name string, source corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: source}
}

func settings(value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings", ResourceVersion: "1"},
		Data:       map[string]string{"key": value}, BinaryData: map[string][]byte{"bin": {0, 1}},
	}
}

func other() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}, Data: map[string]string{"a": "b"}}
}

func password() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "password"}, Data: map[string][]byte{"word": []byte("xyzzy")}}
}

func claim(name string, source corev1.PersistentVolumeSource) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	uid := types.UID("uid-" + name)
	return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: uid},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}, &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name},
			Spec:       corev1.PersistentVolumeSpec{PersistentVolumeSource: source, ClaimRef: &corev1.ObjectReference{UID: uid}},
		}
}

func ref(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func ptr[T any](v T) *T { return &v }

func quantity(s string) *resource.Quantity { return ptr(resource.MustParse(s)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

func checkMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != want {
		t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
	}
}

// entries lists what is in dir and begins with prefix.
func entries(t *testing.T, dir, prefix string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range found {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

func mountTable(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	must(t, err)
	var points []string
	for _, m := range mounts {
		points = append(points, fmt.Sprint(m.ID, m.Mountpoint))
	}
	return points
}

// A pod hears what takes long when its volume has very many files.
func TestSlowOwnership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		m := &Manager{cfg: Config{Event: func(_ runtime.Object, _, reason, message string) { events = append(events, reason+" "+message) }}}
		var files atomic.Int64
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			m.tellSlow(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}}, "/root/pods/u1/volumes/v", &files, done)
			close(ended)
		}()
		time.Sleep(29 * time.Second)
		if len(events) > 0 {
			t.Errorf("too early: %q", events)
		}
		time.Sleep(2 * time.Second)
		files.Store(7)
		time.Sleep(time.Minute)
		close(done)
		<-ended
		if len(events) != 2 || !strings.HasPrefix(events[0], "VolumePermissionChangeInProgress Setting volume ownership for u1/volumes/v is taking longer than expected, consider using OnRootMismatch") ||
			events[1] != "VolumePermissionChangeInProgress Setting volume ownership for u1/volumes/v, processed 7 files." {
			t.Errorf("events %q", events)
		}
	})
}
