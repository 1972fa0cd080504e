// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/registry/stories"
	"github.com/skiff-k8s/skiff/testenv"
)

// What the stories in testdata tell is what the API server does. conformance/rules has Kubernetes tell them.
func TestStories(t *testing.T) {
	files, err := stories.Read("testdata/stories")
	if err != nil || len(files) == 0 {
		t.Fatalf("read the stories: %d, %v", len(files), err)
	}
	env := testenv.Start(t)
	client := env.Client.CoreV1().RESTClient()
	n := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		resources, err := env.Client.Discovery().ServerResourcesForGroupVersion(f.APIVersion)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Kind == f.Kind && !strings.Contains(r.Name, "/") })
		if i < 0 {
			t.Errorf("%s %s is not served", f.APIVersion, f.Kind)
			continue
		}
		for j := range f.Stories {
			n++
			s := &f.Stories[j]
			t.Run(name+"/"+s.Name, func(t *testing.T) {
				play(t, client, resources.APIResources[i].Name, f, s, fmt.Sprintf("it%d", n))
			})
		}
	}
}

// play plays a story with an object that has a name of its own, unless the story names it.
func play(t *testing.T, client restclient.Interface, resource string, f *stories.File, s *stories.Story, name string) {
	sent := f.Sent(s)
	meta := sent["metadata"].(stories.Object)
	if meta["name"] == "it" {
		meta["name"] = name
	}
	path := "/apis/" + f.APIVersion
	if !strings.Contains(f.APIVersion, "/") {
		path = "/api/" + f.APIVersion
	}
	if f.Namespaced {
		path += "/namespaces/default"
	}
	path += "/" + resource
	object := fmt.Sprintf("%s/%s", path, meta["name"])
	body, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	patch := func(path string, patch stories.Object) ([]byte, error) {
		body, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		return client.Patch(types.MergePatchType).AbsPath(path).Body(body).DoRaw(t.Context())
	}
	got, err := client.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Raw()
	if err == nil {
		defer func() {
			_, _ = patch(object, stories.Object{"metadata": stories.Object{"finalizers": nil}})
			_, _ = client.Delete().AbsPath(object).Param("gracePeriodSeconds", "0").DoRaw(t.Context())
		}()
	}
	if err == nil && s.Status != nil {
		got, err = patch(object+"/status", s.Status)
	}
	if err == nil && s.Update != nil {
		got, err = patch(object, s.Update)
	}
	if err != nil {
		compare(t, s.Errors, stories.Lines(err), name)
		return
	}
	if s.Stored == nil {
		t.Fatalf("stored, want errors:\n%s", strings.Join(s.Errors, "\n"))
	}
	stored := stories.Object{}
	if err := json.Unmarshal(got, &stored); err != nil {
		t.Fatal(err)
	}
	want, have := stories.Flatten(s.Stored), stories.Flatten(stories.WithoutSystemFields(stored))
	compare(t, want, intersection(want, have, name), name)
}

// intersection is what of want there is: the server may have added an address, or the like.
func intersection(want, have []string, name string) []string {
	var out []string
	for _, line := range have {
		if line = strings.ReplaceAll(line, name, "it"); slices.Contains(want, line) {
			out = append(out, line)
		}
	}
	return out
}

func compare(t *testing.T, want, got []string, name string) {
	t.Helper()
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], name, "it")
	}
	if !slices.Equal(want, got) {
		t.Errorf("the API server says\n\t%s\nand the story\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
