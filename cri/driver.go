// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const startPatience = 15 * time.Second // for a runtime that is starting, too

// RuntimeCgroupDriver asks somebody else's runtime who makes the cgroups of its containers: the kubelet has to name them as that
// one expects, and CRI-O refuses pods otherwise. A runtime that does not say has what fits the machine.
func RuntimeCgroupDriver(ctx context.Context, conn grpc.ClientConnInterface) (CgroupDriver, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	answer, err := runtimeapi.NewRuntimeServiceClient(conn).RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{}, grpc.WaitForReady(true))
	switch {
	case grpcstatus.Code(err) == codes.Unimplemented:
		return DetectCgroupDriver(), nil
	case err != nil:
		return "", fmt.Errorf("ask the container runtime for its cgroup driver: %w", err)
	case answer.GetLinux() == nil: // systemd would be what an absent answer says
		return DetectCgroupDriver(), nil
	case answer.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD:
		return Systemd, nil
	}
	return Cgroupfs, nil
}
