// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/rest"
	"github.com/skiff-k8s/skiff/registry/stories"
)

var rules = sync.OnceValues(func() (*stories.Rules, error) { return stories.NewRules(registry.Deps{}) })

// seeds adds every object that a story creates.
func seeds(tb testing.TB, add func(f *stories.File, content []byte)) {
	tb.Helper()
	files, err := stories.Read("testdata/stories")
	if err != nil || len(files) == 0 {
		tb.Fatalf("read the stories: %d, %v", len(files), err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for i := range files[name].Stories {
			content, err := json.Marshal(files[name].Sent(&files[name].Stories[i]))
			if err != nil {
				tb.Fatal(err)
			}
			add(files[name], content)
		}
	}
}

// FuzzObjects: whatever is sent is stored or refused, and what is stored comes back as it was.
func FuzzObjects(f *testing.F) {
	seeds(f, func(_ *stories.File, content []byte) { f.Add(content) })
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := rules()
		if err != nil {
			t.Fatal(err)
		}
		if obj := create(t, r, content); obj != nil {
			comesBack(t, r, obj)
		}
	})
}

// FuzzPatches: the same of changes, by a merge patch and by a strategic one.
func FuzzPatches(f *testing.F) {
	seeds(f, func(_ *stories.File, content []byte) {
		f.Add(content, []byte(`{"metadata":{"labels":{"a":"b"}},"spec":null}`))
		f.Add(content, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"}]}},"ports":[{"port":1}],"x":{}}}`))
	})
	f.Fuzz(func(t *testing.T, content, patch []byte) {
		r, err := rules()
		if err != nil {
			t.Fatal(err)
		}
		obj := create(t, r, content)
		if obj == nil {
			return
		}
		stored, err := json.Marshal(versioned(t, r, obj))
		if err != nil {
			t.Fatal(err)
		}
		changed := [][]byte{}
		var merge stories.Object
		if json.Unmarshal(patch, &merge) == nil {
			if c, err := json.Marshal(stories.Merge(asMap(t, stored), merge)); err == nil {
				changed = append(changed, c)
			}
		}
		if c, err := strategicpatch.StrategicMergePatch(stored, patch, versioned(t, r, obj)); err == nil {
			changed = append(changed, c)
		}
		for _, c := range changed {
			update(t, r, c, obj)
		}
	})
}

// Objects like those of the stories come back through protobuf as they were, and none makes the rules panic.
func TestChangedObjects(t *testing.T) {
	r, err := rules()
	if err != nil {
		t.Fatal(err)
	}
	constants, err := stories.NamedStrings()
	if err != nil {
		t.Fatal(err)
	}
	mutator := &stories.Mutator{Rand: rand.New(rand.NewPCG(1, 2)), Constants: constants}
	seeds(t, func(_ *stories.File, content []byte) {
		if t.Failed() {
			return
		}
		obj := decode(r, content)
		if obj == nil {
			t.Fatalf("cannot decode %s", content)
		}
		mutator.Walk(reflect.ValueOf(obj).Elem(), "", func(what string) bool {
			if mutator.Rand.IntN(8) > 0 { // the fuzz targets try them all
				return false
			}
			changed, err := json.Marshal(obj)
			if err != nil {
				return false // of a kind that JSON does not have
			}
			if stored := create(t, r, changed); stored != nil {
				comesBack(t, r, stored)
				update(t, r, content, stored)
			}
			if t.Failed() {
				t.Logf("of %s: %s", what, changed)
			}
			return t.Failed()
		})
	})
}

// decode is nil for what is no object of a kind that has rules.
func decode(r *stories.Rules, content []byte) runtime.Object {
	serializer := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, r.Scheme, r.Scheme, kjson.SerializerOptions{})
	obj, gvk, err := serializer.Decode(content, nil, nil)
	if err != nil || r.Kinds[gvk.GroupKind()] == nil {
		return nil
	}
	obj.GetObjectKind().SetGroupVersionKind(*gvk)
	return obj
}

// hub is the object that the rules work on, with defaults.
func hub(r *stories.Rules, obj runtime.Object) (runtime.Object, error) {
	obj = obj.DeepCopyObject()
	r.Scheme.Default(obj)
	gvk := obj.GetObjectKind().GroupVersionKind()
	return rest.Convertor{Scheme: r.Scheme}.ConvertToVersion(obj, schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal})
}

