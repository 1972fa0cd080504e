// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/klog/v2"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// TypeConverter tells server-side apply how the built-in types are made up. It reads the schema when it is
// called for the first time in the process, which takes a fifth of the time and garbage of client-go's YAML.
// That is what a server gets which was built without documents, as one in a test of another module is.
func TypeConverter(scheme *runtime.Scheme) managedfields.TypeConverter {
	if parser := schemaParser(); parser != nil {
		return managedfields.NewSchemeTypeConverter(scheme, parser)
	}
	return applyconfigurations.NewTypeConverter(scheme)
}

// schemaParser is nil if there is no file.
var schemaParser = sync.OnceValue(func() *typed.Parser {
	parser, err := readSchema()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.Background().Error(err, "Server-side apply uses the schema of client-go")
	}
	return parser
})

func readSchema() (*typed.Parser, error) {
	compressed, err := files.ReadFile("files/" + SchemaFile)
	if err != nil {
		return nil, err
	}
	raw, err := decompress(compressed)
	if err != nil {
		return nil, err
	}
	parser := &typed.Parser{Schema: schema.Schema{}}
	if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(&parser.Schema); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	return parser, nil
}
