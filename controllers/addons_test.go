// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers"
)

const addOn = `# Two documents and a list.
apiVersion: v1
kind: ConfigMap
metadata: {name: one, namespace: extra}
data: {a: "1"}
---
apiVersion: v1
kind: Namespace
metadata: {name: extra}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: two}
`

// addOns is a cluster whose add-ons are in dir.
func addOns(t *testing.T, dir string, disabled ...string) *cluster {
	t.Helper()
	return newClusterWith(t, func(deps *controllers.Deps) {
		deps.AddOns = &controllers.AddOns{Dir: dir, Server: "here", Disabled: disabled, Config: deps.ConfigFor("admin")}
	})
}

func put(t *testing.T, dir, file, content string) {
	t.Helper()
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantConfigMap waits until a ConfigMap has a value for a, "" for any, or is gone if a is "-".
func (c *cluster) wantConfigMap(namespace, name, a string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s/%s has a %q", namespace, name, a), func(ctx context.Context) error {
		m, err := c.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case a == "-" && apierrors.IsNotFound(err):
			return nil
		case a == "-" && err == nil:
			return errors.New("it is there")
		case err == nil && m.Data["a"] != a:
			return fmt.Errorf("data is %v", m.Data)
		}
		return err
	})
}

func (c *cluster) wantAddOnEvent(reason, text string) {
	c.t.Helper()
	c.eventually("event "+reason, func(ctx context.Context) error {
		events, err := c.CoreV1().Events(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("none in %d events", len(events.Items))
	})
}

// A manifest is applied at the start and when it changes; what it says no more is deleted.
func TestAddOns(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "Extra.yaml", addOn)
	put(t, dir, "unwanted.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: unwanted}}")
	put(t, dir, "notes.txt", "not a manifest")
	c := addOns(t, dir, "unwanted")
	c.namespace("default")
	c.namespace("kube-system")
	c.wantConfigMap("extra", "one", "1")
	c.wantConfigMap("default", "two", "")
	c.wantAddOnEvent("AppliedManifest", "Extra.yaml")

	put(t, dir, "Extra.yaml", strings.Replace(addOn, `a: "1"`, `a: "2"`, 1))
	c.wantConfigMap("extra", "one", "2")

	first, _, _ := strings.Cut(addOn, "---\napiVersion: v1\nkind: List")
	put(t, dir, "Extra.yaml", first)
	c.wantConfigMap("default", "two", "-")

	put(t, dir, "Extra.yaml", "{")
	c.wantAddOnEvent("ParseManifestFailed", "Extra.yaml")
	c.wantConfigMap("extra", "one", "1") // it stays as it was

	put(t, dir, "below/more.json", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}}`)
	c.wantConfigMap("default", "more", "")
	if err := os.RemoveAll(filepath.Join(dir, "below")); err != nil {
		t.Fatal(err)
	}
	c.wantConfigMap("default", "more", "-")

	if err := os.Remove(filepath.Join(dir, "Extra.yaml")); err != nil {
		t.Fatal(err)
	}
	c.wantConfigMap("extra", "one", "-")
	c.wantConfigMap("kube-system", "addon-extra", "-")
	if _, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "unwanted", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what is disabled is there: %v", err)
	}
}

const widgetDefinition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {kind: Widget, plural: widgets}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// An object that cannot be applied does not keep others from being applied, and is tried again.
func TestAddOnWithErrors(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "half.yaml", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: late}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}
`)
	c := addOns(t, dir)
	c.namespace("default")
	c.namespace("kube-system")
	c.wantConfigMap("default", "good", "")
	c.wantAddOnEvent("ApplyManifestFailed", `apply Widget late: no matches for kind "Widget"`)
	put(t, dir, "definition.yaml", widgetDefinition)
	c.wantAddOnEvent("AppliedManifest", "half.yaml")
}
