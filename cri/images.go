// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/cri/bundle"
)

// Labels of images that came from an archive. An image that is pinned is not removed to free space: nobody
// could pull it again.
var importLabels = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// imported says what was imported from a file, so that the same is not imported at each start. It
// is only a hint: images that are gone are imported again.
type imported struct {
	Version string   `json:"version"` // differs when the file's content does
	Images  []string `json:"images"`
}

// archive is something that images are imported from.
type archive struct {
	name, version string
	open          func() (io.ReadCloser, error)
}

// importImages imports the bundled pause image and the archives in the image directory. An archive that is
// broken is logged and left out: it must not keep a node from starting.
func (c *Containerd) importImages(ctx context.Context, client *containerd.Client) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	logger := klog.FromContext(ctx)
	recordFile := filepath.Join(c.config.Root, "imported.json")
	record := readRecord(recordFile)
	pause, err := pauseArchive()
	if err != nil && !errors.Is(err, bundle.ErrMissing) {
		return err
	}
	var archives []archive
	if err == nil && pause.name == c.config.PauseImage {
		archives = append(archives, pause)
	}
	found, err := imageArchives(c.config.ImageDir)
	if err != nil {
		return err
	}
	changed := false
	for _, a := range append(archives, found...) {
		if old, ok := record[a.name]; ok && old.Version == a.version && haveAll(ctx, client, old.Images) {
			continue
		}
		started := time.Now()
		names, err := c.importArchive(ctx, client, a)
		if err != nil && (a.name == c.config.PauseImage || ctx.Err() != nil) {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if err != nil {
			logger.Error(err, "Cannot import images", "archive", a.name)
			continue
		}
		logger.Info("Imported images", "archive", a.name, "images", names, "took", time.Since(started).Round(time.Millisecond))
		record[a.name] = imported{Version: a.version, Images: names}
		changed = true
	}
	if !changed {
		return nil
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return os.WriteFile(recordFile, raw, 0o600)
}

func pauseArchive() (archive, error) {
	index, err := bundle.Read()
	if err != nil {
		return archive{}, err
	}
	return archive{name: index.PauseRef, version: index.Pause.SHA256, open: index.Pause.Open}, nil
}

// imageArchives lists the archives of a directory, by name.
func imageArchives(dir string) ([]archive, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var archives []archive
	for _, e := range entries {
		if !isArchive(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // and not e.Info: it may be a link
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive{
			name:    path,
			version: fmt.Sprintf("%d bytes of %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano)),
			open:    func() (io.ReadCloser, error) { return os.Open(path) },
		})
	}
	return archives, nil
}

func isArchive(name string) bool {
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.zst"}, func(suffix string) bool {
		return strings.HasSuffix(name, suffix)
	})
}

// readRecord reads the record of earlier imports. Without one, everything is imported again.
func readRecord(path string) map[string]imported {
	record := map[string]imported{}
	if raw, err := os.ReadFile(path); err == nil && json.Unmarshal(raw, &record) != nil {
		return map[string]imported{}
	}
	return record
}

func haveAll(ctx context.Context, client *containerd.Client, names []string) bool {
	for _, name := range names {
		if _, err := client.ImageService().Get(ctx, name); err != nil {
			return false
		}
	}
	return len(names) > 0
}

// importArchive imports all images of an archive and unpacks them, so that the first pod need not wait.
func (c *Containerd) importArchive(ctx context.Context, client *containerd.Client, a archive) ([]string, error) {
	file, err := a.open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stream, err := compression.DecompressStream(file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	// The lease keeps the layers until they are unpacked; without it they could be collected as garbage.
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer done(ctx)
	found, err := client.Import(ctx, stream, containerd.WithImageLabels(importLabels), containerd.WithSkipMissing())
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.New("there is no named image in it")
	}
	var names []string
	for _, img := range found {
		names = append(names, img.Name)
		if err := c.unpackImage(ctx, client, img); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", img.Name, err)
		}
	}
	return names, nil
}

func (c *Containerd) unpackImage(ctx context.Context, client *containerd.Client, img images.Image) error {
	image := containerd.NewImage(client, img)
	unpacked, err := image.IsUnpacked(ctx, c.config.Snapshotter)
	if err != nil || unpacked {
		return err
	}
	return image.Unpack(ctx, c.config.Snapshotter)
}
