// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// Of every kind that both know, the schema says what client-go's does: the same fields, lists merged by the
// same keys.
func TestSchemaIsClientGos(t *testing.T) {
	parser, err := readSchema()
	if err != nil {
		t.Fatal(err)
	}
	theirs := applyconfigurations.NewTypeConverter(scheme.Scheme)
	ours := TypeConverter(scheme.Scheme)
	compared := 0
	for gvk := range scheme.Scheme.AllKnownTypes() {
		name, err := scheme.Scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil || !parser.Type(name).IsValid() || strings.HasSuffix(gvk.Kind, "List") || gvk.Version == "__internal" {
			continue
		}
		object, err := scheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		object.GetObjectKind().SetGroupVersionKind(gvk)
		want, err := theirs.ObjectToTyped(object)
		if err != nil {
			continue // of a question that is not stored
		}
		got, err := ours.ObjectToTyped(object)
		if err != nil {
			t.Errorf("%v: %v", gvk, err)
			continue
		}
		c := comparison{want: want.Schema(), got: got.Schema(), seen: map[string]bool{}}
		if diff := c.refs(want.TypeRef(), got.TypeRef()); diff != "" {
			t.Errorf("%v%s", gvk, diff)
		}
		compared++
	}
	if compared < 50 {
		t.Errorf("only %d kinds were compared", compared)
	}
}

// comparison walks two schemas.
type comparison struct {
	want, got *smdschema.Schema
	seen      map[string]bool // named types, which may contain themselves
}

func (c comparison) refs(want, got smdschema.TypeRef) string {
	if want.NamedType != nil && got.NamedType != nil {
		if strings.HasSuffix(*got.NamedType, ".RawExtension") {
			return "" // a server knows that much of it; client-go does not look inside
		}
		if *want.NamedType != *got.NamedType {
			return fmt.Sprintf(" is a %s, want %s", *got.NamedType, *want.NamedType)
		}
		if c.seen[*want.NamedType] {
			return ""
		}
		c.seen[*want.NamedType] = true
	}
	w, ok1 := c.want.Resolve(want)
	g, ok2 := c.got.Resolve(got)
	if !ok1 || !ok2 {
		return fmt.Sprintf(" cannot be resolved: %v, want %v", ok2, ok1)
	}
	switch {
	case !reflect.DeepEqual(w.Scalar, g.Scalar) || (w.List == nil) != (g.List == nil) || (w.Map == nil) != (g.Map == nil):
		return fmt.Sprintf(" is %+v, want %+v", g, w)
	case w.List != nil:
		if w.List.ElementRelationship != g.List.ElementRelationship || !reflect.DeepEqual(w.List.Keys, g.List.Keys) {
			return fmt.Sprintf(" is a list %s by %v, want %s by %v", g.List.ElementRelationship, g.List.Keys, w.List.ElementRelationship, w.List.Keys)
		}
		return prefix("[]", c.refs(w.List.ElementType, g.List.ElementType))
	case w.Map != nil:
		return c.maps(w.Map, g.Map)
	}
	return ""
}

func (c comparison) maps(want, got *smdschema.Map) string {
	if want.ElementRelationship != got.ElementRelationship || len(want.Fields) != len(got.Fields) {
		return fmt.Sprintf(" is a map %q of %d fields, want %q of %d", got.ElementRelationship, len(got.Fields), want.ElementRelationship, len(want.Fields))
	}
	for _, field := range want.Fields {
		other, ok := got.FindField(field.Name)
		if !ok {
			return "." + field.Name + " is missing"
		}
		if diff := c.refs(field.Type, other.Type); diff != "" {
			return prefix("."+field.Name, diff)
		}
	}
	if len(want.Fields) == 0 {
		return prefix("[*]", c.refs(want.ElementType, got.ElementType))
	}
	return ""
}

func prefix(path, diff string) string {
	if diff == "" {
		return ""
	}
	return path + diff
}

// What is a key of a list has its default, by which an item without it is found.
func TestSchemaKeepsDefaultsOfKeys(t *testing.T) {
	parser, err := readSchema()
	if err != nil {
		t.Fatal(err)
	}
	name, _ := scheme.Scheme.ToOpenAPIDefinitionName(schema.GroupVersionKind{Version: "v1", Kind: "Service"})
	port, ok := parser.Schema.FindNamedType(strings.Replace(name, "Service", "ServicePort", 1))
	if !ok {
		t.Fatal("the schema has no ServicePort")
	}
	if protocol, ok := port.Map.FindField("protocol"); !ok || protocol.Default != "TCP" {
		t.Errorf("protocol of a ServicePort: %+v, want the default TCP", protocol)
	}
}

func BenchmarkReadSchema(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readSchema(); err != nil {
			b.Fatal(err)
		}
	}
}
