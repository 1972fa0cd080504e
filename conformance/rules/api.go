// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/skiff-k8s/skiff/registry/stories"
)

// kind is what decides about the objects of a kind.
type kind struct {
	create genericrest.RESTCreateStrategy
	update genericrest.RESTUpdateStrategy
	status genericrest.RESTUpdateStrategy            // nil: no such subresource
	parts  map[string]genericrest.RESTUpdateStrategy // further subresources that write the object, by name
	table  genericrest.TableConvertor
}

// api is one of the two: its types, with their defaults, and its rules.
type api struct {
	scheme    *runtime.Scheme
	convertor runtime.ObjectConvertor
	kinds     map[schema.GroupKind]kind
}

// answer is what an API makes of a write.
type answer struct {
	stored   stories.Object
	errors   []string
	warnings []string
	panicked bool
}

var birth = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

const uid = "3d2f6c1e-8d54-4c02-9f0a-6f0c4a3b2d1e"

// create answers the creation of an object.
func (a *api) create(sent stories.Object) answer {
	return a.judge(sent, "", func(ctx context.Context, obj runtime.Object) error {
		meta := obj.(metav1.Object)
		meta.SetUID(uid)
		meta.SetCreationTimestamp(birth)
		err := genericrest.BeforeCreate(a.kinds[a.groupKind(sent)].create, ctx, obj)
		meta.SetResourceVersion("1") // as the storage does, for updates
		return err
	})
}

// change answers an update of an object, or of its status.
func (a *api) change(stored, sent stories.Object, subresource string) answer {
	return a.judge(sent, subresource, func(ctx context.Context, obj runtime.Object) error {
		old, err := a.decode(stored)
		if err != nil {
			return fmt.Errorf("decode the stored object: %w", err)
		}
		k := a.kinds[a.groupKind(sent)]
		strategy := k.update
		if subresource == "status" {
			strategy = k.status
		} else if subresource != "" {
			strategy = k.parts[subresource]
		}
		return genericrest.BeforeUpdate(strategy, ctx, obj, old)
	})
}

func (a *api) groupKind(o stories.Object) schema.GroupKind {
	return schema.FromAPIVersionAndKind(o["apiVersion"].(string), o["kind"].(string)).GroupKind()
}

func (a *api) judge(sent stories.Object, subresource string, write func(ctx context.Context, obj runtime.Object) error) (out answer) {
	defer func() {
		if r := recover(); r != nil {
			out = answer{panicked: true, errors: []string{fmt.Sprintf("panic: %v\n%s", r, debug.Stack())}}
		}
	}()
	obj, err := a.decode(sent)
	if err != nil {
		return answer{errors: []string{"decode"}} // by the same types, so for the same reason
	}
	var heard warnings
	err = write(requestFor(sent, subresource, &heard), obj)
	slices.Sort(heard)
	if err != nil {
		return answer{errors: stories.Lines(err)}
	}
	stored, err := a.encode(obj, sent["apiVersion"].(string))
	if err != nil {
		return answer{errors: []string{err.Error()}}
	}
	return answer{stored: stored, warnings: slices.Compact(heard)}
}

// decode makes the object that a client sends or that is stored into the one that rules work on.
func (a *api) decode(o stories.Object) (runtime.Object, error) {
	gvk := schema.FromAPIVersionAndKind(o["apiVersion"].(string), o["kind"].(string))
	content, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	obj, err := a.scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, obj); err != nil {
		return nil, err
	}
	a.scheme.Default(obj)
	return a.convertor.ConvertToVersion(obj, schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal})
}

func (a *api) encode(obj runtime.Object, apiVersion string) (stories.Object, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	versioned, err := a.convertor.ConvertToVersion(obj.DeepCopyObject(), gv)
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(versioned)
	if err != nil {
		return nil, err
	}
	out := stories.Object{}
	return out, json.Unmarshal(content, &out)
}

// print is what kubectl shows of a stored object.
func (a *api) print(stored stories.Object) (out string) {
	defer func() {
		if r := recover(); r != nil {
			out = fmt.Sprintf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	obj, err := a.decode(stored)
	if err != nil {
		return err.Error()
	}
	table, err := a.kinds[a.groupKind(stored)].table.ConvertToTable(context.Background(), obj, nil)
	if err != nil {
		return err.Error()
	}
	for _, row := range table.Rows {
		for i, d := range table.ColumnDefinitions { // Kubernetes has a cell too many for IPAddresses
			out += fmt.Sprintf("%s (%s %s %d, %s): %v\n", d.Name, d.Type, d.Format, d.Priority, d.Description, row.Cells[i])
		}
		for _, c := range row.Conditions {
			out += fmt.Sprintln("row:", c)
		}
	}
	return out
}

// warnings collects the Warning headers.
type warnings []string

func (w *warnings) AddWarning(_, text string) { *w = append(*w, text) }

var _ warning.Recorder = &warnings{}

func requestFor(o stories.Object, subresource string, heard *warnings) context.Context {
	gv, _ := schema.ParseGroupVersion(o["apiVersion"].(string))
	namespace := ""
	if meta, ok := o["metadata"].(stories.Object); ok {
		namespace, _ = meta["namespace"].(string)
	}
	ctx := request.WithNamespace(context.Background(), namespace)
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "someone"})
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, APIGroup: gv.Group, APIVersion: gv.Version, Subresource: subresource, Namespace: namespace,
	})
	return warning.WithWarningRecorder(ctx, heard)
}
