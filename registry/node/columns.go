// SPDX-License-Identifier: Apache-2.0

package node

import (
	nodev1 "k8s.io/api/node/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// runtimeClassColumns are what kubectl prints, in the order and the words of upstream.
func runtimeClassColumns() []rest.Column[*nodev1.RuntimeClass] {
	type R = *nodev1.RuntimeClass
	return []rest.Column[R]{
		rest.Name[R](),
		rest.Text("Handler", "", func(o R) string { return o.Handler }),
		rest.Age[R](),
	}
}
