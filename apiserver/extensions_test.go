// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/testenv"
)

var widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// widgetDefinition defines Widgets, with a schema, a status and a scale.
func widgetDefinition() *apiextensionsv1.CustomResourceDefinition {
	minimum := 1.0
	replicas := apiextensionsv1.JSONSchemaProps{Type: "integer", Minimum: &minimum, Description: "How many."}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList", ShortNames: []string{"wd"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Description: "A thing.",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"spec":   {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"replicas": replicas, "color": {Type: "string"}}},
						"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"replicas": replicas}},
					},
				}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"},
				},
			}},
		},
	}
}

func widget(name string, replicas int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget",
		"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec":     map[string]any{"replicas": replicas},
	}}
}

// define makes the definition and returns once clients can see the names.
func define(t *testing.T, config *restclient.Config, crd *apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	if _, err := apiextensions.NewForConfigOrDie(config).ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kind in discovery", func() error {
		resources, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerResourcesForGroupVersion(crd.Spec.Group + "/" + crd.Spec.Versions[0].Name)
		if err == nil && len(resources.APIResources) == 0 {
			err = errors.New("no resources")
		}
		return err
	})
}

// eventually asks until there is no error.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v after 30 s", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestCustomResourcesLiveThroughTheAPI(t *testing.T) {
	ctx := t.Context()
	env := testenv.Start(t)
	config := env.Config
	define(t, config, widgetDefinition())
	client := dynamic.NewForConfigOrDie(config).Resource(widgets).Namespace("default")

	if _, err := client.Create(ctx, widget("a", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(ctx, widget("b", 0), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("create with replicas: 0 = %v, want Invalid", err)
	}
	painted := widget("a", 4)
	painted.Object["spec"] = map[string]any{"color": "red"}
	applied, err := client.Apply(ctx, "a", painted, metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	spec, _, _ := unstructured.NestedMap(applied.Object, "spec")
	if spec["replicas"] != int64(3) || spec["color"] != "red" {
		t.Errorf("applied spec = %v, want replicas 3 and color red", spec)
	}
	scale, err := client.Get(ctx, "a", metav1.GetOptions{}, "scale")
	if err != nil || scale.GetKind() != "Scale" {
		t.Errorf("scale = %v, %v; want a Scale", scale, err)
	}

	raw, err := env.Store.Client().Get(ctx, "/registry/example.com/widgets/default/a")
	if err != nil || len(raw.Kvs) != 1 || !json.Valid(raw.Kvs[0].Value) {
		t.Errorf("stored: %v, %v; want one JSON document under upstream's key", raw, err)
	}
	raw, err = env.Store.Client().Get(ctx, "/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example.com")
	if err != nil || len(raw.Kvs) != 1 || !json.Valid(raw.Kvs[0].Value) {
		t.Errorf("stored definition: %v, %v; want one JSON document under upstream's key", raw, err)
	}
}

// The names are in both kinds of discovery, and go with the definition, which takes its objects along.
func TestDiscoveryFollowsDefinitions(t *testing.T) {
	ctx := t.Context()
	config := testenv.Start(t).Config
	define(t, config, widgetDefinition())
	if _, err := dynamic.NewForConfigOrDie(config).Resource(widgets).Namespace("default").Create(ctx, widget("a", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	listed := func(legacy bool) error {
		client := discovery.NewDiscoveryClientForConfigOrDie(config)
		client.UseLegacyDiscovery = legacy
		groups, err := client.ServerGroups()
		if err != nil {
			return err
		}
		for _, g := range groups.Groups {
			if g.Name == "example.com" {
				return nil
			}
		}
		return errors.New("not listed")
	}
	eventually(t, "aggregated discovery lists the group", func() error { return listed(false) })
	eventually(t, "legacy discovery lists the group", func() error { return listed(true) })

	definitions := apiextensions.NewForConfigOrDie(config).ApiextensionsV1().CustomResourceDefinitions()
	if err := definitions.Delete(ctx, "widgets.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, legacy := range []bool{false, true} {
		eventually(t, "the group is gone from discovery", func() error {
			err := listed(legacy)
			if err == nil {
				return errors.New("still listed")
			}
			if !strings.Contains(err.Error(), "not listed") {
				return err
			}
			return nil
		})
	}
	eventually(t, "the definition is gone", func() error {
		_, err := definitions.Get(ctx, "widgets.example.com", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
}
