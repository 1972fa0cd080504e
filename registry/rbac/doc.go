// SPDX-License-Identifier: Apache-2.0

// Package rbac describes the resources of the API group of that name.
package rbac
