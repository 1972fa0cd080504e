// SPDX-License-Identifier: Apache-2.0

package openapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/tools/cache"
	explain "k8s.io/kubectl/pkg/explain/v2"

	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/testenv"
)

// serve answers from the documents with definitions that a test may change.
func serve(t *testing.T) (*httptest.Server, cache.Indexer) {
	t.Helper()
	definitions := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	mux := http.NewServeMux()
	openapi.New(crdlisters.NewCustomResourceDefinitionLister(definitions), nil).Install(muxOf{mux})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server, definitions
}

type muxOf struct{ *http.ServeMux }

func (m muxOf) UnlistedHandlePrefix(path string, h http.Handler) { m.Handle(path, h) }

func get(t *testing.T, url, accept string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func widgets() *apiextensionsv1.CustomResourceDefinition {
	names := apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com", UID: "1", Generation: 1},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Names: names,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"color": {Type: "string", Description: "How it looks."}},
				}},
			}},
		},
		Status: apiextensionsv1.CustomResourceDefinitionStatus{
			AcceptedNames: names,
			Conditions:    []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}},
		},
	}
}

const (
	deployment = "io.k8s.api.apps.v1.Deployment"
	widget     = "com.example.v1.Widget"
)

func TestV2HasBuiltInAndCustomResources(t *testing.T) {
	server, definitions := serve(t)
	models := func() map[string]any {
		_, raw := get(t, server.URL+"/openapi/v2", "application/json")
		var doc struct{ Definitions, Paths map[string]any }
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		if _, ok := doc.Paths["/apis/apps/v1/namespaces/{namespace}/deployments"]; !ok {
			t.Error("no path of Deployments")
		}
		_, named := doc.Definitions[widget]
		if _, ok := doc.Paths["/apis/example.com/v1/namespaces/{namespace}/widgets"]; ok != named {
			t.Errorf("path of Widgets: %v, model: %v", ok, named)
		}
		return doc.Definitions
	}
	if m := models(); m[deployment] == nil || m[widget] != nil {
		t.Errorf("before: Deployment %v, Widget %v", m[deployment] != nil, m[widget] != nil)
	}
	if err := definitions.Add(widgets()); err != nil {
		t.Fatal(err)
	}
	if m := models(); m[deployment] == nil || m[widget] == nil {
		t.Errorf("after: Deployment %v, Widget %v", m[deployment] != nil, m[widget] != nil)
	}
	_, raw := get(t, server.URL+"/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	var doc openapiv2.Document
	if err := proto.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, model := range doc.GetDefinitions().GetAdditionalProperties() {
		found[model.GetName()]++
	}
	if found[deployment] != 1 || found[widget] != 1 || doc.GetInfo().GetTitle() != "Kubernetes" || doc.GetSwagger() != "2.0" {
		t.Errorf("protobuf: Deployment %d, Widget %d, info %v, swagger %q", found[deployment], found[widget], doc.GetInfo(), doc.GetSwagger())
	}
}

// A document's address changes with its content, and only then; what is at the address may be kept for ever.
func TestV3AddressesFollowContent(t *testing.T) {
	server, definitions := serve(t)
	crd := widgets()
	if err := definitions.Add(crd); err != nil {
		t.Fatal(err)
	}
	addresses := func() map[string]string {
		_, raw := get(t, server.URL+"/openapi/v3", "application/json")
		var index struct {
			Paths map[string]struct{ ServerRelativeURL string }
		}
		if err := json.Unmarshal(raw, &index); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for name, entry := range index.Paths {
			out[name] = entry.ServerRelativeURL
		}
		return out
	}
	first := addresses()
	for _, name := range []string{"api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1", "apis/apiregistration.k8s.io/v1", "apis/example.com/v1", "version"} {
		resp, raw := get(t, server.URL+first[name], "application/json")
		if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || !json.Valid(raw) {
			t.Errorf("%s at %q: %s, %q", name, first[name], resp.Status, resp.Header.Get("Cache-Control"))
		}
		_, raw = get(t, server.URL+first[name], "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
		if err := proto.Unmarshal(raw, &openapiv3.Document{}); err != nil {
			t.Errorf("%s as protobuf: %v", name, err)
		}
	}
	changed := crd.DeepCopy()
	changed.Generation = 2
	changed.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["size"] = apiextensionsv1.JSONSchemaProps{Type: "integer"}
	if err := definitions.Update(changed); err != nil {
		t.Fatal(err)
	}
	second := addresses()
	if first["apis/example.com/v1"] == second["apis/example.com/v1"] {
		t.Error("the address of changed content did not change")
	}
	if first["api/v1"] != second["api/v1"] {
		t.Error("the address of unchanged content changed")
	}
	if _, raw := get(t, server.URL+first["apis/example.com/v1"], "application/json"); !bytes.Contains(raw, []byte(`"size"`)) {
		t.Error("the old address does not lead to the new content")
	}
}

func TestUnchangedDocumentIsNotSentAgain(t *testing.T) {
	server, _ := serve(t)
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1"} {
		resp, _ := get(t, server.URL+path, "application/json")
		again, body := get(t, server.URL+path, "application/json", "If-None-Match", resp.Header.Get("Etag"))
		if again.StatusCode != http.StatusNotModified || len(body) > 0 {
			t.Errorf("%s again = %s with %d bytes, want Not Modified", path, again.Status, len(body))
		}
	}
	if resp, _ := get(t, server.URL+"/openapi/v2", "text/html"); resp.StatusCode != http.StatusNotAcceptable {
		t.Errorf("as text/html = %s, want Not Acceptable", resp.Status)
	}
}

// kubectl explain finds every kind that discovery lists.
func TestExplainAllKinds(t *testing.T) {
	client := discovery.NewDiscoveryClientForConfigOrDie(testenv.Start(t).Config)
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	explained := 0
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			streams, _, out, _ := genericiooptions.NewTestIOStreams()
			if err := explain.PrintModelDescription(nil, streams.Out, client.OpenAPIV3(), gv.WithResource(r.Name), false, 0, "plaintext"); err != nil {
				t.Errorf("explain %s of %s: %v", r.Name, gv, err)
				continue
			}
			if !strings.Contains(out.String(), "KIND:       "+r.Kind) || !strings.Contains(out.String(), "DESCRIPTION:") {
				t.Errorf("explain %s of %s:\n%s", r.Name, gv, out)
			}
			explained++
		}
	}
	if explained < 60 {
		t.Errorf("explained %d kinds, want 60 or more", explained)
	}
	spec, err := openapi3.NewRoot(client.OpenAPIV3()).GVSpec(schema.GroupVersion{Group: "apps", Version: "v1"})
	if err != nil || spec.Components.Schemas[deployment] == nil {
		t.Errorf("the protobuf form of apps/v1 = %v; want one with Deployments", err)
	}
}

