// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/skiff-k8s/skiff/conformance/debian"
)

// entry is one file in a layer.
type entry struct {
	name    string // absolute
	mode    int64
	kind    byte   // of package tar; a regular file if 0
	link    string // for tar.TypeSymlink
	content []byte
	source  string // where the content is, if it is not in content
}

// text is a small file.
func text(name, content string) entry {
	return entry{name: name, mode: 0o644, content: []byte(content)}
}

// program is a file of this machine that can be executed.
func program(name, source string) entry { return entry{name: name, mode: 0o755, source: source} }

func link(name, target string) entry {
	return entry{name: name, mode: 0o777, kind: tar.TypeSymlink, link: target}
}

func dir(name string, mode int64) entry { return entry{name: name, mode: mode, kind: tar.TypeDir} }

// packaged are files of Debian packages with the libraries that they need.
func packaged(tree *debian.Tree, names ...string) ([]entry, error) {
	files, err := tree.Closure(names...)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, name := range files {
		info, err := os.Lstat(tree.Path(name))
		if err != nil {
			return nil, err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(tree.Path(name))
			if err != nil {
				return nil, err
			}
			entries = append(entries, link(name, target))
			continue
		}
		entries = append(entries, entry{name: name, mode: int64(info.Mode().Perm()), source: tree.Path(name)})
	}
	return entries, nil
}

// layer makes a layer. The same entries always give the same bytes. An entry with the name of an earlier one
// replaces it.
func layer(entries []entry) (v1.Layer, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range withDirs(entries) {
		if err := e.write(w); err != nil {
			return nil, fmt.Errorf("put %s into a layer: %w", e.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	}, tarball.WithCompressedCaching)
}

// withDirs adds the directories that entries lie in, and sorts.
func withDirs(entries []entry) []entry {
	byName := map[string]entry{}
	for _, e := range entries {
		for d := path.Dir(e.name); d != "/"; d = path.Dir(d) {
			if _, ok := byName[d]; !ok {
				byName[d] = dir(d, 0o755)
			}
		}
		byName[e.name] = e
	}
	var all []entry
	for _, e := range byName {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all
}

func (e entry) write(w *tar.Writer) error {
	if e.source != "" {
		content, err := os.ReadFile(e.source)
		if err != nil {
			return err
		}
		e.content = content
	}
	header := &tar.Header{
		Name: strings.TrimPrefix(e.name, "/"), Mode: e.mode, Typeflag: e.kind, Linkname: e.link,
		Size: int64(len(e.content)), Format: tar.FormatPAX,
	}
	if e.kind == 0 {
		header.Typeflag = tar.TypeReg
	}
	if e.kind == tar.TypeDir {
		header.Name += "/"
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(e.content)
	return err
}
