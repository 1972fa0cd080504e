// SPDX-License-Identifier: Apache-2.0

// Package discovery describes the resources of the API group of that name.
package discovery
