// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// pulled are the images that tests pull although the node has them.
var pulled = []string{testImages + "agnhost:2.66.1", testImages + "kitten:1.8"}

// pulledWithStorage is one more, which not every archive has.
const pulledWithStorage = storageImages + "csi-snapshotter:v8.6.0"

// Registry is a registry for some images of an archive, by the paths that they have at registry.k8s.io. It remembers
// what it was asked for.
type Registry struct {
	handler http.Handler

	mu      sync.Mutex     // guards what follows
	served  map[string]int // how often each image was asked for
	refused map[string]int // and each that is not there
}

// NewRegistry reads the images. It keeps them in memory.
func NewRegistry(ctx context.Context, archive string) (*Registry, error) {
	r := &Registry{
		handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		served:  map[string]int{}, refused: map[string]int{},
	}
	all, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err != nil {
		return nil, fmt.Errorf("read what images there are: %w", err)
	}
	refs := slices.Clone(pulled)
	for _, image := range all {
		if slices.Contains(image.RepoTags, pulledWithStorage) {
			refs = append(refs, pulledWithStorage)
		}
	}
	for _, ref := range refs {
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
	server := &http.Server{Handler: http.HandlerFunc(r.serve)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// Served and Refused are the images that nodes have asked for, such as "docker.io/library/webserver:404", and
// how often.
func (r *Registry) Served() map[string]int  { return r.copyOf(r.served) }
func (r *Registry) Refused() map[string]int { return r.copyOf(r.refused) }

func (r *Registry) copyOf(counts map[string]int) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(counts)
}

// serve answers a node, and counts what it begins a pull with. A registry at a port of the node's own is another one.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	if host := req.URL.Query().Get("ns"); strings.HasPrefix(host, "localhost:") {
		http.Redirect(w, req, "http://"+host+req.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	status := &statusWriter{ResponseWriter: w}
	r.handler.ServeHTTP(status, req)
	image, ok := imageOf(req)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if status.code == http.StatusNotFound {
		r.refused[image]++
	} else {
		r.served[image]++
	}
}

// imageOf is the image whose manifest a request resolves. A mirror is told in the query whose mirror it is.
func imageOf(req *http.Request) (image string, ok bool) {
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	repository, reference, found := strings.Cut(path, "/manifests/")
	if !ok || !found || req.Method != http.MethodHead {
		return "", false
	}
	separator := ":"
	if strings.Contains(reference, ":") {
		separator = "@"
	}
	return req.URL.Query().Get("ns") + "/" + repository + separator + reference, true
}

type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
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
