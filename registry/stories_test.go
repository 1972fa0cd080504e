// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/resource"
	"github.com/skiff-k8s/skiff/registry/stories"
	"github.com/skiff-k8s/skiff/testenv"
)

// What the stories in testdata tell is what the API server does. conformance/rules has Kubernetes tell them.
func TestStories(t *testing.T) {
	files, err := stories.Read("testdata/stories")
	if err != nil || len(files) == 0 {
		t.Fatalf("read the stories: %d, %v", len(files), err)
	}
	env := testenv.Start(t, testenv.Deps(registry.Deps{Resource: resource.Deps{Namespaces: plainNamespaces{}}}))
	client := kubernetes.NewForConfigOrDie(env.ConfigFor("someone")).CoreV1().RESTClient()
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

// plainNamespaces says that every namespace is there, without labels.
type plainNamespaces struct {
	corev1client.NamespaceInterface
}

func (n plainNamespaces) Namespaces() corev1client.NamespaceInterface { return n }

func (plainNamespaces) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
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
		return answer(client.Patch(types.MergePatchType).AbsPath(path).SetHeader("Accept", "application/json").Body(body).Do(t.Context()))
	}
	got, err := answer(client.Post().AbsPath(path).SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(body).Do(t.Context()))
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
	want, have := withoutNothing(stories.Flatten(s.Stored)), stories.Flatten(stories.WithoutSystemFields(stored))
	compare(t, want, intersection(want, have, name), name)
}

func answer(r restclient.Result) ([]byte, error) {
	if err := r.Error(); err != nil {
		return nil, err
	}
	return r.Raw()
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

// The corpus has objects of every kind that are taken, and some that are refused.
func TestStoriesTellBothOutcomes(t *testing.T) {
	files, err := stories.Read("testdata/stories")
	if err != nil || len(files) == 0 {
		t.Fatalf("read the stories: %d, %v", len(files), err)
	}
	for name, f := range files {
		taken := slices.ContainsFunc(f.Stories, func(s stories.Story) bool { return s.Stored != nil })
		refused := slices.ContainsFunc(f.Stories, func(s stories.Story) bool { return len(s.Errors) > 0 })
		if !taken || !refused {
			t.Errorf("%s: taken %v, refused %v; want both", name, taken, refused)
		}
	}
}
