// SPDX-License-Identifier: Apache-2.0

// Package core describes the resources of the legacy group: pods, services, nodes and their like.
package core
