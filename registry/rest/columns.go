// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// NameAndDate are the columns of kinds that upstream has no printer for.
func NameAndDate[T Object]() []Column[T] {
	return []Column[T]{Name[T](), {
		Name: "Created At", Type: "date",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Value:       func(obj T) any { return obj.GetCreationTimestamp().UTC().Format(time.RFC3339) },
	}}
}

// Text is a column of strings.
func Text[T Object](name, description string, value func(obj T) string) Column[T] {
	return Column[T]{Name: name, Description: description, Value: func(obj T) any { return value(obj) }}
}

// Number is a column of integers.
func Number[T Object, N int | int32 | int64](name, description string, value func(obj T) N) Column[T] {
	return Column[T]{Name: name, Type: "integer", Description: description, Value: func(obj T) any { return int64(value(obj)) }}
}

// Bool is a column of true and false.
func Bool[T Object](name, description string, value func(obj T) bool) Column[T] {
	return Column[T]{Name: name, Type: "boolean", Description: description, Value: func(obj T) any { return value(obj) }}
}

// OnWide shows the column with -o wide only.
func (c Column[T]) OnWide() Column[T] {
	c.Wide = true
	return c
}

// ContainerNames and ContainerImages are the columns by which workloads show their pod template.
func ContainerNames[T Object](containers func(obj T) []corev1.Container) Column[T] {
	return Text("Containers", "Names of each container in the template.", func(obj T) string {
		return joined(containers(obj), func(c corev1.Container) string { return c.Name })
	})
}

// ContainerImages see ContainerNames.
func ContainerImages[T Object](containers func(obj T) []corev1.Container) Column[T] {
	return Text("Images", "Images referenced by each container in the template.", func(obj T) string {
		return joined(containers(obj), func(c corev1.Container) string { return c.Image })
	})
}

func joined(containers []corev1.Container, text func(corev1.Container) string) string {
	out := make([]string, len(containers))
	for i, c := range containers {
		out[i] = text(c)
	}
	return strings.Join(out, ",")
}

// FirstFew lists up to most items and says how many more there are of total.
func FirstFew(items []string, most, total int) string {
	out := strings.Join(items[:min(len(items), most)], ",")
	if total > most {
		out += fmt.Sprintf(" + %d more...", total-most)
	}
	return out
}

// Or is s, or instead if s is empty.
func Or[S ~string](s S, instead string) string {
	if s == "" {
		return instead
	}
	return string(s)
}

// Doc is what the API's documentation says about a field of a type.
func Doc(of interface{ SwaggerDoc() map[string]string }, field string) string {
	return of.SwaggerDoc()[field]
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
	listName    func(all []T) func(obj T) string       // nil: names are the same in lists
	conditions  func(obj T) []metav1.TableRowCondition // nil: rows have none
}

var _ genericrest.TableConvertor = table[*metav1.PartialObjectMetadata]{}

// NewTable is for resources that are not a Resource.
func NewTable[T Object](columns []Column[T]) genericrest.TableConvertor {
	return newTable(columns, nil, nil)
}

func newTable[T Object](columns []Column[T], listName func([]T) func(T) string, conditions func(obj T) []metav1.TableRowCondition) table[T] {
	if len(columns) == 0 {
		columns = []Column[T]{Name[T](), Age[T]()}
	}
	t := table[T]{columns: columns, listName: listName, conditions: conditions}
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
	var name func(T) string
	addRow := func(o runtime.Object) error {
		obj, ok := o.(T)
		if !ok {
			return fmt.Errorf("print a table row: got %T, want %T", o, obj)
		}
		cells := make([]any, len(t.columns))
		for i, c := range t.columns {
			cells[i] = c.Value(obj)
		}
		if name != nil {
			cells[0] = name(obj)
		}
		row := metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: o}}
		if t.conditions != nil {
			row.Conditions = t.conditions(obj)
		}
		out.Rows = append(out.Rows, row)
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
		if t.listName != nil {
			var all []T
			_ = meta.EachListItem(object, func(o runtime.Object) error {
				if obj, ok := o.(T); ok {
					all = append(all, obj)
				}
				return nil
			})
			name = t.listName(all)
		}
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
