// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const documents = "../../apiserver/openapi/files" // go run ./apiserver/openapi/generate makes them

// expected are differences between the documents that stay, by path in them. Kubernetes' are made with all alpha
// features and without enums, which its servers have on.
var expected = []struct{ path, why string }{
	{`^/info/version$`, "the version of the server"},
	{`/application~1(apply-patch\+)?cbor(-seq)?$|/(produces|consumes)/application~1(apply-patch\+)?cbor(-seq)?$`, "CBOR is an alpha feature"},
	{`/enum(/|$)`, "Kubernetes' documents are made without enums"},
	{`^/(definitions|components/schemas)/.*v[0-9]+(alpha|beta)[0-9]+\.`, "of alpha and beta versions, whose types some stable ones have fields of"},
	{`^/paths/.*v[0-9]+(alpha|beta)[0-9]+`, "of alpha and beta versions"},
	{`/paths/~1apis~1(internal\.apiserver|lifecycle)\.k8s\.io~1`, "groups without a stable version"},
	{`metrics\.(k8s\.io|pkg)|meta\.v1\.Duration$`, "resource metrics are served by Kubernetes' metrics-server, which is built in here"},
	{`^/paths/~1logs~1|^/parameters/logpath`, "files of logs are not served"},
	{`~1(\.well-known~1openid-configuration|openid~1v1~1jwks)~1$`, "paths of the token issuer are served, but described nowhere"},
	{`meta\.v1\.(DeleteOptions|WatchEvent)/x-kubernetes-group-version-kind`, "the group versions that there are"},
}

// The documents that describe the API are those of Kubernetes.
func TestOpenAPI(t *testing.T) {
	theirs := filepath.Join(kubernetesDir(t), "api/openapi-spec")
	files, err := filepath.Glob(filepath.Join(theirs, "v3/*_openapi.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	used := map[string]bool{}
	for _, path := range files {
		name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), "_openapi.json"), "__", "/")
		if regexp.MustCompile(`v[0-9]+(alpha|beta)|^logs$|^openid/|^\.well-known/|^apis/(internal|lifecycle)\.`).MatchString(name) {
			continue
		}
		compareDocuments(t, name, filepath.Join(documents, "v3", name+".json.gz"), path, used)
	}
	compareDocuments(t, "v2", filepath.Join(documents, "v2.json.gz"), filepath.Join(theirs, "swagger.json"), used)
	for _, e := range expected {
		if !used[e.path] {
			t.Errorf("there is no difference any more like %s (%s)", e.path, e.why)
		}
	}
}

func compareDocuments(t *testing.T, name, ours, theirs string, used map[string]bool) {
	t.Helper()
	var here, there any
	if err := decodeFile(ours, &here); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if err := decodeFile(theirs, &there); err != nil {
		t.Fatal(err)
	}
	var found []string
	walkDifferences("", here, there, func(path, text string) {
		for _, e := range expected {
			if regexp.MustCompile(e.path).MatchString(path) {
				used[e.path] = true
				return
			}
		}
		found = append(found, path+": "+text)
	})
	if len(found) > 0 {
		t.Errorf("%s has %d differences (Skiff, Kubernetes):\n%s", name, len(found), strings.Join(found[:min(len(found), *most)], "\n"))
	}
}

func decodeFile(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if !strings.HasSuffix(path, ".gz") {
		return json.NewDecoder(f).Decode(into)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	return json.NewDecoder(z).Decode(into)
}

// walkDifferences tells what differs, by JSON pointers. Lists of strings are sets, whose members are parts of the path.
func walkDifferences(path string, a, b any, tell func(path, text string)) {
	if x, ok := a.(map[string]any); ok {
		if y, ok := b.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(merged(x, y))) {
				at := path + "/" + strings.ReplaceAll(key, "/", "~1")
				one, here := x[key]
				other, there := y[key]
				switch {
				case !here:
					tell(at, "only Kubernetes has it")
				case !there:
					tell(at, "only Skiff has it")
				default:
					walkDifferences(at, one, other, tell)
				}
			}
			return
		}
	}
	if x, ok := a.([]any); ok {
		if y, ok := b.([]any); ok {
			if one, other := asSet(x), asSet(y); one != nil && other != nil {
				walkDifferences(path, one, other, tell)
				return
			}
			if len(x) == len(y) {
				for i := range x {
					walkDifferences(fmt.Sprintf("%s/%d", path, i), x[i], y[i], tell)
				}
				return
			}
		}
	}
	if one, other := fmt.Sprint(a), fmt.Sprint(b); withoutEnum(one) != withoutEnum(other) {
		tell(path, fmt.Sprintf("%.200s, %.200s", one, other))
	}
}

// withoutEnum is a description without the values that the generator adds.
func withoutEnum(description string) string {
	text, _, _ := strings.Cut(description, "\n\nPossible enum values:")
	return strings.TrimSpace(text)
}

func merged(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// asSet is nil for what is no list of strings.
func asSet(list []any) map[string]any {
	out := map[string]any{}
	for _, item := range list {
		s, ok := item.(string)
		if !ok {
			return nil
		}
		out[s] = true
	}
	return out
}
