// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMatchesImage(t *testing.T) {
	for _, c := range []struct {
		registry, image string
		want            bool
	}{
		{"https://index.docker.io/v1/", "busybox", true},
		{"docker.io", "library/busybox:1", true},
		{"registry.example.com", "registry.example.com/a/b:1", true},
		{"registry.example.com/a", "registry.example.com/b:1", false},
		{"*.example.com", "registry.example.com/b:1", true},
		{"*.example.com", "a.registry.example.com/b:1", false},
		{"registry.example.com:5000", "registry.example.com/b:1", false},
	} {
		if got := matchesImage(c.registry, c.image); got != c.want {
			t.Errorf("matchesImage(%q, %q) = %t", c.registry, c.image, got)
		}
	}
}

func TestWithTag(t *testing.T) {
	for image, want := range map[string]string{
		"busybox": "busybox:latest", "a.io/b:1": "a.io/b:1", "localhost:5000/x": "localhost:5000/x:latest", "Not An Image": "",
	} {
		if got, err := withTag(image); got != want || (err != nil) != (want == "") {
			t.Errorf("withTag(%q) = %q, %v; want %q", image, got, err, want)
		}
	}
}

// failing is a runtime that has no image and cannot get any.
type failing struct {
	runtimeapi.ImageServiceClient
	err error
}

func (failing) ImageStatus(context.Context, *runtimeapi.ImageStatusRequest, ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (f failing) PullImage(context.Context, *runtimeapi.PullImageRequest, ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	return nil, f.err
}

// What the runtime says about a pull that failed shows in the pod's status, also while it waits for the next one.
func TestFailedPulls(t *testing.T) {
	for said, want := range map[error]struct{ reason, message string }{
		grpcstatus.Error(codes.NotFound, "no such image"):                      {ReasonErrImagePull, "rpc error: code = NotFound desc = no such image"},
		grpcstatus.Error(codes.Unknown, "no such image"):                       {ReasonErrImagePull, "no such image"},
		grpcstatus.Error(codes.Unknown, "RegistryUnavailable: it is away"):     {ReasonRegistryDown, "image pull failed for a.io/b:1 because the registry is unavailable: it is away"},
		grpcstatus.Error(codes.Unknown, "SignatureValidationFailed: not ours"): {ReasonSignature, "image pull failed for a.io/b:1 because the signature validation failed: not ours"},
		grpcstatus.Error(codes.Unknown, "cannot say RegistryUnavailable"):      {ReasonErrImagePull, "cannot say RegistryUnavailable"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPuller(Config{}, failing{err: said}, safe{}, record.NewFakeRecorder(1000))
			c := &v1.Container{Name: "c", Image: "a.io/b:1"}
			_, err := p.Ensure(t.Context(), podWith("p"), c, nil, "")
			if err.Reason != want.reason || err.Message != want.message {
				t.Errorf("%v: %s: %s; want %s: %s", said, err.Reason, err.Message, want.reason, want.message)
			}
			time.Sleep(time.Second)
			_, err = p.Ensure(t.Context(), podWith("p"), c, nil, "")
			if wait := `Back-off pulling image "a.io/b:1": ` + want.reason + ": " + want.message; err.Reason != ReasonImagePullBackOff || err.Message != wait {
				t.Errorf("%v: %s: %s; want %s", said, err.Reason, err.Message, wait)
			}
		})
	}
}
