// SPDX-License-Identifier: Apache-2.0

// Package storagemigration describes the resources of the API group of that name.
package storagemigration
