// SPDX-License-Identifier: Apache-2.0

// Package imagelocality prefers nodes that have the pod's images already, the more so the larger they are and the
// more nodes have them (so that one node is not flooded just because it pulled first).
package imagelocality

import (
	"context"
	"strings"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

const (
	mb = 1 << 20
	// Below minThreshold in all, and above maxPerImage for each image, size makes no difference.
	minThreshold = 23 * mb
	maxPerImage  = 1000 * mb
)

type plugin struct{}

// state is what the pod asks for.
type state struct {
	images []string // normalized, one for each container and image volume
	nodes  int64    // in the cluster
}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "ImageLocality" }

func (plugin) PreScore(_ context.Context, pod *framework.PodInfo, view *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	spec := &pod.Pod.Spec
	s := &state{nodes: int64(len(view.Nodes))}
	for i := range spec.InitContainers {
		s.images = append(s.images, normalize(spec.InitContainers[i].Image))
	}
	for i := range spec.Containers {
		s.images = append(s.images, normalize(spec.Containers[i].Image))
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			s.images = append(s.images, normalize(image.Reference))
		}
	}
	return s, nil
}

func (plugin) Score(st framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	s := st.(*state)
	if len(s.images) == 0 || len(node.Images) == 0 {
		return 0
	}
	sum := int64(0)
	for _, name := range s.images {
		if image := node.Images[name]; image != nil {
			sum += int64(float64(image.Size) * float64(image.Nodes.Load()) / float64(s.nodes))
		}
	}
	highest := maxPerImage * int64(len(s.images))
	sum = min(max(sum, minThreshold), highest)
	return framework.MaxScore * (sum - minThreshold) / (highest - minThreshold)
}

// normalize gives a name without a tag the tag that it means.
func normalize(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		name += ":latest"
	}
	return name
}
