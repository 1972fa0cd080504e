// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"compress/gzip"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// writer is a runtime with one running container that writes a log.
type writer struct {
	runtimeapi.RuntimeServiceClient
	log string
}

func (w *writer) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c1"}}}, nil
}

func (w *writer) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest, ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: "c1", LogPath: w.log}}, nil
}

func (w *writer) ReopenContainerLog(context.Context, *runtimeapi.ReopenContainerLogRequest, ...grpc.CallOption) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, os.WriteFile(w.log, nil, 0o640)
}

// A log that has grown too large is put aside; of three files in all, only the newest of those put aside is not compressed.
func TestRotateLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		w := &writer{log: filepath.Join(root, "default_web_uid", "app", "0.log")}
		r := &Runtime{cfg: Config{LogRoot: root}, cri: w}
		if err := os.MkdirAll(filepath.Dir(w.log), 0o755); err != nil {
			t.Fatal(err)
		}
		put := func(text string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			if err := os.WriteFile(w.log, []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := r.RotateLogs(t.Context(), 4, 3); err != nil {
				t.Fatal(err)
			}
		}
		contents := func() []string {
			files, err := filepath.Glob(w.log + "*")
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, f := range files {
				all = append(all, read(t, f))
			}
			return all
		}
		for _, c := range []struct {
			write string
			want  []string // the current log, then those put aside, oldest first
		}{
			{"tiny", []string{"tiny"}},
			{"first", []string{"", "first"}},
			{"second", []string{"", "gz first", "second"}},
			{"third", []string{"", "gz second", "third"}},
		} {
			put(c.write)
			if got := contents(); !slices.Equal(got, c.want) {
				t.Errorf("after %q there is %q, want %q", c.write, got, c.want)
			}
		}
	})
}

// Large ones are found among those that were there before and those of containers that started since; what is gone is forgotten.
func TestLargeLogs(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(root, "default_"+name+"_uid", "app", "0.log")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var l logFiles
	large := func(want ...string) {
		t.Helper()
		got, err := l.large(root, 4)
		if err != nil {
			t.Fatal(err)
		}
		if paths := slices.Sorted(maps.Keys(got)); !slices.Equal(paths, want) {
			t.Errorf("large are %q, want %q", paths, want)
		}
	}
	before, small := write("before", "large"), write("small", "tiny")
	l.add(small) // by a container that starts before anybody has looked
	large(before)
	since := write("since", "large")
	l.add(since)
	large(before, since)
	if err := os.Remove(before); err != nil {
		t.Fatal(err)
	}
	large(since)
	if _, known := l.paths[before]; known {
		t.Error("a log that is gone is still known")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var from io.Reader = f
	prefix := ""
	if strings.HasSuffix(path, ".gz") {
		if from, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
		prefix = "gz "
	}
	data, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return prefix + string(data)
}

// What a container leaves to say comes from its log without the runtime's prefixes, and without a newline that it did not write.
func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	const at = "2026-11-22T00:00:00.000000001Z"
	if err := os.WriteFile(path, []byte(at+" stdout F one\n"+at+" stderr P tw\n"+at+" stderr P o\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(path); got != "one\ntwo" {
		t.Errorf("lastLines = %q", got)
	}
}
