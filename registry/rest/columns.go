// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
)

// Column is one column of kubectl's table.
type Column[T Object] struct {
	Name        string
	Type        string // "string" if empty
	Format      string
	Description string
	// Wide columns show with -o wide only (priority 1).
	Wide bool
	// Value returns a string, an int64 or a bool.
	Value func(obj T) any
}

// Name is the first column of nearly every kind.
func Name[T Object]() Column[T] {
	return Column[T]{
		Name: "Name", Format: "name",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
		Value:       func(obj T) any { return obj.GetName() },
	}
}

// Age is the time since an object's creation.
func Age[T Object]() Column[T] {
	return Column[T]{
		Name:        "Age",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Value:       func(obj T) any { return Since(obj.GetCreationTimestamp()) },
	}
}

// Since prints how long ago t was, as kubectl does.
func Since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// table converts objects of one kind, or lists of them, to tables.
type table[T Object] struct {
	columns     []Column[T]
	definitions []metav1.TableColumnDefinition
}

var _ genericrest.TableConvertor = table[*metav1.PartialObjectMetadata]{}

func newTable[T Object](columns []Column[T]) table[T] {
	if len(columns) == 0 {
		columns = []Column[T]{Name[T](), Age[T]()}
	}
	t := table[T]{columns: columns}
	for _, c := range columns {
		d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description}
		if d.Type == "" {
			d.Type = "string"
		}
		if c.Wide {
			d.Priority = 1
		}
		t.definitions = append(t.definitions, d)
	}
	return t
}

func (t table[T]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	var out metav1.Table
	addRow := func(o runtime.Object) error {
		obj, ok := o.(T)
		if !ok {
			return fmt.Errorf("print a table row: got %T, want %T", o, obj)
		}
		cells := make([]any, len(t.columns))
		for i, c := range t.columns {
			cells[i] = c.Value(obj)
		}
		out.Rows = append(out.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: o}})
		return nil
	}
	if m, err := meta.ListAccessor(object); err == nil {
		out.ResourceVersion = m.GetResourceVersion()
		out.SelfLink = m.GetSelfLink()
		out.Continue = m.GetContinue()
		out.RemainingItemCount = m.GetRemainingItemCount()
	}
	var err error
	if meta.IsListType(object) {
		out.Rows = make([]metav1.TableRow, 0, meta.LenList(object))
		err = meta.EachListItem(object, addRow)
	} else {
		if m, metaErr := meta.CommonAccessor(object); metaErr == nil {
			out.ResourceVersion = m.GetResourceVersion()
		}
		err = addRow(object)
	}
	if err != nil {
		return nil, err
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = t.definitions
	}
	return &out, nil
}
