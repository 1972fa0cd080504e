// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/munnerz/goautoneg"
	"k8s.io/klog/v2"
)

// Mux is where the documents are published.
type Mux interface {
	Handle(path string, handler http.Handler)
	UnlistedHandlePrefix(path string, handler http.Handler)
}

// Install publishes the documents.
func (d *Documents) Install(mux Mux) {
	mux.Handle("/openapi/v2", http.HandlerFunc(d.serveV2))
	mux.Handle("/openapi/v3", http.HandlerFunc(d.serveIndex))
	mux.UnlistedHandlePrefix("/openapi/v3/", http.HandlerFunc(d.serveV3))
}

func (d *Documents) serveV2(w http.ResponseWriter, r *http.Request) {
	doc, err := d.v2(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	serve(w, r, doc, "v2")
}

// serveIndex tells for each group version where its document is. The address has a hash, so that clients
// may keep the document for as long as the address stays.
func (d *Documents) serveIndex(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	all, err := d.v3(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	for name, doc := range all {
		paths[name] = entry{address(name, doc.hash)}
	}
	raw, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		fail(w, r, err)
		return
	}
	w.Header().Set("Etag", strconv.Quote(hash(raw)))
	w.Header().Set("Content-Type", "application/json")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
}

func address(name, hash string) string {
	u := url.URL{Path: "/openapi/v3/" + name, RawQuery: url.Values{"hash": {hash}}.Encode()}
	return u.String()
}

func (d *Documents) serveV3(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	all, err := d.v3(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	doc, ok := all[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if wanted := r.URL.Query().Get("hash"); wanted != "" {
		if wanted != doc.hash {
			http.Redirect(w, r, address(name, doc.hash), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	serve(w, r, doc, "v3")
}

// serve answers with the form of the document that the client likes best.
func serve(w http.ResponseWriter, r *http.Request, doc *document, version string) {
	w.Header().Add("Vary", "Accept")
	accept := r.Header.Get("Accept")
	if accept == "" {
		accept = "*/*"
	}
	suffix, contentType := "", ""
	for _, clause := range goautoneg.ParseAccept(accept) {
		if suffix, contentType = form(clause, version); suffix != "" {
			break
		}
	}
	if suffix == "" {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	compressed, err := doc.content(suffix)
	if err != nil {
		fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", strconv.Quote(doc.hash))
	write(w, r, compressed)
}

// form says which form of a document a clause of an Accept header means.
func form(clause goautoneg.Accept, version string) (suffix, contentType string) {
	protobuf := "com.github.proto-openapi.spec." + version + ".v1.0+protobuf"
	older := "com.github.proto-openapi.spec." + version + "@v1.0+protobuf"
	if clause.Type != "application" && clause.Type != "*" {
		return "", ""
	}
	switch clause.SubType {
	case "json", "*":
		return JSON, "application/json"
	case protobuf, older:
		return Protobuf, "application/" + protobuf
	}
	return "", ""
}

// write sends compressed content as it is to a client that can read it.
func write(w http.ResponseWriter, r *http.Request, compressed []byte) {
	w.Header().Add("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(compressed))
		return
	}
	plain, err := decompress(compressed)
	if err != nil {
		fail(w, r, err)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(plain))
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	klog.FromContext(r.Context()).Error(err, "Could not describe the API", "path", r.URL.Path)
	http.Error(w, "could not describe the API", http.StatusServiceUnavailable)
}

func decompress(compressed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("decompress an OpenAPI document: %w", err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("decompress an OpenAPI document: %w", err)
	}
	return plain, nil
}

func compress(plain []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(plain); err != nil {
		return nil, fmt.Errorf("compress an OpenAPI document: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress an OpenAPI document: %w", err)
	}
	return out.Bytes(), nil
}
