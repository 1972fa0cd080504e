// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Objects are selected by the same fields, which mean the same.
func TestSelectableFields(t *testing.T) {
	ours, theirs, files := load(t)
	for _, f := range files {
		gvk := schema.FromAPIVersionAndKind(f.APIVersion, f.Kind)
		obj, err := theirs.scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		asked := map[string]bool{}
		for _, extra := range []string{"metadata.nothing", "spec.host", "source", "reportingComponent", "involvedObject.kind", "involvedObject.uid", "regarding.kind"} {
			asked[extra] = true
		}
		collectFields(reflect.TypeOf(obj).Elem(), "", 5, asked)
		for label := range asked {
			here, there := converted(ours, gvk, label), converted(theirs, gvk, label)
			if label == "metadata.namespace" && (gvk.Kind == "PodCertificateRequest" || gvk.Kind == "PersistentVolume") {
				continue // Kubernetes forgets it there, and knows it of what has none
			}
			if here != there {
				t.Errorf("%s by %s: %s, want %s", gvk, label, here, there)
			}
		}
	}
}

func converted(a *api, gvk schema.GroupVersionKind, label string) string {
	name, value, err := a.scheme.ConvertFieldLabel(gvk, label, "x")
	if err != nil {
		return "refused"
	}
	return fmt.Sprintf("%s=%s", name, value)
}

// collectFields finds the paths of all fields that are no lists or maps.
func collectFields(typ reflect.Type, path string, depth int, found map[string]bool) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || depth == 0 {
		if typ.Kind() != reflect.Slice && typ.Kind() != reflect.Map {
			found[path] = true
		}
		return
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := strings.TrimPrefix(path+"."+name, ".")
		if name == "" {
			at = path
		}
		collectFields(f.Type, at, depth-1, found)
	}
}
