// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const staticPod = `
apiVersion: v1
kind: Pod
metadata:
  name: own
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: busybox:stable
      imagePullPolicy: IfNotPresent
      command: [sh, -c, echo began; sleep 3600]
`

// A pod of a file runs as long as the file is there, and shows in the API, where nobody can end it.
func TestStaticPod(t *testing.T) {
	n := newHost(t)
	n.flags = []string{"--pod-manifest-path=/etc/skiff/pods"}
	file := n.Path("/etc/skiff/pods/own.yaml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(staticPod), 0o600)); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.eventually(time.Minute, "the static pod shows", func() error { _, err := n.try("get", "pod", "own-alpha"); return err })
	n.kubectl("wait", "--for=condition=Ready", "pod/own-alpha", "--timeout=60s")
	if out := n.kubectl("logs", "own-alpha"); out != "began\n" {
		t.Errorf("logs = %q", out)
	}
	if out := n.kubectl("exec", "own-alpha", "--", "echo", "inside"); out != "inside\n" {
		t.Errorf("exec = %q", out)
	}
	before := n.containers("default")
	n.kubectl("delete", "pod", "own-alpha", "--wait=false")
	n.eventually(30*time.Second, "a new mirror is Ready", func() error {
		out, err := n.try("get", "pod", "own-alpha", "-o", "jsonpath={.metadata.deletionTimestamp} {.status.phase}")
		if err == nil && out != " Running" {
			err = fmt.Errorf("its deletion and phase = %q", out)
		}
		return err
	})
	if after := n.containers("default"); len(before) != 2 || strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("the deletion of a mirror made %q of %q", after, before)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	n.kubectl("wait", "--for=delete", "pod/own-alpha", "--timeout=60s")
	n.eventually(30*time.Second, "the containers are gone", func() error {
		if left := n.containers("default"); len(left) > 0 {
			return fmt.Errorf("there is %q", left)
		}
		return nil
	})
}

// A pod of a web server runs, goes on while that is away though Skiff is started anew, and ends when the server has it no more.
func TestStaticPodByURL(t *testing.T) {
	n := newHost(t)
	var page atomic.Value
	var given atomic.Int32
	page.Store(staticPod)
	listener, err := n.Listen(t.Context(), "tcp", "127.0.0.1:8123")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "secret" || page.Load() == "" {
			http.Error(w, "not here", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, page.Load())
		given.Add(1)
	})}
	go func() { _ = web.Serve(listener) }() // until Close
	defer web.Close()
	config := kubeletConfig + "staticPodURL: http://127.0.0.1:8123/pods\nstaticPodURLHeader: {X-Key: [secret]}\nhttpCheckFrequency: 1s\n"
	if err := os.WriteFile(n.Path(kubeletFile), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.eventually(time.Minute, "the static pod shows", func() error { _, err := n.try("get", "pod", "own-alpha"); return err })
	n.kubectl("wait", "--for=condition=Ready", "pod/own-alpha", "--timeout=60s")
	before := n.containers("default")

	page.Store("")
	n.killServer()
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.said("Reading static pods")
	if after := n.containers("default"); len(before) != 2 || !slices.Equal(after, before) {
		t.Errorf("with the server away there is %q of %q", after, before)
	}
	past := given.Load()
	page.Store(staticPod)
	n.eventually(time.Minute, "the page has been read again, and heeded", func() error {
		if now := given.Load(); now < past+2 {
			return fmt.Errorf("it was read %d times more", now-past)
		}
		return nil
	})
	n.kubectl("wait", "--for=condition=Ready", "pod/own-alpha", "--timeout=60s")
	if after := n.containers("default"); !slices.Equal(after, before) {
		t.Errorf("when the server was back there is %q of %q", after, before)
	}
	page.Store("apiVersion: v1\nkind: PodList\nitems: []\n")
	n.kubectl("wait", "--for=delete", "pod/own-alpha", "--timeout=60s")
	n.eventually(30*time.Second, "the containers are gone", func() error {
		if left := n.containers("default"); len(left) > 0 {
			return fmt.Errorf("there is %q", left)
		}
		return nil
	})
}
