// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Nodes says what is particular to nodes.
func Nodes() rest.Resource[*corev1.Node] {
	return rest.Resource[*corev1.Node]{
		Kind:         corev1.SchemeGroupVersion.WithKind("Node"),
		Plural:       "nodes",
		Singular:     "node",
		ShortNames:   []string{"no"},
		KeyPrefix:    "minions",
		NoGeneration: true,
		Fields: func(o *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(o.Spec.Unschedulable)}
		},
	}
}
