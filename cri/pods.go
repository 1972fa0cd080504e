// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveAllPods ends all pods of a runtime at once, without their grace period, and removes them: for the
// end of a node, when no kubelet runs any more.
func RemoveAllPods(ctx context.Context, runtime runtimeapi.RuntimeServiceClient) error {
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pod sandboxes: %w", err)
	}
	var errs []error
	for _, pod := range list.Items {
		if err := removePod(ctx, runtime, pod.Id); err != nil {
			errs = append(errs, fmt.Errorf("remove pod %s/%s: %w", pod.GetMetadata().GetNamespace(), pod.GetMetadata().GetName(), err))
		}
	}
	return errors.Join(errs...)
}

func removePod(ctx context.Context, runtime runtimeapi.RuntimeServiceClient, id string) error {
	if _, err := runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}
