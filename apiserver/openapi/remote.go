// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Remote is a group version that another server serves.
type Remote struct {
	Path  string // "apis/metrics.k8s.io/v1beta1"
	State string // changes when the server may be another one
	// Get asks the server. The caller closes the body.
	Get func(ctx context.Context, path string, header http.Header) (*http.Response, error)
}

const (
	// remoteTTL is how long a remote server's document is taken for current, as upstream does.
	remoteTTL = time.Minute
	// remoteTimeout bounds how long a slow server delays the documents of all others.
	remoteTimeout = 5 * time.Second
	// remoteLimit is the size in bytes that no document has.
	remoteLimit = 64 << 20
)

// remoteVersions keeps what remote servers have said of themselves. They are asked when somebody asks us. A
// server that does not answer is described by its last answer.
type remoteVersions struct {
	list func() ([]Remote, error)

	mu    sync.Mutex
	known map[string]*remoteVersion // guarded by mu; by path
}

type remoteVersion struct {
	state string

	mu     sync.Mutex // guards what follows; held while asking
	v2, v3 remoteDocument
}

// remoteDocument is one answer.
type remoteDocument struct {
	at   time.Time // of the last try
	etag string
	hash string
	v2   *spec.Swagger // of version 2, only the paths of the group version; must not be changed
	v3   *document     // of version 3
}

// all asks every remote server that has not been asked lately, at the same time, and returns those that have
// answered, ever, by path.
func (r *remoteVersions) all(ctx context.Context, version string) (map[string]remoteDocument, error) {
	if r.list == nil {
		return nil, nil
	}
	remotes, err := r.list()
	if err != nil {
		return nil, fmt.Errorf("list APIServices: %w", err)
	}
	out := make(map[string]remoteDocument, len(remotes))
	var wg sync.WaitGroup
	var mu sync.Mutex // guards out
	for remote, v := range r.current(remotes) {
		wg.Go(func() {
			doc := v.ask(ctx, remote, version)
			mu.Lock()
			defer mu.Unlock()
			if doc.hash != "" {
				out[remote.Path] = doc
			}
		})
	}
	wg.Wait()
	return out, nil
}

// current forgets those that are gone or are other servers now.
func (r *remoteVersions) current(remotes []Remote) map[*Remote]*remoteVersion {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, out := make(map[string]*remoteVersion, len(remotes)), make(map[*Remote]*remoteVersion, len(remotes))
	for i := range remotes {
		v := r.known[remotes[i].Path]
		if v == nil || v.state != remotes[i].State {
			v = &remoteVersion{state: remotes[i].State}
		}
		known[remotes[i].Path], out[&remotes[i]] = v, v
	}
	r.known = known
	return out
}

func (v *remoteVersion) ask(ctx context.Context, remote *Remote, version string) remoteDocument {
	v.mu.Lock()
	defer v.mu.Unlock()
	doc, fetch := &v.v2, fetchV2
	if version == "v3" {
		doc, fetch = &v.v3, fetchV3
	}
	if time.Since(doc.at) < remoteTTL {
		return *doc
	}
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	doc.at = time.Now()
	if err := fetch(ctx, remote, doc); err != nil {
		klog.FromContext(ctx).Error(err, "Could not get the description of a remote API", "path", remote.Path)
	}
	return *doc
}

// fetchV2 keeps of the server's document what belongs to the group version.
func fetchV2(ctx context.Context, remote *Remote, doc *remoteDocument) error {
	raw, etag, err := download(ctx, remote, "/openapi/v2", doc.etag)
	if err != nil || raw == nil {
		return err
	}
	var swagger spec.Swagger
	if err := swagger.UnmarshalJSON(raw); err != nil {
		return fmt.Errorf("read /openapi/v2: %w", err)
	}
	doc.v2 = aggregator.FilterSpecByPathsWithoutSideEffects(&swagger, []string{"/" + remote.Path + "/"})
	doc.v2.Definitions = handler.PruneDefaults(doc.v2.Definitions)
	spellOutParameters(doc.v2)
	doc.etag, doc.hash = etag, hash(raw)
	return nil
}

// spellOutParameters puts the parameters that paths refer to where they are needed, so that the names in two
// documents cannot collide.
func spellOutParameters(s *spec.Swagger) {
	const prefix = "#/parameters/"
	spellOut := func(all []spec.Parameter) {
		for i := range all {
			if name, ok := strings.CutPrefix(all[i].Ref.String(), prefix); ok {
				all[i] = s.Parameters[name]
			}
		}
	}
	for _, path := range s.Paths.Paths {
		spellOut(path.Parameters)
		for _, operation := range []*spec.Operation{path.Get, path.Put, path.Post, path.Delete, path.Options, path.Head, path.Patch} {
			if operation != nil {
				spellOut(operation.Parameters)
			}
		}
	}
	s.Parameters = nil
}

// fetchV3 takes the document to which the server's index points. A server that has none, being too old, is
// described by its document of version 2.
func fetchV3(ctx context.Context, remote *Remote, doc *remoteDocument) error {
	raw, _, err := download(ctx, remote, "/openapi/v3", "")
	if err != nil {
		return err
	}
	if raw == nil {
		return convertV2(ctx, remote, doc)
	}
	var index handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(raw, &index); err != nil {
		return fmt.Errorf("read /openapi/v3: %w", err)
	}
	entry, ok := index.Paths[remote.Path]
	if !ok || entry.ServerRelativeURL == doc.etag {
		return nil // the address has a hash
	}
	if raw, _, err = download(ctx, remote, entry.ServerRelativeURL, ""); err != nil || raw == nil {
		return err
	}
	return doc.keepV3(raw, entry.ServerRelativeURL)
}

func convertV2(ctx context.Context, remote *Remote, doc *remoteDocument) error {
	old := remoteDocument{etag: doc.etag}
	if err := fetchV2(ctx, remote, &old); err != nil || old.v2 == nil {
		return err
	}
	raw, err := json.Marshal(openapiconv.ConvertV2ToV3(old.v2))
	if err != nil {
		return fmt.Errorf("convert /openapi/v2: %w", err)
	}
	return doc.keepV3(raw, old.etag)
}

func (d *remoteDocument) keepV3(raw []byte, etag string) error {
	compressed, err := compress(raw)
	if err != nil {
		return err
	}
	d.etag, d.hash = etag, hash(raw)
	d.v3 = newDocument(d.hash, compressed, handler3.ToV3ProtoBinary)
	return nil
}

// download returns nil if the server has no such document, or still the one with that tag.
func download(ctx context.Context, remote *Remote, path, etag string) (raw []byte, tag string, err error) {
	header := http.Header{"Accept": {"application/json"}}
	if etag != "" {
		header.Set("If-None-Match", etag)
	}
	response, err := remote.Get(ctx, path, header)
	if err != nil {
		return nil, "", fmt.Errorf("get %s: %w", path, err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusNotModified:
		return nil, "", nil
	default:
		return nil, "", fmt.Errorf("get %s: the server said %s", path, response.Status)
	}
	if raw, err = io.ReadAll(io.LimitReader(response.Body, remoteLimit)); err != nil {
		return nil, "", fmt.Errorf("get %s: %w", path, err)
	}
	return raw, response.Header.Get("Etag"), nil
}
