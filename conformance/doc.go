// SPDX-License-Identifier: Apache-2.0

// Package conformance is the bench on which Kubernetes' own conformance suite judges Skiff. It is a Go module
// of its own, so that k8s.io/kubernetes stays out of the product's dependencies.
//
// Read in this order:
//
//   - run is the command that does everything: `go run ./run --help`.
//   - programs builds e2e.test, kubectl and what the test images hold, from Go modules.
//   - debian takes the rest of the test images from Debian packages.
//   - images makes the test images, under upstream's names, and a registry to pull them from.
//   - cluster starts Skiff on test hosts, or uses the cluster of a kubeconfig.
//   - suite runs the tests and keeps their results; results and report say how it went.
//
// What takes long is made once and kept below the user's cache directory, keyed by what it was made from.
package conformance
