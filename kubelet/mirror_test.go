// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/kubelet/static"
	"github.com/skiff-k8s/skiff/registry/podspec"
)

const manifest = `
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - {name: app, image: "app:1", imagePullPolicy: IfNotPresent}
`

// manifests makes the bench's kubelet run the pods of a folder.
func (b *bench) manifests() (dir string) {
	b.t.Helper()
	dir = filepath.Join(b.dir, "manifests")
	b.stop()
	b.static = static.New(static.Config{Path: dir, NodeName: "n1", Default: podspec.DefaultPod, Validate: func(*v1.Pod) field.ErrorList { return nil }})
	b.start()
	return dir
}

func (b *bench) write(path, content string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// A static pod runs because its file is there, is seen in the API by a mirror, and goes with its file.
func TestStaticPod(t *testing.T) {
	b := newBench(t, "app:1")
	file := filepath.Join(b.manifests(), "own.yaml")
	b.write(file, manifest)
	b.eventually("the mirror is ready", func() bool { return b.ready("own-n1") })
	mirror := b.get("own-n1")
	if owners := mirror.OwnerReferences; len(owners) != 1 || owners[0].Kind != "Node" || mirror.Annotations[v1.MirrorPodAnnotationKey] == "" ||
		mirror.Annotations["kubernetes.io/config.source"] != "file" || mirror.Status.PodIP == "" {
		t.Errorf("mirror = %+v", mirror)
	}

	// The deletion of a mirror ends nothing; it comes back.
	running := b.cri.Dump()
	b.delete("own-n1", 30)
	b.eventually("a new mirror is ready", func() bool {
		now := b.get("own-n1")
		return now != nil && now.UID != mirror.UID && b.ready("own-n1")
	})
	if now := b.cri.Dump(); !slices.Equal(now, running) {
		t.Errorf("the runtime was asked for %q, want nothing new after %q", now, running)
	}

	// A new process takes the containers over.
	b.stop()
	b.start()
	b.eventually("the mirror is ready", func() bool { return b.ready("own-n1") })
	if s, c := b.cri.Count(); s != 1 || c != 1 {
		t.Errorf("after a restart the runtime has %d sandboxes and %d containers, want one of each", s, c)
	}

	// Another file is another pod, which starts when the first has ended; one that makes no sense changes nothing.
	b.write(file, strings.Replace(manifest, "name: app", "name: other", 1))
	b.eventually("the changed pod runs", func() bool { return slices.Equal(b.cri.Running(), []string{"own-n1/other"}) })
	b.eventually("its mirror is ready", func() bool {
		now := b.get("own-n1")
		return now != nil && now.Spec.Containers[0].Name == "other" && b.ready("own-n1")
	})
	b.write(filepath.Join(filepath.Dir(file), "broken.yaml"), "kind: [")

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.gone("own-n1")
	b.eventually("runtime is empty", func() bool { s, c := b.cri.Count(); return s+c == 0 })
}

// What was a static pod when the process ended, and is none any more, is removed with its mirror.
func TestStaticPodRemovedMeanwhile(t *testing.T) {
	b := newBench(t, "app:1")
	file := filepath.Join(b.manifests(), "own.yaml")
	b.write(file, manifest)
	b.eventually("the mirror is ready", func() bool { return b.ready("own-n1") })
	b.stop()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.gone("own-n1")
	b.eventually("runtime is empty", func() bool { s, c := b.cri.Count(); return s+c == 0 })
}

// What runs may be a static pod as long as the web server that has them has not answered: it is left alone until then.
func TestStaticPodsByURL(t *testing.T) {
	var away atomic.Bool
	var page atomic.Value
	page.Store(manifest)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, page.Load())
	}))
	defer web.Close()
	b := newBench(t, "app:1")
	b.create(testPod("other", v1.Container{Name: "app", Image: "app:1"}))
	b.eventually("a pod is ready", func() bool { return b.ready("other") })
	restart := func(url string) {
		b.stop()
		b.static = static.New(static.Config{URL: url, Period: 50 * time.Millisecond, NodeName: "n1", Default: podspec.DefaultPod, Validate: func(*v1.Pod) field.ErrorList { return nil }})
		b.start()
	}
	restart(web.URL)
	b.eventually("the static pod is ready", func() bool { return b.ready("own-n1") })
	started, mirror := len(b.cri.Dump()), b.get("own-n1")

	b.stop()
	b.delete("other", 0)
	b.gone("other")
	away.Store(true)
	restart(web.URL)
	b.eventually("the node is there", func() bool { return b.kubelet.agent.Node() != nil })
	b.kubelet.look(t.Context())
	b.kubelet.findOrphans()
	time.Sleep(200 * time.Millisecond) // for something that is not to happen
	if running := b.cri.Running(); !slices.Equal(running, []string{"other/app", "own-n1/app"}) {
		t.Errorf("%v run while it is not known which are static pods", running)
	}
	away.Store(false)
	b.eventually("the pod that is gone has ended", func() bool {
		b.kubelet.look(t.Context())
		return slices.Equal(b.cri.Running(), []string{"own-n1/app"})
	})
	for _, done := range b.cri.Dump()[started:] {
		if strings.Contains(done, "own-n1") {
			t.Errorf("the static pod was touched: %s", done)
		}
	}
	if now := b.get("own-n1"); now == nil || now.UID != mirror.UID {
		t.Errorf("its mirror is %+v", now)
	}

	// What the server has no more by then goes, and so does its mirror.
	b.stop()
	away.Store(true)
	page.Store("apiVersion: v1\nkind: PodList\nitems: []\n")
	restart(web.URL)
	b.eventually("the mirror is left until it is known", func() bool {
		b.kubelet.statics.mu.Lock()
		defer b.kubelet.statics.mu.Unlock()
		return len(b.kubelet.statics.unsure) == 1
	})
	away.Store(false)
	b.gone("own-n1")
	b.eventually("its containers have ended", func() bool {
		b.kubelet.look(t.Context())
		return len(b.cri.Running()) == 0
	})
}
