// SPDX-License-Identifier: Apache-2.0

// Package skiff holds what Skiff promises and upstream's suite does not test. Each test starts with its sentence:
// what MUST be. `make conformance-skiff` runs them on test hosts; with KUBECONFIG= those that ask nothing but an
// API run against that cluster, and the others say that they need a host.
//
// What the tests of the command line and of whole nodes already hold is not here again:
//
//   - An unknown flag, command or value MUST be named, with exit code 1: cmd/skiff, TestWrongUse.
//   - A busy port, a broken database, a second server, a missing right MUST each be one line that says what to do:
//     e2e, TestCannotStart.
//   - Containers MUST outlive a kill -9 of the server, and be found again: e2e, TestWeb.
//   - Stop and uninstall MUST leave nothing behind: e2e, TestStopAndUninstall.
//   - skiff kubectl MUST print what upstream's kubectl prints: e2e, TestStockKubectl.
package skiff
