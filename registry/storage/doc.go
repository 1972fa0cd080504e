// SPDX-License-Identifier: Apache-2.0

// Package storage describes the resources of the API group of that name.
package storage
