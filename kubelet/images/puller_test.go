// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// registry is a runtime without images, and a registry that gives them to the user "me" only.
type registry struct {
	runtimeapi.ImageServiceClient
	present map[string]bool
	takes   time.Duration
	pulling atomic.Int32
	most    atomic.Int32 // at the same time
	pulls   atomic.Int32
}

func (r *registry) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	if name := req.GetImage().GetImage(); r.present[name] {
		return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "id-of-" + name}}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (r *registry) PullImage(_ context.Context, req *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	r.pulls.Add(1)
	r.most.Store(max(r.most.Load(), r.pulling.Add(1)))
	time.Sleep(r.takes)
	r.pulling.Add(-1)
	user := req.GetAuth().GetUsername()
	if server := req.GetAuth().GetServerAddress(); server != "" { // containerd takes it for a URL, and gives credentials to its host only
		if u, err := url.Parse(server); err != nil || u.Host != "private.io" {
			user = ""
		}
	}
	if user != "me" && !strings.HasPrefix(req.GetImage().GetImage(), "public.") {
		return nil, errors.New("unauthorized")
	}
	r.present[req.GetImage().GetImage()] = true
	return &runtimeapi.PullImageResponse{}, nil
}

// safe has pull secrets.
type safe map[string]string // name to user

func (s safe) Secret(_ context.Context, namespace, name string) (*v1.Secret, error) {
	user, ok := s[name]
	if !ok {
		return nil, errors.New("not found")
	}
	return &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name)}, Type: v1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(fmt.Sprintf(`{"auths":{"private.io":{"username":%q,"password":"x"}}}`, user))},
	}, nil
}

func podWith(name string, secrets ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	for _, s := range secrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, v1.LocalObjectReference{Name: s})
	}
	return p
}

func ensure(t *testing.T, p *Puller, pod *v1.Pod, image string, policy v1.PullPolicy) string {
	t.Helper()
	if _, err := p.Ensure(t.Context(), pod, &v1.Container{Name: "c", Image: image, ImagePullPolicy: policy}, nil, ""); err != nil {
		return err.Reason
	}
	return ""
}

// An image that was pulled with a secret is for pods that have it, or may pull it themselves; a preloaded or public one is
// for all. That holds over a restart, and after a crash in the middle of a pull.
func TestPresentImagesAreVerified(t *testing.T) {
	const private, public, preloaded = "private.io/a:1", "public.io/a:1", "private.io/preloaded:1"
	dir := t.TempDir()
	r := &registry{present: map[string]bool{preloaded: true}}
	start := func() *Puller {
		return NewPuller(Config{Records: dir}, r, safe{"mine": "me", "same": "me", "other": "somebody"}, record.NewFakeRecorder(1000))
	}
	p := start()
	check := func(pod *v1.Pod, image string, policy v1.PullPolicy, want string, pulls int32) {
		t.Helper()
		before := r.pulls.Load()
		if got := ensure(t, p, pod, image, policy); got != want || r.pulls.Load()-before != pulls {
			t.Errorf("%s of %s for %s: %q after %d pulls, want %q after %d", policy, image, pod.Name, got, r.pulls.Load()-before, want, pulls)
		}
	}
	check(podWith("p1"), preloaded, v1.PullNever, "", 0)
	check(podWith("p2"), private, v1.PullIfNotPresent, ReasonErrImagePull, 1)
	check(podWith("p3", "other", "mine"), private, v1.PullIfNotPresent, "", 2)
	check(podWith("p4", "mine"), private, v1.PullIfNotPresent, "", 0)
	check(podWith("p5", "mine"), private, v1.PullNever, "", 0)
	check(podWith("p6", "same"), private, v1.PullNever, "", 0) // another secret that says the same
	check(podWith("p7"), private, v1.PullIfNotPresent, ReasonErrImagePull, 1)
	check(podWith("p8"), private, v1.PullNever, ReasonErrImageNever, 0)
	check(podWith("p9"), public, v1.PullIfNotPresent, "", 1)
	check(podWith("p10"), public, v1.PullIfNotPresent, "", 0)
	p = start()
	check(podWith("p11", "other"), private, v1.PullIfNotPresent, ReasonErrImagePull, 1)
	check(podWith("p12", "mine"), private, v1.PullIfNotPresent, "", 0)
	check(podWith("p13"), public, v1.PullNever, "", 0)

	if err := p.pulled.begin("private.io/half:1"); err != nil { // and here the process ends
		t.Fatal(err)
	}
	r.present["private.io/half:1"] = true
	check(podWith("p14"), "private.io/half:1", v1.PullIfNotPresent, ReasonErrImagePull, 1)
	if err := p.Forget("id-of-" + private); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "pulled")); err != nil || len(files) != 1 {
		t.Errorf("%d records are left, %v; want that of the public image", len(files), err)
	}
}

