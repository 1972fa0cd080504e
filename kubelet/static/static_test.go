// SPDX-License-Identifier: Apache-2.0

package static

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func source(path string) *Source {
	return New(Config{
		Path: path, NodeName: "Node-1",
		Default: func(pod *v1.Pod) { pod.Spec.RestartPolicy = v1.RestartPolicyAlways },
		Validate: func(pod *v1.Pod) field.ErrorList {
			if len(pod.Spec.Containers) == 0 {
				return field.ErrorList{field.Required(field.NewPath("spec", "containers"), "")}
			}
			return nil
		},
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func pod(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: c, image: i}]" + spec + "}\n"
}

// A pod has the node's name, a UID that is that of its content and file, and what static pods have by default.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, pod("web", ""))
	write(t, filepath.Join(dir, ".hidden"), pod("hidden", ""))
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := source(dir)
	pods := s.Read(t.Context())
	if len(pods) != 1 {
		t.Fatalf("pods = %v, want one", pods)
	}
	got := pods[0]
	if got.Name != "web-node-1" || got.Namespace != "default" || got.Spec.NodeName != "Node-1" || got.Spec.RestartPolicy != v1.RestartPolicyAlways ||
		got.Annotations[hashAnnotation] != string(got.UID) || got.Annotations[sourceAnnotation] != "file" || got.Status.Phase != v1.PodPending {
		t.Errorf("pod = %+v", got)
	}
	if len(got.Spec.Tolerations) != 1 || got.Spec.Tolerations[0].Effect != v1.TaintEffectNoExecute {
		t.Errorf("tolerations = %+v, want one of all that would evict it", got.Spec.Tolerations)
	}
	if again := s.Read(t.Context()); again[0] != got {
		t.Error("an unchanged file is another pod")
	}
	if other := source(file).Read(t.Context()); len(other) != 1 || other[0].UID != got.UID {
		t.Errorf("the file alone, and in a new process: %v, want the same UID", other)
	}
	write(t, file, pod("web", ", hostNetwork: true"))
	if changed := s.Read(t.Context()); changed[0].UID == got.UID {
		t.Error("a changed file is the same pod")
	}
}

// What cannot be a static pod is none, and the version before stays.
func TestReadRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"not YAML":          "kind: [",
		"another kind":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
		"no name":           pod("", ""),
		"invalid":           "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
		"a service account": pod("x", ", serviceAccountName: default"),
		"a secret":          pod("x", ", volumes: [{name: v, secret: {secretName: s}}]"),
		"a claim":           pod("x", ", volumes: [{name: v, persistentVolumeClaim: {claimName: s}}]"),
		"a token":           pod("x", ", volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pod")
			write(t, file, content)
			s := source(filepath.Dir(file))
			if pods := s.Read(t.Context()); len(pods) > 0 {
				t.Errorf("pods = %v, want none", pods)
			}
			write(t, file, pod("good", ""))
			if pods := s.Read(t.Context()); len(pods) != 1 {
				t.Fatalf("pods = %v, want one", pods)
			}
			write(t, file, content)
			if pods := s.Read(t.Context()); len(pods) != 1 || !strings.HasPrefix(pods[0].Name, "good") {
				t.Errorf("pods = %v, want the last good one", pods)
			}
		})
	}
	t.Run("a name twice", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "1"), pod("x", ""))
		write(t, filepath.Join(dir, "2"), pod("x", ""))
		if pods := source(dir).Read(t.Context()); len(pods) != 1 {
			t.Errorf("pods = %v, want one", pods)
		}
	})
}

// Each change of the files is told, of a folder that did not exist and of a single file.
func TestRun(t *testing.T) {
	for name, path := range map[string]string{"folder": "pods", "file": "pod.yaml"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "pod.yaml")
			if name == "folder" {
				file = filepath.Join(dir, path, "pod.yaml")
			} else {
				write(t, file, pod("first", ""))
			}
			s := source(filepath.Join(dir, path))
			ctx, cancel := context.WithCancel(t.Context())
			told, done := make(chan struct{}, 10), make(chan error)
			go func() { done <- s.Run(ctx, func() { told <- struct{}{} }) }()
			await(t, told) // at the start
			write(t, file, pod("web", ""))
			await(t, told)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			await(t, told)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func await(t *testing.T, told <-chan struct{}) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told of a change")
	}
}
