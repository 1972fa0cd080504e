// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	apiextensionshelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Documents are all there are at a moment.
type Documents struct {
	builtIn     builtIn
	definitions crdlisters.CustomResourceDefinitionLister
	remote      remoteVersions

	mu     sync.Mutex
	custom map[string]*customVersion // guarded by mu; by path ("apis/example.com/v1")
	merged *mergedV2                 // guarded by mu
}

// New describes what is built in, what definitions define, and what is served elsewhere (nil: nothing is).
func New(definitions crdlisters.CustomResourceDefinitionLister, remotes func() ([]Remote, error)) *Documents {
	return &Documents{definitions: definitions, remote: remoteVersions{list: remotes}, custom: map[string]*customVersion{}}
}

// document is one document, compressed in each of its forms.
type document struct {
	hash    string // of the JSON form
	content func(suffix string) ([]byte, error)
}

// customVersion is the document of a group version that definitions define, as long as they stay the same.
type customVersion struct {
	state string // of the definitions
	doc   *document
}

// mergedV2 is the document of version 2 with all definitions and remote APIs, as long as they stay the same.
type mergedV2 struct {
	state string
	doc   *document
}

// v3 returns the documents of all group versions by path.
func (d *Documents) v3(ctx context.Context) (map[string]*document, error) {
	out := map[string]*document{}
	remotes, err := d.remote.all(ctx, "v3")
	if err != nil {
		return nil, err
	}
	for name, remote := range remotes {
		out[name] = remote.v3
	}
	for name, hash := range d.builtIn.get().V3 {
		out[name] = &document{hash: hash, content: func(suffix string) ([]byte, error) { return d.builtIn.file(V3File(name) + suffix) }}
	}
	served, err := d.served()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.custom, func(name string, _ *customVersion) bool { return served[name] == nil })
	for name, definitions := range served {
		if _, ok := out[name]; ok {
			continue // what is built in or remote is served, whatever a definition says
		}
		known, state := d.custom[name], stateOf(definitions)
		if known == nil || known.state != state {
			doc, err := describeV3(definitions)
			if err != nil {
				return nil, fmt.Errorf("describe %s: %w", name, err)
			}
			known = &customVersion{state: state, doc: doc}
			d.custom[name] = known
		}
		out[name] = known.doc
	}
	return out, nil
}

// definition is one version of a CustomResourceDefinition.
type definition struct {
	crd     *apiextensionsv1.CustomResourceDefinition
	version string
}

// served returns the definitions whose resources are served, by path of their group version, in the order
// of their names.
func (d *Documents) served() (map[string][]definition, error) {
	crds, err := d.definitions.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list CustomResourceDefinitions: %w", err)
	}
	slices.SortFunc(crds, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return strings.Compare(a.Name, b.Name) })
	out := map[string][]definition{}
	for _, crd := range crds {
		if !apiextensionshelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served {
				name := "apis/" + crd.Spec.Group + "/" + v.Name
				out[name] = append(out[name], definition{crd, v.Name})
			}
		}
	}
	return out, nil
}

// stateOf changes whenever what definitions say changes.
func stateOf(definitions []definition) string {
	var b strings.Builder
	for _, d := range definitions {
		fmt.Fprintf(&b, "%s/%d/%s/%v ", d.crd.UID, d.crd.Generation, d.version, d.crd.Status.AcceptedNames)
	}
	return b.String()
}

