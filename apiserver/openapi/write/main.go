// SPDX-License-Identifier: Apache-2.0

//go:build openapi_definitions

// Command write turns the routes of a server into OpenAPI documents. Command generate runs it.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/apiserver/openapi/definitions"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/authentication"
	"github.com/skiff-k8s/skiff/registry/authorization"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/core/podconnect"
	"github.com/skiff-k8s/skiff/registry/metrics"
	"github.com/skiff-k8s/skiff/version"
)

func main() {
	log.SetFlags(0)
	klog.SetLogger(logr.Discard()) // of a server that is built and never run
	if len(os.Args) != 2 {
		log.Fatal("usage: write DIRECTORY")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := run(ctx, os.Args[1]); err != nil {
		log.Fatalf("write OpenAPI: %v", err)
	}
}

func run(ctx context.Context, dir string) error {
	data, err := os.MkdirTemp("", "openapi-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	store, err := datastore.Open(ctx, datastore.Config{Dir: data, TickMs: 5, UnsafeNoFsync: true})
	if err != nil {
		return err
	}
	defer store.Close()
	door := inprocess.NewDoor()
	loopback := door.ClientConfig(&user.DefaultInfo{Name: user.APIServerUser})
	client, err := kubernetes.NewForConfig(loopback)
	if err != nil {
		return err
	}
	server, err := apiserver.New(ctx, apiserver.Config{
		Store: store, Resources: registry.All(registry.Deps{Core: connections(client)}), Door: door,
		Reviews: map[schema.GroupVersion]map[string]genericrest.Storage{
			authenticationv1.SchemeGroupVersion: authentication.Storages(authentication.Deps{}),
			authorizationv1.SchemeGroupVersion:  authorization.Storages(authorization.Deps{}),
			corev1.SchemeGroupVersion:           {"componentstatuses": core.ComponentStatuses(nil)},
			metricsv1.SchemeGroupVersion:        metrics.Storages(metrics.Deps{}),
			metricsv1beta1.SchemeGroupVersion:   metrics.Storages(metrics.Deps{}),
		},
		Loopback:        loopback,
		Authorizer:      authorizerfactory.NewAlwaysDenyAuthorizer(),
		ExternalAddress: "127.0.0.1:443",
		Version:         version.Effective(),
	})
	if err != nil {
		return err
	}
	w := writer{dir: dir, index: openapi.Index{V3: map[string]string{}}, config: newConfig(server.Scheme())}
	services := server.WebServices()
	if err := w.v2(services); err != nil {
		return fmt.Errorf("version 2: %w", err)
	}
	for _, ws := range services {
		if err := w.v3(ws); err != nil {
			return fmt.Errorf("version 3 of %s: %w", ws.RootPath(), err)
		}
	}
	raw, err := json.MarshalIndent(w.index, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.json"), raw, 0o644)
}

// connections are the subresources that lead elsewhere. Their routes are described here, and lead nowhere.
func connections(client kubernetes.Interface) core.Deps {
	return core.Deps{
		PodConnections: map[string]genericrest.Storage{
			"log":         podconnect.Log{},
			"exec":        podconnect.Exec{},
			"attach":      podconnect.Attach{},
			"portforward": podconnect.PortForward{},
			"proxy":       podconnect.PodProxy{},
		},
		NodeProxy:    podconnect.NodeProxy{},
		ServiceProxy: podconnect.ServiceProxy{},
		Tokens:       &authentication.Tokens{},
		Budgets:      client.PolicyV1(),
	}
}

// newConfig describes the whole, as upstream's server does.
func newConfig(scheme *runtime.Scheme) *genericapiserver.Config {
	all := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		out := apiextensionsopenapi.GetOpenAPIDefinitions(ref)
		maps.Copy(out, aggregatoropenapi.GetOpenAPIDefinitions(ref))
		maps.Copy(out, definitions.GetOpenAPIDefinitions(ref))
		return out
	}
	namer := apiopenapi.NewDefinitionNamer(scheme, apiextensionsserver.Scheme, aggregatorscheme.Scheme)
	c := genericapiserver.NewConfig(apiextensionsserver.Codecs)
	c.EffectiveVersion = version.Effective()
	c.LoopbackClientConfig = &restclient.Config{}
	c.ExternalAddress = "127.0.0.1:443"
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(all, namer)
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(all, namer)
	c.OpenAPIConfig.Info.Title = "Kubernetes"
	c.OpenAPIV3Config.Info.Title = "Kubernetes"
	const kind, header, place, about = "apiKey", "authorization", "header", "Bearer Token authentication"
	c.OpenAPIConfig.SecurityDefinitions = &spec.SecurityDefinitions{"BearerToken": {
		SecuritySchemeProps: spec.SecuritySchemeProps{Type: kind, Name: header, In: place, Description: about},
	}}
	c.OpenAPIV3Config.SecuritySchemes = spec3.SecuritySchemes{"BearerToken": {
		SecuritySchemeProps: spec3.SecuritySchemeProps{Type: kind, Name: header, In: place, Description: about},
	}}
	c.OpenAPIConfig.GetDefinitionName = served(namer)
	c.OpenAPIV3Config.GetDefinitionName = served(namer)
	c.Complete(nil)
	return c
}

// served names types by the kinds that clients see. The hub has the same Go types.
func served(namer *apiopenapi.DefinitionNamer) func(string) (string, spec.Extensions) {
	return func(name string) (string, spec.Extensions) {
		name, extensions := namer.GetDefinitionName(name)
		kinds, ok := extensions[gvkExtension].([]any)
		if !ok {
			return name, extensions
		}
		var out []any
		for _, kind := range kinds {
			if m, ok := kind.(map[string]any); !ok || m["version"] != runtime.APIVersionInternal {
				out = append(out, kind)
			}
		}
		if len(out) == 0 {
			return name, nil
		}
		return name, spec.Extensions{gvkExtension: out}
	}
}

const gvkExtension = "x-kubernetes-group-version-kind"

type writer struct {
	dir    string
	index  openapi.Index
	config *genericapiserver.Config
}

// v2 writes the one document of version 2: paths and definitions come last, for others to be added.
func (w *writer) v2(services []*restful.WebService) error {
	doc, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), w.config.OpenAPIConfig)
	if err != nil {
		return err
	}
	if err := w.schema(doc.Definitions); err != nil {
		return fmt.Errorf("schema of server-side apply: %w", err)
	}
	doc.Definitions = handler.PruneDefaults(doc.Definitions)
	raw, err := doc.MarshalJSON()
	if err != nil {
		return err
	}
	proto, err := handler.ToProtoBinary(raw)
	if err != nil {
		return err
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	paths, definitions := parts["paths"], parts["definitions"]
	delete(parts, "paths")
	delete(parts, "definitions")
	head, err := json.Marshal(parts)
	if err != nil {
		return err
	}
	out := bytes.NewBuffer(bytes.TrimSuffix(head, []byte("}")))
	fmt.Fprintf(out, `,"paths":%s`, paths)
	w.index.V2.PathsEnd = out.Len() - 1
	fmt.Fprintf(out, `,"definitions":%s}`, definitions)
	w.index.V2.Hash = hash(out.Bytes())
	return w.write(openapi.V2File, out.Bytes(), proto)
}

// schema writes what server-side apply has to know of the types: which lists are maps, and by which keys.
func (w *writer) schema(definitions spec.Definitions) error {
	models := make(map[string]*spec.Schema, len(definitions))
	for name, model := range definitions {
		models[name] = &model
	}
	types, err := schemaconv.ToSchemaFromOpenAPI(models, false)
	if err != nil {
		return err
	}
	slices.SortFunc(types.Types, func(a, b smdschema.TypeDef) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range types.Types {
		if t.Map == nil {
			continue
		}
		for i, field := range t.Map.Fields {
			t.Map.Fields[i].Default = scalar(field.Default)
		}
	}
	var raw bytes.Buffer // gob, since the types have embedded pointers, which JSON throws together
	if err := gob.NewEncoder(&raw).Encode(types); err != nil {
		return err
	}
	return w.writeForm(openapi.SchemaFile, raw.Bytes())
}

// scalar is a default without the Go type it was written with, or nothing: only keys of lists need one.
func scalar(value any) any {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Int, reflect.Int32, reflect.Int64:
		return v.Int()
	}
	return nil
}

// v3 writes the document of one group version.
func (w *writer) v3(ws *restful.WebService) error {
	name := strings.TrimPrefix(ws.RootPath(), "/")
	doc, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), w.config.OpenAPIV3Config)
	if err != nil {
		return err
	}
	keepOwnKinds(doc, name)
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	proto, err := handler3.ToV3ProtoBinary(raw)
	if err != nil {
		return err
	}
	w.index.V3[name] = hash(raw)
	return w.write(openapi.V3File(name), raw, proto)
}

