// SPDX-License-Identifier: Apache-2.0

package skiff

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A person with kubectl MUST see what is in testdata/kubectl: each file there is a story of commands, each after a "$",
// and of what they print. `go test ./skiff -run Kubectl -write` writes down what is printed now.
func TestKubectlPrints(t *testing.T) {
	b := anyCluster(t)
	stories, err := filepath.Glob("testdata/kubectl/*.txt")
	if err != nil || len(stories) == 0 {
		t.Fatalf("stories: %q, %v", stories, err)
	}
	for _, path := range stories {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			namespace := "skiff-story-" + name
			b.namespace(namespace)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := string(content)
			got := b.retell(want, namespace)
			if *write {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("%s", difference(want, got))
			}
		})
	}
}

// retell runs the commands of a story and writes it anew. Lines before the first command stay.
func (b *bench) retell(story, namespace string) string {
	b.t.Helper()
	manifests, err := filepath.Abs("testdata")
	if err != nil {
		b.t.Fatal(err)
	}
	var told strings.Builder
	inCommand := false
	for line := range strings.Lines(story) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			if !inCommand {
				told.WriteString(line)
			}
			continue
		}
		inCommand = true
		fmt.Fprintf(&told, "$ %s%s", command, b.shell(command, namespace, manifests))
	}
	return told.String()
}

// passing is what is another at each look, and what stands for it.
var passing = []struct {
	what *regexp.Regexp
	sign string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} \d{4} [0-9:]{8} [+-]\d{4}`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d [0-9:]{8} [+-]\d{4} UTC`), "TIME"},
	{regexp.MustCompile(`\b(\d+m)?\d+s\b`), "AGE"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`("?resourceVersion"?: )"\d+"`), "${1}VERSION"},
	{regexp.MustCompile(`\b10(\.\d+){3}\b`), "IP"},
	{regexp.MustCompile(`\b3[0-2]\d{3}\b`), "NODEPORT"},
	{regexp.MustCompile(`[ ]+(\n)`), "$1"},
	{regexp.MustCompile(` {2,}`), "  "}, // columns are as wide as what passes
}

func (b *bench) shell(command, namespace, manifests string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	script := fmt.Sprintf("kubectl() { '%s' kubectl --kubeconfig='%s' --namespace=%s \"$@\"; }\nMANIFESTS='%s'\n%s", b.binary, b.cluster.Kubeconfig(), namespace, manifests, command)
	out, err := b.cluster.Command(ctx, "sh", "-c", script).CombinedOutput()
	said := strings.ReplaceAll(string(out), namespace, "NAMESPACE")
	said = strings.ReplaceAll(said, manifests, "MANIFESTS")
	if said != "" && !strings.HasSuffix(said, "\n") {
		said += "\n"
	}
	if err != nil {
		said += fmt.Sprintf("(%v)\n", err)
	}
	for _, p := range passing {
		said = p.what.ReplaceAllString(said, p.sign)
	}
	return said
}

// difference is the lines from the first that differs.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			end := i + 12
			return fmt.Sprintf("line %d is\n%s\nwant\n%s", i+1, strings.Join(g[i:min(end, len(g))], "\n"), strings.Join(w[i:min(end, len(w))], "\n"))
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
