// SPDX-License-Identifier: Apache-2.0

package addons

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
)

// parse reads the objects of a manifest: YAML documents, or JSON; those in lists too.
func parse(path string) ([]*unstructured.Unstructured, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for {
		var content map[string]any
		err := decoder.Decode(&content)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(content) == 0 {
			continue // nothing but comments
		}
		objects, err := flatten(&unstructured.Unstructured{Object: content})
		if err != nil {
			return nil, err
		}
		out = append(out, objects...)
	}
}

func flatten(object *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	if object.IsList() {
		err := object.EachListItem(func(item runtime.Object) error {
			objects, err := flatten(item.(*unstructured.Unstructured))
			out = append(out, objects...)
			return err
		})
		return out, err
	}
	switch {
	case object.GetAPIVersion() == "" || object.GetKind() == "":
		return nil, errors.New("an object has no apiVersion or no kind")
	case object.GetName() == "":
		return nil, fmt.Errorf("a %s has no metadata.name", object.GetKind())
	}
	return []*unstructured.Unstructured{object}, nil
}

// located is an object of a manifest, and where it is to be.
type located struct {
	*unstructured.Unstructured
	mapping *meta.RESTMapping
}

func (l located) id() id {
	kind := l.GroupVersionKind()
	return id{kind.Group, kind.Version, kind.Kind, l.GetNamespace(), l.GetName()}
}

func ids(objects []located) []id {
	out := make([]id, len(objects))
	for i, object := range objects {
		out[i] = object.id()
	}
	return out
}

// resolve finds out where all objects of an add-on belong, and orders them so that each finds what it needs: namespaces
// and definitions of custom resources come first. It goes on after errors.
func (c *controller) resolve(addOn string, objects []*unstructured.Unstructured) ([]located, error) {
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	var out []located
	var errs []error
	for _, object := range objects {
		kind := object.GroupVersionKind()
		mapping, err := c.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			errs = append(errs, failedToApply(object, err))
			continue
		}
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace && object.GetNamespace() == "" {
			object.SetNamespace(metav1.NamespaceDefault)
		}
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[AddOnLabel] = addOn
		object.SetLabels(labels)
		out = append(out, located{object, mapping})
	}
	return out, errors.Join(errs...)
}

func failedToApply(object *unstructured.Unstructured, err error) error {
	return fmt.Errorf("apply %s %s: %w", object.GetKind(), name(object.GetNamespace(), object.GetName()), err)
}

// applyAll applies all objects in this order. It goes on after errors.
func (c *controller) applyAll(ctx context.Context, objects []located) error {
	var errs []error
	for _, object := range objects {
		raw, err := json.Marshal(object.Unstructured)
		if err == nil {
			_, err = c.client(object.mapping, object.GetNamespace()).Patch(ctx, object.GetName(), types.ApplyPatchType, raw, metav1.PatchOptions{
				FieldManager: Component, Force: ptr.To(true),
			})
		}
		if err != nil {
			errs = append(errs, failedToApply(object.Unstructured, err))
		}
	}
	return errors.Join(errs...)
}

func rank(object *unstructured.Unstructured) int {
	switch object.GetKind() {
	case "Namespace":
		return 0
	case "CustomResourceDefinition":
		return 1
	}
	return 2
}

func name(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func (c *controller) client(mapping *meta.RESTMapping, namespace string) dynamic.ResourceInterface {
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(mapping.Resource).Namespace(namespace)
	}
	return c.Dynamic.Resource(mapping.Resource)
}

// prune deletes objects, those last that others may live in. What is another add-on's by now, stays.
func (c *controller) prune(ctx context.Context, addOn string, objects []id) error {
	var errs []error
	for _, object := range slices.Backward(objects) {
		if err := c.pruneOne(ctx, addOn, object); err != nil {
			errs = append(errs, fmt.Errorf("delete %s %s: %w", object.Kind, name(object.Namespace, object.Name), err))
		}
	}
	return errors.Join(errs...)
}

func (c *controller) pruneOne(ctx context.Context, addOn string, object id) error {
	mapping, err := c.Mapper.RESTMapping(object.kind().GroupKind(), object.Version)
	if meta.IsNoMatchError(err) {
		mapping, err = c.Mapper.RESTMapping(object.kind().GroupKind())
	}
	if meta.IsNoMatchError(err) {
		return nil // gone with its definition
	}
	if err != nil {
		return err
	}
	client := c.client(mapping, object.Namespace)
	current, err := client.Get(ctx, object.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && current.GetLabels()[AddOnLabel] != addOn {
		return nil
	}
	if err != nil {
		return err
	}
	err = client.Delete(ctx, object.Name, metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationBackground), Preconditions: metav1.NewUIDPreconditions(string(current.GetUID())),
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
