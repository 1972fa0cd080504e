// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"reflect"
	"slices"
	"testing"
	"time"

	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/registry"
)

func TestDeeper(t *testing.T) {
	nested := func(n int) (out []byte) {
		for range n {
			out = append([]byte{0x0a, byte(len(out))}, out...)
		}
		return out
	}
	for name, c := range map[string]struct {
		message []byte
		limit   int
		want    bool
	}{
		"nothing":                   {nil, 0, false},
		"as deep as it may be":      {nested(11), 10, false},
		"deeper":                    {nested(12), 10, true},
		"deeper before it is wrong": {append(nested(12), 0xff), 10, true},
		"a number":                  {[]byte{0x08, 0x96, 0x01}, 0, false},
		"a text":                    {append([]byte{0x0a, 11}, "hello world"...), 3, false},
		"cut off":                   {nested(12)[:5], 10, false},
	} {
		if got := deeper(c.message, c.limit); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The types that contain themselves, for which decoders have no limit, are those that refuseDeep knows.
func TestTypesThatContainThemselves(t *testing.T) {
	scheme, err := registry.NewScheme(registry.All(registry.Deps{}))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, s := range []*runtime.Scheme{scheme, apiextensionsserver.Scheme} {
		for gvk, typ := range s.AllKnownTypes() {
			if gvk.Version != runtime.APIVersionInternal {
				findCycles(typ, nil, found)
			}
		}
	}
	if len(found) != 1 || !found["JSONSchemaProps"] {
		t.Errorf("found %v", found)
	}
}

func findCycles(typ reflect.Type, above []reflect.Type, found map[string]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		findCycles(typ.Elem(), above, found)
	case reflect.Struct:
		if typ == reflect.TypeFor[time.Time]() {
			return
		}
		if slices.Contains(above, typ) {
			found[typ.Name()] = true
			return
		}
		for i := range typ.NumField() {
			findCycles(typ.Field(i).Type, append(above[:len(above):len(above)], typ), found)
		}
	}
}
