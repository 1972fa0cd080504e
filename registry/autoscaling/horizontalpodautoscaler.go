// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"context"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// HorizontalPodAutoscalers says what is particular to horizontalpodautoscalers.
func HorizontalPodAutoscalers() rest.Resource[*autoscalingv2.HorizontalPodAutoscaler] {
	return rest.Resource[*autoscalingv2.HorizontalPodAutoscaler]{
		Kind:       autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		Plural:     "horizontalpodautoscalers",
		Singular:   "horizontalpodautoscaler",
		Columns:    horizontalPodAutoscalerColumns(),
		ShortNames: []string{"hpa"},
		Categories: []string{"all"},
		Namespaced: true,
		Served:     []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
		Default:    defaultHorizontalPodAutoscaler,
		// The annotations of version 1 exist nowhere else.
		PrepareCreate: func(_ context.Context, h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Annotations = withoutOwn(h.Annotations)
		},
		PrepareUpdate:  func(h, _ *autoscalingv2.HorizontalPodAutoscaler) { h.Annotations = withoutOwn(h.Annotations) },
		Validate:       validateHorizontalPodAutoscaler,
		ValidateUpdate: validateHorizontalPodAutoscalerUpdate,
		ValidateStatus: validateHorizontalPodAutoscalerStatus,
	}
}
