// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// saysDriver is a connection to a runtime that answers with one configuration, or an error.
type saysDriver struct {
	grpc.ClientConnInterface
	answer *runtimeapi.RuntimeConfigResponse
	err    error
}

func (s saysDriver) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	proto.Merge(reply.(proto.Message), s.answer)
	return s.err
}

func TestRuntimeCgroupDriver(t *testing.T) {
	of := func(d runtimeapi.CgroupDriver) *runtimeapi.RuntimeConfigResponse {
		return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: d}}
	}
	for name, c := range map[string]struct {
		says saysDriver
		want CgroupDriver
	}{
		"systemd":       {saysDriver{answer: of(runtimeapi.CgroupDriver_SYSTEMD)}, Systemd},
		"cgroupfs":      {saysDriver{answer: of(runtimeapi.CgroupDriver_CGROUPFS)}, Cgroupfs},
		"nothing":       {saysDriver{answer: &runtimeapi.RuntimeConfigResponse{}}, DetectCgroupDriver()},
		"unimplemented": {saysDriver{answer: &runtimeapi.RuntimeConfigResponse{}, err: grpcstatus.Error(codes.Unimplemented, "unknown method")}, DetectCgroupDriver()},
	} {
		if got, err := RuntimeCgroupDriver(t.Context(), c.says); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
	away := errors.New("nobody listens")
	if _, err := RuntimeCgroupDriver(t.Context(), saysDriver{answer: &runtimeapi.RuntimeConfigResponse{}, err: away}); !errors.Is(err, away) {
		t.Errorf("without an answer: %v, want %v", err, away)
	}
}
