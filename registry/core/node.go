// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Nodes says what is particular to nodes.
func Nodes(deps Deps) rest.Resource[*corev1.Node] {
	return rest.Resource[*corev1.Node]{
		Kind:                corev1.SchemeGroupVersion.WithKind("Node"),
		Plural:              "nodes",
		Singular:            "node",
		Columns:             nodeColumns(),
		ShortNames:          []string{"no"},
		KeyPrefix:           "minions",
		NoGeneration:        true,
		StatusOnCreate:      true, // a kubelet registers with all that it knows
		Default:             defaultNode,
		PrepareCreate:       func(_ context.Context, o *corev1.Node) { prepareNodeCreate(o) },
		PrepareUpdate:       prepareNodeUpdate,
		Validate:            validateNode,
		ValidateUpdate:      validateNodeUpdate,
		PrepareStatusUpdate: prepareNodeStatusUpdate,
		ValidateStatus:      validateNodeStatus,
		Warnings:            func(o, _ *corev1.Node) []string { return nodeWarnings(o) },
		Fields:              nodeFields,
		Subresources: func(*rest.Store, *rest.Store) map[string]genericrest.Storage {
			if deps.NodeProxy == nil {
				return nil
			}
			return map[string]genericrest.Storage{"proxy": deps.NodeProxy}
		},
	}
}
