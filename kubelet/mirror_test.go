// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