// keepOwnKinds takes from the types that are in all groups the names they have in others.
func keepOwnKinds(doc *spec3.OpenAPI, name string) {
	own := schema.GroupVersion{Version: "v1"}
	if parts := strings.Split(name, "/"); len(parts) == 3 {
		own = schema.GroupVersion{Group: parts[1], Version: parts[2]}
	}
	for model, s := range doc.Components.Schemas {
		kinds, ok := s.Extensions[gvkExtension].([]any)
		if !ok || !(strings.HasSuffix(model, ".DeleteOptions") || strings.HasSuffix(model, ".WatchEvent")) {
			continue
		}
		var kept []any
		for _, kind := range kinds {
			m, ok := kind.(map[string]any)
			gv := schema.GroupVersion{Group: fmt.Sprint(m["group"]), Version: fmt.Sprint(m["version"])}
			if ok && (gv == own || gv == schema.GroupVersion{Version: "v1"}) {
				kept = append(kept, kind)
			}
		}
		s.Extensions[gvkExtension] = kept
	}
}

// write compresses both forms of a document into the directory.
func (w *writer) write(name string, raw, proto []byte) error {
	return errors.Join(w.writeForm(name+openapi.JSON, raw), w.writeForm(name+openapi.Protobuf, proto))
}

func (w *writer) writeForm(name string, content []byte) error {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func hash(content []byte) string { return fmt.Sprintf("%X", sha512.Sum512(content)) }