// describeV3 makes the document of one group version.
func describeV3(definitions []definition) (*document, error) {
	var specs []*spec3.OpenAPI
	for _, d := range definitions {
		s, err := builder.BuildOpenAPIV3(d.crd, d.version, builder.Options{IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", d.crd.Name, err)
		}
		specs = append(specs, s)
	}
	merged, err := builder.MergeSpecsV3(specs...)
	if err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	raw, err := json.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	compressed, err := compress(raw)
	if err != nil {
		return nil, err
	}
	return newDocument(hash(raw), compressed, handler3.ToV3ProtoBinary), nil
}

// newDocument is for a document whose protobuf form is made when it is first asked for.
func newDocument(hash string, compressedJSON []byte, toProtobuf func([]byte) ([]byte, error)) *document {
	protobuf := sync.OnceValues(func() ([]byte, error) {
		raw, err := decompress(compressedJSON)
		if err != nil {
			return nil, err
		}
		encoded, err := toProtobuf(raw)
		if err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		return compress(encoded)
	})
	return &document{hash: hash, content: func(suffix string) ([]byte, error) {
		if suffix == Protobuf {
			return protobuf()
		}
		return compressedJSON, nil
	}}
}

// v2 returns the one document of version 2.
func (d *Documents) v2(ctx context.Context) (*document, error) {
	remotes, err := d.remote.all(ctx, "v2")
	if err != nil {
		return nil, err
	}
	served, err := d.served()
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(served))
	var all []definition
	for _, name := range names {
		all = append(all, served[name]...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	state := stateOf(all)
	for _, name := range slices.Sorted(maps.Keys(remotes)) {
		state += name + " " + remotes[name].hash + " "
	}
	if d.merged != nil && d.merged.state == state {
		return d.merged.doc, nil
	}
	doc, err := d.describeV2(all, remotes)
	if err != nil {
		return nil, err
	}
	d.merged = &mergedV2{state: state, doc: doc}
	return doc, nil
}

// describeV2 adds definitions and remote APIs to what is built in, without parsing that: it is put together as
// text, and as protobuf messages, of which the concatenation is the union.
func (d *Documents) describeV2(definitions []definition, remotes map[string]remoteDocument) (*document, error) {
	index := d.builtIn.get()
	static := index.V2.Hash != ""
	if static && len(definitions) == 0 && len(remotes) == 0 {
		return &document{hash: index.V2.Hash, content: func(suffix string) ([]byte, error) { return d.builtIn.file(V2File + suffix) }}, nil
	}
	added := &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "unversioned"}},
		Paths: &spec.Paths{Paths: map[string]spec.PathItem{}}, Definitions: spec.Definitions{},
	}}
	for _, def := range definitions {
		s, err := builder.BuildOpenAPIV2(def.crd, def.version, builder.Options{V2: true, IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", def.crd.Name, err)
		}
		maps.Copy(added.Paths.Paths, s.Paths.Paths)
		maps.Copy(added.Definitions, handler.PruneDefaults(s.Definitions))
	}
	for _, name := range slices.Sorted(maps.Keys(remotes)) {
		// Two servers may mean different things by one name.
		if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(added, remotes[name].v2); err != nil {
			return nil, fmt.Errorf("describe %s: %w", name, err)
		}
	}
	if !static {
		raw, err := added.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		compressed, err := compress(raw)
		if err != nil {
			return nil, err
		}
		return newDocument(hash(raw), compressed, handler.ToProtoBinary), nil
	}
	return d.join(index, added)
}

// join puts added into the built-in document.
func (d *Documents) join(index Index, added *spec.Swagger) (*document, error) {
	compressed, err := d.builtIn.file(V2File + JSON)
	if err != nil {
		return nil, err
	}
	static, err := decompress(compressed)
	if err != nil {
		return nil, err
	}
	for name := range added.Definitions {
		if bytes.Contains(static, fmt.Appendf(nil, "%q:{", name)) {
			delete(added.Definitions, name) // metadata and the like
		}
	}
	paths, err := members(added.Paths.Paths)
	if err != nil {
		return nil, err
	}
	models, err := members(added.Definitions)
	if err != nil {
		return nil, err
	}
	end := len(static) - len("}}")
	raw := slices.Concat(static[:index.V2.PathsEnd], paths, static[index.V2.PathsEnd:end], models, static[end:])
	joined, err := compress(raw)
	if err != nil {
		return nil, err
	}
	extra, err := added.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return &document{hash: hash(raw), content: func(suffix string) ([]byte, error) {
		if suffix == JSON {
			return joined, nil
		}
		return d.joinProtobuf(extra)
	}}, nil
}

func (d *Documents) joinProtobuf(added []byte) ([]byte, error) {
	doc, err := openapiv2.ParseDocument(added)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	doc.Swagger, doc.Info = "", nil // the built-in ones stand
	encoded, err := proto.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	extra, err := compress(encoded)
	if err != nil {
		return nil, err
	}
	static, err := d.builtIn.file(V2File + Protobuf)
	if err != nil {
		return nil, err
	}
	return slices.Concat(static, extra), nil // gzip has no objection to a second part
}

// members is the inside of a JSON object, to follow other members.
func members[V any](m map[string]V) ([]byte, error) {
	if len(m) == 0 {
		return nil, nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	raw[0] = ','
	return raw[:len(raw)-1], nil
}

func hash(content []byte) string { return fmt.Sprintf("%X", sha512.Sum512(content)) }
