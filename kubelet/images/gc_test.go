// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shelf is a runtime with images, of which some are in use.
type shelf struct {
	runtimeapi.ImageServiceClient
	runtimeapi.RuntimeServiceClient
	dir         string
	images      []*runtimeapi.Image
	used        []string // by ID
	usedDigests []string // by digest, by a runtime that does not tell the IDs
}

func (s *shelf) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: slices.Clone(s.images)}, nil
}

func (s *shelf) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error) {
	s.images = slices.DeleteFunc(s.images, func(i *runtimeapi.Image) bool { return i.GetId() == req.GetImage().GetImage() })
	return &runtimeapi.RemoveImageResponse{}, nil
}

func (s *shelf) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.dir}}}}, nil
}

func (s *shelf) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	for _, id := range s.used {
		resp.Containers = append(resp.Containers, &runtimeapi.Container{ImageId: id})
	}
	for _, digest := range s.usedDigests {
		resp.Containers = append(resp.Containers, &runtimeapi.Container{ImageRef: digest})
	}
	return resp, nil
}

func (s *shelf) ids() []string {
	var ids []string
	for _, i := range s.images {
		ids = append(ids, i.GetId())
	}
	return ids
}

// A full disk loses the images that nobody has used for longest, until it is empty enough; never one that is in use,
// pinned, or was just pulled.
func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const whole = 1 << 60 // more than any disk: removing one such image is enough
		s := &shelf{dir: t.TempDir(), used: []string{"used"}}
		for _, id := range []string{"used", "recent", "old", "pinned"} {
			s.images = append(s.images, &runtimeapi.Image{Id: id, Size: whole, Pinned: id == "pinned"})
		}
		full := NewCollector(GCConfig{HighPercent: 0, LowPercent: 0, MinAge: 2 * time.Minute}, s, s, func() []string { return nil }, func(string) error { return nil })
		collect := func(want ...string) {
			t.Helper()
			var tooFull *TooFull // unless one of the big images went
			before := len(s.images)
			if err := full.Collect(t.Context()); (before == len(s.images)) != errors.As(err, &tooFull) || err != nil && tooFull == nil {
				t.Fatal(err)
			}
			if got := s.ids(); !slices.Equal(got, want) {
				t.Errorf("after %s there are %v, want %v", time.Now().Format(time.TimeOnly), got, want)
			}
		}
		s.used = append(s.used, "recent")
		collect("used", "recent", "old", "pinned") // just seen for the first time
		time.Sleep(time.Minute)
		collect("used", "recent", "old", "pinned")
		s.used = s.used[:1]
		time.Sleep(2 * time.Minute)
		collect("used", "recent", "pinned")
		collect("used", "pinned")
		collect("used", "pinned")
	})
}

func TestCollectNothingWhileThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{dir: t.TempDir(), images: []*runtimeapi.Image{{Id: "old", Size: 1}}}
		c := NewCollector(GCConfig{HighPercent: 101, LowPercent: 80}, s, s, func() []string { return nil }, func(string) error { return nil })
		for range 3 {
			if err := c.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		if len(s.images) != 1 {
			t.Error("an image was removed although the disk has room")
		}
		if err := c.Free(t.Context()); err != nil || len(s.images) != 0 {
			t.Errorf("Free left %v, %v", s.ids(), err)
		}
	})
}

// An image is in use also when the runtime tells only its digest.
func TestFreeKeepsWhatIsUsedByDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{dir: t.TempDir(), usedDigests: []string{"registry.example/a@sha256:1"}, images: []*runtimeapi.Image{
			{Id: "a", RepoDigests: []string{"registry.example/b@sha256:1", "registry.example/a@sha256:1"}}, {Id: "b", RepoDigests: []string{"registry.example/a@sha256:2"}},
		}}
		c := NewCollector(GCConfig{}, s, s, func() []string { return nil }, func(string) error { return nil })
		for range 2 {
			if err := c.Free(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		if left := s.ids(); !slices.Equal(left, []string{"a"}) {
			t.Errorf("left are %v, want the one in use", left)
		}
	})
}

func TestTooFull(t *testing.T) {
	want := "Insufficient free disk space on the node's image filesystem (91% of 1.5 TiB used). Failed to free sufficient space by deleting unused images (freed 7 bytes). " +
		"Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
	if got := (&TooFull{Percent: 91, Capacity: 3 << 39, Freed: 7}).Error(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for bytes, want := range map[int64]string{1023: "1023 B", 1024: "1.0 KiB", 1536 << 10: "1.5 MiB", 5 << 30: "5.0 GiB", 5 << 50: "5120.0 TiB"} {
		if got := sizeText(bytes); got != want {
			t.Errorf("%d bytes are %s, want %s", bytes, got, want)
		}
	}
}
