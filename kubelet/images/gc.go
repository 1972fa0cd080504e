// SPDX-License-Identifier: Apache-2.0

package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/diskusage"
)

// GCConfig says when images that nobody uses are removed.
type GCConfig struct {
	HighPercent int                 // of the image file system in use: begin to remove; 85
	LowPercent  int                 // remove until no more than this is in use; 80
	MinAge      time.Duration       // an image is kept that long after it was last seen; 2 min
	Removed     func(reason string) // told of each that was removed: for its "age", or for "space"; may be nil
	MaxAge      time.Duration       // one that was not used for so long goes however much room there is; 0: it does not
}

// Collector removes images that nobody uses when the disk fills up.
type Collector struct {
	cfg    GCConfig
	images runtimeapi.ImageServiceClient
	cri    runtimeapi.RuntimeServiceClient
	others func() []string            // IDs of images that are in use, but are no container's
	gone   func(imageID string) error // told of each that was removed

	mu   sync.Mutex
	used map[string]time.Time // guarded by mu: image ID to when it was last in use, or first seen
}

// NewCollector makes a Collector. others are the IDs of images that are in use though no container has them; gone is told
// of each image that was removed.
func NewCollector(cfg GCConfig, images runtimeapi.ImageServiceClient, cri runtimeapi.RuntimeServiceClient, others func() []string, gone func(imageID string) error) *Collector {
	return &Collector{cfg: cfg, images: images, cri: cri, others: others, gone: gone, used: map[string]time.Time{}}
}

// TooFull says that the disk of images is too full with all unused images gone. Its text is what every kubelet says.
type TooFull struct {
	Percent, Capacity int64 // in use, of so many bytes
	Freed             int64 // bytes
}

func (e *TooFull) Error() string {
	return fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). Failed to free sufficient space by deleting unused images (freed %d bytes). "+
		"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", e.Percent, sizeText(e.Capacity), e.Freed)
}

func sizeText(bytes int64) string {
	size, units := float64(bytes), []string{"KiB", "MiB", "GiB", "TiB"}
	if size < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	i := 0
	for size /= 1024; size >= 1024 && i < len(units)-1; i++ {
		size /= 1024
	}
	return fmt.Sprintf("%.1f %s", size, units[i])
}

// Collect looks once, and removes the longest unused images if the disk is too full. If that is not enough it returns TooFull.
func (c *Collector) Collect(ctx context.Context) error {
	unused, err := c.look(ctx, time.Now())
	if err != nil {
		return err
	}
	free, full, err := c.excess(ctx)
	if err != nil {
		return err
	}
	var errs []error
	var freed int64
	for _, image := range unused {
		old := c.tooOld(image.GetId())
		if free <= 0 && !old {
			continue
		}
		if err := c.remove(ctx, image, old); err != nil {
			errs = append(errs, err)
			continue
		}
		freed += int64(image.GetSize())
		free -= int64(image.GetSize())
	}
	if free > 0 && len(errs) == 0 {
		full.Freed = freed
		return full
	}
	return errors.Join(errs...)
}

// Free removes all images that nobody uses, to make room.
func (c *Collector) Free(ctx context.Context) error {
	unused, err := c.look(ctx, time.Now())
	if err != nil {
		return err
	}
	var errs []error
	for _, image := range unused {
		errs = append(errs, c.remove(ctx, image, false))
	}
	return errors.Join(errs...)
}

func (c *Collector) remove(ctx context.Context, image *runtimeapi.Image, old bool) error {
	if _, err := c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image.GetId()}}); err != nil {
		return fmt.Errorf("remove image %s: %w", image.GetId(), err)
	}
	if c.cfg.Removed != nil {
		reason := "space"
		if old {
			reason = "age"
		}
		c.cfg.Removed(reason)
	}
	return c.gone(image.GetId())
}

func (c *Collector) tooOld(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.MaxAge > 0 && time.Since(c.used[id]) > c.cfg.MaxAge
}

// look brings the times of last use up to date and returns what may be removed, longest unused first.
func (c *Collector) look(ctx context.Context, now time.Time) (unused []*runtimeapi.Image, err error) {
	list, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := c.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	inUse := map[string]bool{}
	for _, container := range containers.GetContainers() {
		inUse[cmp.Or(container.GetImageId(), container.GetImageRef())] = true
	}
	for _, id := range c.others() {
		inUse[id] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]time.Time{}
	for _, image := range list.GetImages() {
		last, known := c.used[image.GetId()]
		// A runtime that does not tell the IDs of containers' images may tell their digests.
		used := inUse[image.GetId()] || slices.ContainsFunc(image.GetRepoDigests(), func(digest string) bool { return inUse[digest] })
		if used || !known {
			last = now
		}
		seen[image.GetId()] = last
		if !used && !image.GetPinned() && now.Sub(last) >= c.cfg.MinAge && known {
			unused = append(unused, image)
		}
	}
	c.used = seen
	slices.SortFunc(unused, func(a, b *runtimeapi.Image) int { return seen[a.GetId()].Compare(seen[b.GetId()]) })
	return unused, nil
}

// excess is how many bytes have to go, and how full the disk is; 0 or less while it is not too full.
func (c *Collector) excess(ctx context.Context) (int64, *TooFull, error) {
	info, err := c.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return 0, nil, fmt.Errorf("get image file system: %w", err)
	}
	for _, fs := range info.GetImageFilesystems() {
		f, err := diskusage.OfFileSystem(fs.GetFsId().GetMountpoint())
		if err != nil || f.Capacity == 0 {
			continue
		}
		size, available := int64(f.Capacity), int64(f.Available)
		if percent := (size - available) * 100 / size; percent >= int64(c.cfg.HighPercent) {
			return size*int64(100-c.cfg.LowPercent)/100 - available, &TooFull{Percent: percent, Capacity: size}, nil
		}
	}
	return 0, nil, nil
}
