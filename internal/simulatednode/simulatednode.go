// SPDX-License-Identifier: Apache-2.0

// Package simulatednode tells the nodes that exist in the API only (kubelet/simulated) from others, for who would reach for the machine.
package simulatednode

// Label is on all simulated nodes.
const Label = "simulated.skiff.io/node"