// The subresources that lead to a node or a pod are described, and every operation says that it asks who is there.
func TestDocumentsDescribeConnections(t *testing.T) {
	server, _ := serve(t)
	_, body := get(t, server.URL+"/openapi/v2", "application/json")
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/api/v1/namespaces/{namespace}/pods/{name}/log", "/api/v1/namespaces/{namespace}/pods/{name}/exec",
		"/api/v1/namespaces/{namespace}/pods/{name}/attach", "/api/v1/namespaces/{namespace}/pods/{name}/portforward",
		"/api/v1/namespaces/{namespace}/pods/{name}/proxy/{path}", "/api/v1/namespaces/{namespace}/pods/{name}/eviction",
		"/api/v1/namespaces/{namespace}/services/{name}/proxy", "/api/v1/nodes/{name}/proxy",
		"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", "/api/v1/componentstatuses",
	} {
		if doc.Paths[path] == nil {
			t.Errorf("%s is not described", path)
		}
	}
	for path, operations := range doc.Paths {
		for verb, operation := range operations {
			if verb == "parameters" {
				continue
			}
			var o struct{ Responses map[string]any }
			if err := json.Unmarshal(operation, &o); err != nil {
				t.Fatal(err)
			}
			if o.Responses["401"] == nil {
				t.Errorf("%s %s does not say that it may answer 401", verb, path)
			}
		}
	}
}
