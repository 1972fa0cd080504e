// SPDX-License-Identifier: Apache-2.0

// Package rbac describes the resources of the API group of that name.
package rbac

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
)

// Deps is what resources of this group need besides their own storage.
type Deps struct {
	// Permit refuses a role or binding that gives more than its writer has; old is nil on create (nil: all is
	// allowed).
	Permit func(ctx context.Context, obj, old runtime.Object) error
}
