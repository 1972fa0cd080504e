// SPDX-License-Identifier: Apache-2.0

// Package scheduling describes the resources of the API group of that name.
package scheduling
