// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/registry/stories"
)

const discovery = "../../registry/testdata/discovery.txt"

// What discovery tells of Kubernetes' GA versions is in a file, against which a test of the registry holds ours.
func TestDiscovery(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(kubernetesDir(t), "api/discovery", "api*__v*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no discovery documents: %v", err)
	}
	var lines []string
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var list metav1.APIResourceList
		if err := json.Unmarshal(content, &list); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(list.GroupVersion[strings.LastIndex(list.GroupVersion, "/")+1:], "ab") { // alpha and beta
			continue
		}
		lines = append(lines, stories.DiscoveryLines(&list)...)
	}
	slices.Sort(lines)
	want := strings.Join(lines, "\n") + "\n"
	if *write {
		if err := os.WriteFile(discovery, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(discovery)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what Kubernetes has: run this with -write (%v)", discovery, err)
	}
}

// kubernetesDir is where the source of Kubernetes is, with the documents that it brings along.
func kubernetesDir(t *testing.T) string {
	t.Helper()
	return moduleDir(t, "k8s.io/kubernetes")
}

// moduleDir is where the source of a module is.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(dir))
}
