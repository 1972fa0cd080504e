// SPDX-License-Identifier: Apache-2.0

package stories

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Mutator makes changed objects from an object, one field at a time: it empties fields, adds what is missing, repeats
// and drops items, and puts in values that are wrong here or elsewhere.
type Mutator struct {
	Rand *rand.Rand
	// Constants are the values that the API names for a type of strings, by package and type.
	Constants map[string][]string
}

// strings that are a good value of one field or another, and bad ones of all others.
var plain = []string{
	"", "abc", "a.example.com", "example.com/x", "UPPER", "white space", "-", "a_b", "/path", "../up", "10.0.0.1", "fd00::1", "010.0.0.1", "10.0.0.0/8", "5%", "443",
	"*.example.com", "a/b/c", "https://example.com/x", strings.Repeat("long", 80), strings.Repeat("a", 64), "ünïcode", "$(VAR)", "a:b",
}

var numbers = []int64{-1, 0, 1, 2, 100, 65536, 1<<31 - 1}

var quantities = []string{"-1", "0", "1", "1.5", "1m", "2Gi", "1e20"}

// Walk changes v, which is part of the object, in all ways, and what is in it. try is called with each change in
// place; if it returns true the change stays and Walk returns true.
func (m *Mutator) Walk(v reflect.Value, path string, try func(what string) bool) bool {
	for _, alternative := range m.alternatives(v) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		v.Set(alternative)
		if try(fmt.Sprintf("%s = %s", path, show(alternative))) {
			return true
		}
		v.Set(old)
	}
	if opaque(v.Type()) {
		return false
	}
	switch v.Kind() {
	case reflect.Pointer:
		return !v.IsNil() && m.Walk(v.Elem(), path, try)
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || skipped(f.Name) {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if m.Walk(v.Field(i), strings.TrimSuffix(path+"."+name, "."), try) {
				return true
			}
		}
	case reflect.Slice:
		for i := range min(v.Len(), 4) {
			if m.Walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i), try) {
				return true
			}
		}
	case reflect.Map:
		return m.walkMap(v, path, try)
	}
	return false
}

func (m *Mutator) walkMap(v reflect.Value, path string, try func(what string) bool) bool {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys[:min(len(keys), 4)] {
		old := v.MapIndex(key)
		value := reflect.New(old.Type()).Elem()
		value.Set(old)
		if m.Walk(value, fmt.Sprintf("%s[%s]", path, key), func(what string) bool {
			v.SetMapIndex(key, value)
			return try(what)
		}) {
			return true
		}
		v.SetMapIndex(key, old)
	}
	return false
}

// skipped are fields that the server sets.
func skipped(name string) bool {
	return slices.Contains([]string{"TypeMeta", "ManagedFields", "UID", "ResourceVersion", "CreationTimestamp", "SelfLink"}, name)
}

var someday = time.Date(2026, 1, 2, 4, 4, 5, 0, time.UTC)

// opaque types are values though they have fields.
func opaque(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](), reflect.TypeFor[intstr.IntOrString](),
		reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[[]byte]():
		return true
	}
	return false
}

// alternatives are what v could be instead.
func (m *Mutator) alternatives(v reflect.Value) []reflect.Value {
	t := v.Type()
	var out []reflect.Value
	add := func(values ...any) {
		for _, value := range values {
			out = append(out, reflect.ValueOf(value).Convert(t))
		}
	}
	switch t {
	case reflect.TypeFor[resource.Quantity]():
		for _, q := range quantities {
			add(resource.MustParse(q))
		}
		return out
	case reflect.TypeFor[intstr.IntOrString]():
		add(intstr.FromInt32(-1), intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromInt32(70000), intstr.FromString("50%"), intstr.FromString("150%"), intstr.FromString("x"), intstr.FromString(""))
		return out
	case reflect.TypeFor[metav1.Time]():
		add(metav1.Time{}, metav1.NewTime(someday))
		return out
	case reflect.TypeFor[metav1.MicroTime]():
		add(metav1.MicroTime{}, metav1.NewMicroTime(someday))
		return out
	case reflect.TypeFor[runtime.RawExtension]():
		add(runtime.RawExtension{}, runtime.RawExtension{Raw: []byte(`{"a":"b"}`)}, runtime.RawExtension{Raw: []byte(`[1]`)})
		return out
	case reflect.TypeFor[[]byte]():
		add([]byte(nil), []byte("x"))
		return out
	}
	switch v.Kind() {
	case reflect.String:
		for _, s := range m.Constants[t.PkgPath()+"."+t.Name()] {
			add(s)
		}
		add("")
		for _, i := range m.Rand.Perm(len(plain))[:7] {
			add(plain[i])
		}
		if s := v.String(); s != "" {
			add(s+"x", strings.ToUpper(s))
		}
	case reflect.Int32, reflect.Int64, reflect.Int:
		for _, n := range numbers {
			add(n)
		}
		add(v.Int()+1, v.Int()-1)
	case reflect.Bool:
		add(!v.Bool())
	case reflect.Pointer:
		if !v.IsNil() {
			return []reflect.Value{reflect.Zero(t)}
		}
		out = append(out, reflect.New(t.Elem()))
		for range 2 {
			out = append(out, m.random(t, 3))
		}
	case reflect.Slice:
		out = append(out, reflect.Zero(t), reflect.Append(clone(v), reflect.Zero(t.Elem())), reflect.Append(clone(v), m.random(t.Elem(), 3)))
		if v.Len() == 0 {
			for range 2 {
				out = append(out, reflect.Append(clone(v), m.random(t.Elem(), 3)))
			}
			break
		}
		out = append(out, clone(v.Slice(1, v.Len())), reflect.Append(clone(v), v.Index(0)))
	case reflect.Map:
		for _, key := range []string{"", "bad key!", "example.com/x", "y", plain[m.Rand.IntN(len(plain))]} {
			out = append(out, with(v, reflect.ValueOf(key).Convert(t.Key()), m.random(t.Elem(), 2)))
		}
		if v.Len() > 0 {
			out = append(out, reflect.Zero(t))
		}
	case reflect.Struct:
		if v.IsZero() {
			out = append(out, m.random(t, 3))
		}
	}
	return out
}