func contextFor(obj runtime.Object) context.Context {
	gvk := obj.GetObjectKind().GroupVersionKind()
	ctx := request.WithNamespace(context.Background(), obj.(metav1.Object).GetNamespace())
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "someone"})
	return request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, APIGroup: gvk.Group, APIVersion: gvk.Version})
}

// create is the stored object, nil if it is refused.
func create(t *testing.T, r *stories.Rules, content []byte) runtime.Object {
	t.Helper()
	sent := decode(r, content)
	if sent == nil {
		return nil
	}
	ctx, strategy := contextFor(sent), r.Kinds[sent.GetObjectKind().GroupVersionKind().GroupKind()].Store.CreateStrategy
	obj, err := hub(r, sent)
	if err != nil {
		return nil
	}
	meta := obj.(metav1.Object)
	meta.SetUID("3d2f6c1e-8d54-4c02-9f0a-6f0c4a3b2d1e")
	meta.SetCreationTimestamp(metav1.NewTime(time.Unix(1_700_000_000, 0)))
	if genericrest.BeforeCreate(strategy, ctx, obj) != nil {
		return nil
	}
	return obj
}

func update(t *testing.T, r *stories.Rules, content []byte, old runtime.Object) {
	t.Helper()
	sent := decode(r, content)
	if sent == nil {
		return
	}
	obj, err := hub(r, sent)
	if err != nil || reflect.TypeOf(obj) != reflect.TypeOf(old) {
		return
	}
	built := r.Kinds[sent.GetObjectKind().GroupVersionKind().GroupKind()]
	_ = genericrest.BeforeUpdate(built.Store.UpdateStrategy, contextFor(sent), obj.DeepCopyObject(), old.DeepCopyObject())
	if built.Status != nil {
		_ = genericrest.BeforeUpdate(built.Status.UpdateStrategy, contextFor(sent), obj.DeepCopyObject(), old.DeepCopyObject())
	}
}

// versioned is a stored object as clients see it.
func versioned(t *testing.T, r *stories.Rules, obj runtime.Object) runtime.Object {
	t.Helper()
	gvks, _, err := r.Scheme.ObjectKinds(obj)
	i := slices.IndexFunc(gvks, func(gvk schema.GroupVersionKind) bool { return gvk.Version != runtime.APIVersionInternal })
	if err != nil || i < 0 {
		t.Fatalf("versions of %T: %v, %v", obj, gvks, err)
	}
	out, err := rest.Convertor{Scheme: r.Scheme}.ConvertToVersion(obj.DeepCopyObject(), gvks[i].GroupVersion())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// comesBack stores an object as etcd has it and reads it again.
func comesBack(t *testing.T, r *stories.Rules, stored runtime.Object) {
	t.Helper()
	obj := versioned(t, r, stored)
	r.Scheme.Default(obj)
	before, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	serializer := protobuf.NewSerializer(r.Scheme, r.Scheme)
	var wire bytes.Buffer
	if err := serializer.Encode(obj, &wire); err != nil {
		t.Fatalf("encode %s: %v", before, err)
	}
	back, _, err := serializer.Decode(wire.Bytes(), nil, nil)
	if err != nil {
		t.Fatalf("decode %s: %v", before, err)
	}
	r.Scheme.Default(back) // as the storage does
	back.GetObjectKind().SetGroupVersionKind(obj.GetObjectKind().GroupVersionKind())
	after, err := json.Marshal(back)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := stories.Flatten(asMap(t, before)), stories.Flatten(asMap(t, after)); !slices.Equal(withoutNothing(a), withoutNothing(b)) {
		t.Errorf("stored\n%s\nand read\n%s", before, after)
	}
}

func asMap(t *testing.T, content []byte) stories.Object {
	t.Helper()
	out := stories.Object{}
	if err := json.Unmarshal(content, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// withoutNothing leaves out empty lists, objects and strings: protobuf does not know them from none.
func withoutNothing(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasSuffix(line, " = []") || strings.HasSuffix(line, " = {}") || strings.HasSuffix(line, " = <nil>") || strings.HasSuffix(line, " = ")
	})
}
