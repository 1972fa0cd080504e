// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Health says what ails a component; nil is healthy.
type Health func(ctx context.Context) error

// componentStatusREST answers componentstatuses: nothing is stored, each answer is a fresh look.
type componentStatusREST struct {
	genericrest.TableConvertor
	components map[string]Health
}

var (
	_ genericrest.Lister               = &componentStatusREST{}
	_ genericrest.Getter               = &componentStatusREST{}
	_ genericrest.Scoper               = &componentStatusREST{}
	_ genericrest.SingularNameProvider = &componentStatusREST{}
	_ genericrest.ShortNamesProvider   = &componentStatusREST{}
)

// ComponentStatuses serves the deprecated resource by which old tools ask for the health of "etcd-0",
// "scheduler" and "controller-manager".
func ComponentStatuses(components map[string]Health) genericrest.Storage {
	return &componentStatusREST{TableConvertor: rest.NewTable(componentStatusColumns()), components: components}
}

func (c *componentStatusREST) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (c *componentStatusREST) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (c *componentStatusREST) Destroy()                {}
func (c *componentStatusREST) NamespaceScoped() bool   { return false }
func (c *componentStatusREST) GetSingularName() string { return "componentstatus" }
func (c *componentStatusREST) ShortNames() []string    { return []string{"cs"} }

func (c *componentStatusREST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	health, ok := c.components[name]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("componentstatus"), name)
	}
	return componentStatus(ctx, name, health), nil
}

func (c *componentStatusREST) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	p := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything()}
	if options != nil && options.LabelSelector != nil {
		p.Label = options.LabelSelector
	}
	if options != nil && options.FieldSelector != nil {
		p.Field = options.FieldSelector
	}
	out := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for _, name := range slices.Sorted(maps.Keys(c.components)) {
		if p.Label.Matches(labels.Set{}) && p.Field.Matches(fields.Set{"metadata.name": name, "metadata.namespace": ""}) {
			out.Items = append(out.Items, *componentStatus(ctx, name, c.components[name]))
		}
	}
	return out, nil
}

func componentStatus(ctx context.Context, name string, health Health) *corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := health(ctx); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}}
}

func componentStatusColumns() []rest.Column[*corev1.ComponentStatus] {
	type C = *corev1.ComponentStatus
	healthy := func(value func(corev1.ComponentCondition) string, none string) func(C) string {
		return func(o C) string {
			for _, c := range o.Conditions {
				if c.Type == corev1.ComponentHealthy {
					return value(c)
				}
			}
			return none
		}
	}
	return []rest.Column[C]{
		rest.Name[C](),
		rest.Text("Status", "Status of the component conditions", healthy(func(c corev1.ComponentCondition) string {
			if c.Status == corev1.ConditionTrue {
				return "Healthy"
			}
			return "Unhealthy"
		}, "Unknown")),
		rest.Text("Message", "Message of the component conditions", healthy(func(c corev1.ComponentCondition) string { return c.Message }, "")),
		rest.Text("Error", "Error of the component conditions", healthy(func(c corev1.ComponentCondition) string { return c.Error }, "")),
	}
}