// random makes a value of a type, in depth at most so deep.
func (m *Mutator) random(t reflect.Type, depth int) reflect.Value {
	v := reflect.New(t).Elem()
	if opaque(t) {
		alternatives := m.alternatives(v)
		return alternatives[m.Rand.IntN(len(alternatives))]
	}
	switch t.Kind() {
	case reflect.String:
		values := m.Constants[t.PkgPath()+"."+t.Name()]
		if len(values) == 0 {
			values = plain[1:13]
		}
		v.SetString(values[m.Rand.IntN(len(values))])
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(int64(m.Rand.IntN(20)) - 1)
	case reflect.Bool:
		v.SetBool(m.Rand.IntN(2) == 0)
	case reflect.Pointer:
		if depth > 0 {
			v.Set(reflect.New(t.Elem()))
			v.Elem().Set(m.random(t.Elem(), depth-1))
		}
	case reflect.Slice:
		if depth > 0 && m.Rand.IntN(3) > 0 {
			v.Set(reflect.Append(v, m.random(t.Elem(), depth-1)))
		}
	case reflect.Map:
		if depth > 0 && m.Rand.IntN(3) > 0 {
			v.Set(with(v, m.random(t.Key(), depth), m.random(t.Elem(), depth-1)))
		}
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if f.IsExported() && !skipped(f.Name) && depth > 0 && m.Rand.IntN(2) == 0 {
				v.Field(i).Set(m.random(f.Type, depth-1))
			}
		}
	}
	return v
}

func clone(v reflect.Value) reflect.Value {
	return reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, v.Len()+1), v)
}

func with(v, key, value reflect.Value) reflect.Value {
	out := reflect.MakeMap(v.Type())
	for _, k := range v.MapKeys() {
		out.SetMapIndex(k, v.MapIndex(k))
	}
	out.SetMapIndex(key, value)
	return out
}

func show(v reflect.Value) string {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		return "&" + show(v.Elem())
	}
	text := fmt.Sprintf("%+v", v.Interface())
	return text[:min(len(text), 160)]
}

// NamedStrings are the constants of the string types in k8s.io/api and apimachinery.
func NamedStrings() (map[string][]string, error) {
	out := map[string][]string{}
	list, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Dir}}", "k8s.io/api/...", "k8s.io/apimachinery/pkg/apis/meta/v1").Output()
	if err != nil {
		return nil, fmt.Errorf("list the API's packages: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		pkg, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, path := range files {
			if strings.HasSuffix(path, ".pb.go") || strings.Contains(path, "zz_generated") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			for _, d := range f.Decls {
				addConstants(out, pkg, d)
			}
		}
	}
	return out, nil
}

func addConstants(out map[string][]string, pkg string, d ast.Decl) {
	g, ok := d.(*ast.GenDecl)
	if !ok || g.Tok != token.CONST {
		return
	}
	for _, s := range g.Specs {
		spec := s.(*ast.ValueSpec)
		t, ok := spec.Type.(*ast.Ident)
		if !ok || len(spec.Values) != 1 {
			continue
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			continue
		}
		value, err := strconv.Unquote(literal.Value)
		if key := pkg + "." + t.Name; err == nil && len(out[key]) < 12 {
			out[key] = append(out[key], value)
		}
	}
}
