// SPDX-License-Identifier: Apache-2.0

// Package openapi tells clients what the API looks like: /openapi/v2, one document of everything, and
// /openapi/v3, an index and a document per group version.
//
// The documents of the built-in types are made when the server is built (go run ./apiserver/openapi/generate)
// and lie compressed in the binary; they are handed out as they are and cost nothing before. Those of custom
// resources are made when somebody asks, from the definitions there are at that moment, and kept compressed
// until a definition changes.
package openapi

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"k8s.io/klog/v2"
)

// Index is what files/index.json says about the other files there.
type Index struct {
	V2 struct {
		Hash     string `json:"hash"`     // of the JSON form
		PathsEnd int    `json:"pathsEnd"` // where the JSON form's paths are closed; its definitions end with it
	} `json:"v2"`
	// V3 has the hash of each group version's JSON form, under its path ("apis/apps/v1").
	V3 map[string]string `json:"v3"`
}

// The forms of a document, as ends of file names.
const (
	JSON     = ".json.gz"
	Protobuf = ".pb.gz"
)

// SchemaFile is the name of the file for server-side apply: the same types, as it wants to know them.
const SchemaFile = "schema.gob.gz"

// V2File is the name of the file of version 2, without its form.
const V2File = "v2"

// V3File is the name of the file of a group version, without its form.
func V3File(name string) string { return "v3/" + name }

//go:embed files
var files embed.FS

// builtIn reads the index once.
type builtIn struct {
	once  sync.Once
	index Index
}

// get returns the index. A server that was built without documents has none for the built-in types.
func (b *builtIn) get() Index {
	b.once.Do(func() {
		raw, err := files.ReadFile("files/index.json")
		if err == nil {
			err = json.Unmarshal(raw, &b.index)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("built without OpenAPI documents: run make")
		}
		if err != nil {
			klog.Background().Error(err, "OpenAPI describes custom resources only")
		}
	})
	return b.index
}

// file returns a compressed document.
func (b *builtIn) file(name string) ([]byte, error) {
	raw, err := files.ReadFile("files/" + name)
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	return raw, nil
}