// No more images are pulled at the same time than are allowed.
func TestParallelPulls(t *testing.T) {
	for allowed, want := range map[int]int32{1: 1, 2: 2, 0: 5} {
		synctest.Test(t, func(t *testing.T) {
			r := &registry{present: map[string]bool{}, takes: time.Second}
			p := NewPuller(Config{Parallel: allowed}, r, safe{}, record.NewFakeRecorder(1000))
			for i := range 5 {
				go p.Ensure(t.Context(), podWith(fmt.Sprint("p", i)), &v1.Container{Name: "c", Image: fmt.Sprint("nowhere.io/a:", i)}, nil, "")
			}
			time.Sleep(10 * time.Second)
			if got := r.most.Load(); got != want {
				t.Errorf("with %d allowed, %d were pulled at the same time", allowed, got)
			}
		})
	}
}

// A pull that failed waits longer and longer.
func TestPullBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{present: map[string]bool{}}
		p := NewPuller(Config{}, r, safe{}, record.NewFakeRecorder(1000))
		pod := podWith("p")
		for _, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
			if got := ensure(t, p, pod, "private.io/a:1", v1.PullAlways); got != ReasonErrImagePull {
				t.Errorf("pull: %q", got)
			}
			time.Sleep(wait - time.Millisecond)
			if got := ensure(t, p, pod, "private.io/a:1", v1.PullAlways); got != ReasonImagePullBackOff {
				t.Errorf("before %v: %q", wait, got)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// A program is asked for the images that it knows, and believed for as long as it says.
func TestProviders(t *testing.T) {
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	program := `#!/bin/sh
cat >>` + asked + `
echo >>` + asked + `
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h","auth":{"private.io":{"username":"'$WHO'","password":"x"}}}'
`
	if err := os.WriteFile(filepath.Join(dir, "helper"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "providers.yaml")
	text := `
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: helper
  matchImages: ["private.io"]
  defaultCacheDuration: 10m
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  env: [{name: WHO, value: me}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	providers, err := LoadProviders(file, dir, fake.NewClientset())
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{present: map[string]bool{}}
	p := NewPuller(Config{Providers: providers}, r, safe{}, record.NewFakeRecorder(1000))
	for _, image := range []string{"private.io/a:1", "private.io/b:1", "public.io/a:1"} {
		if got := ensure(t, p, podWith("p"), image, v1.PullAlways); got != "" {
			t.Errorf("%s: %s", image, got)
		}
	}
	got, err := os.ReadFile(asked)
	if want := `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"private.io/a:1"`; err != nil || strings.Count(string(got), "\n") != 1 || !strings.HasPrefix(string(got), want) {
		t.Errorf("the program was asked %s, %v", got, err)
	}
	for old, bad := range map[string]string{
		"name: helper": "name: ../helper", "defaultCacheDuration: 10m": "", "k8s.io/v1\n  env": "k8s.io/v0\n  env", `["private.io"]`: "[]", "name: help": "name: none-",
	} {
		if err := os.WriteFile(file, []byte(strings.Replace(text, old, bad, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadProviders(file, dir, fake.NewClientset()); err == nil {
			t.Errorf("%q instead of %q was accepted", bad, old)
		}
	}
}

// What the node's own file says is used where nothing better is.
func TestNodeCredentials(t *testing.T) {
	r := &registry{present: map[string]bool{}}
	p := NewPuller(Config{Registries: map[string]DockerAuth{"private.io": {Username: "me"}}}, r, safe{}, record.NewFakeRecorder(1000))
	if got := ensure(t, p, podWith("p"), "private.io/a:1", v1.PullIfNotPresent); got != "" {
		t.Error(got)
	}
}

// Pulls beyond the rate that the operator wants are not tried.
func TestPullRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{present: map[string]bool{}}
		p := NewPuller(Config{PullsPerSecond: 1, PullsAtOnce: 2}, r, safe{}, record.NewFakeRecorder(100))
		for i, want := range []string{"", "", ReasonErrImagePull} {
			if got := ensure(t, p, podWith("p"), fmt.Sprintf("public.io/a:%d", i), v1.PullAlways); got != want {
				t.Errorf("pull %d: %q, want %q", i, got, want)
			}
		}
		if n := r.pulls.Load(); n != 2 {
			t.Errorf("the runtime was asked %d times, want 2", n)
		}
		time.Sleep(time.Second)
		if got := ensure(t, p, podWith("p"), "public.io/b:1", v1.PullAlways); got != "" {
			t.Errorf("a second later: %q", got)
		}
	})
}
