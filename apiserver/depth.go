// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// deepest is how many messages may lie in each other: more than any schema has.
const deepest = 1000

// refuseDeep refuses definitions whose schemas lie in each other without an end. The decoder of protobuf calls itself
// for each, and 3 MB of them are more than Go gives to a stack, which ends the process. (JSON and YAML have limits, and
// no other type contains itself.)
func refuseDeep(r *http.Request, info *request.RequestInfo) {
	if info.APIGroup != apiextensions.GroupName {
		return
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && media == runtime.ContentTypeProtobuf {
		r.Body = &flat{ReadCloser: r.Body}
	}
}

// flat is a body that is looked at as a whole before the first byte is handed on.
type flat struct {
	io.ReadCloser
	seen io.Reader // nil before that
}

func (f *flat) Read(p []byte) (int, error) {
	if f.seen == nil {
		content, err := io.ReadAll(io.LimitReader(f.ReadCloser, maxBody+1)) // what is longer is refused anyway
		if err != nil {
			return 0, err
		}
		if deeper(bytes.TrimPrefix(content, []byte("k8s\x00")), deepest) {
			return 0, apierrors.NewBadRequest(fmt.Sprintf("there are more than %d objects in each other", deepest))
		}
		f.seen = io.MultiReader(bytes.NewReader(content), f.ReadCloser)
	}
	return f.seen.Read(p)
}

// deeper tells whether more than limit messages lie in each other in what protobuf's decoders may be given. It does
// not know their types, so whatever reads like a message is one; it looks at no byte twice.
func deeper(message []byte, limit int) bool {
	type part struct {
		content []byte
		depth   int
	}
	for parts := []part{{message, 0}}; len(parts) > 0; {
		p := parts[len(parts)-1]
		parts = parts[:len(parts)-1]
		if p.depth > limit {
			return true
		}
		for len(p.content) > 0 {
			number, kind, n := protowire.ConsumeTag(p.content)
			if n < 0 {
				break // decoders give up here, too
			}
			p.content = p.content[n:]
			if n = protowire.ConsumeFieldValue(number, kind, p.content); n < 0 {
				break
			}
			if kind == protowire.BytesType {
				if inner, _ := protowire.ConsumeBytes(p.content); len(inner) > 0 {
					parts = append(parts, part{inner, p.depth + 1})
				}
			}
			p.content = p.content[n:]
		}
	}
	return false
}
