// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Mirrored is the registry that tests pull from.
const Mirrored = "registry.k8s.io"

// pulled are the images that tests pull although the node has them.
var pulled = []string{testImages + "agnhost:2.66.1", testImages + "kitten:1.8"}

// Registry is a registry for some images of an archive, by the paths that they have at Mirrored.
type Registry struct{ handler http.Handler }

// NewRegistry reads the images. It keeps them in memory.
func NewRegistry(ctx context.Context, archive string) (*Registry, error) {
	r := &Registry{handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	for _, ref := range pulled {
		tag, err := name.NewTag(ref)
		if err != nil {
			return nil, err
		}
		img, err := tarball.ImageFromPath(archive, &tag)
		if err != nil {
			return nil, fmt.Errorf("read image %s: %w", ref, err)
		}
		if err := remote.Write(tag, img, remote.WithContext(ctx), remote.WithTransport(r)); err != nil {
			return nil, fmt.Errorf("put image %s into the registry: %w", ref, err)
		}
	}
	return r, nil
}

// Serve answers on l until ctx ends.
func (r *Registry) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: r.handler}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// RoundTrip lets the registry's own images be pushed without a connection.
func (r *Registry) RoundTrip(req *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	if req.Body == nil {
		req.Body = http.NoBody
	}
	r.handler.ServeHTTP(recorder, req)
	response := recorder.Result()
	response.Request = req
	return response, nil
}
