// SPDX-License-Identifier: Apache-2.0

// Package containers makes the containers of one pod on this node what the pod's spec says, through CRI.
//
// Read it in this order:
//
//   - status.go reads the world: the sandboxes and containers that the runtime has for a pod.
//   - plan.go decides, without I/O, what to kill and what to start next.
//   - sync.go carries a plan out; kill.go ends containers in order and within their grace period.
//   - sandbox.go, container.go, security.go, resources.go translate a pod to CRI messages.
//   - gc.go removes what is dead.
//
// All that must survive a restart of this process is written on the containers themselves, as the
// labels and annotations that every kubelet uses (labels.go). The package keeps only back-off times.
package containers
