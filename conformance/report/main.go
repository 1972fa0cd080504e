// SPDX-License-Identifier: Apache-2.0

// Command report renders results.json as REPORT.md, in the directory of this module.
package main

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/conformance/results"
)

func main() {
	if err := report(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance-report:", err)
		os.Exit(1)
	}
}

func report() error {
	r, err := results.Read("results.json")
	if err != nil {
		return err
	}
	content, err := os.ReadFile("impossible.yaml")
	if err != nil {
		return err
	}
	var impossible []results.Impossible
	if err := yaml.UnmarshalStrict(content, &impossible); err != nil {
		return fmt.Errorf("read impossible.yaml: %w", err)
	}
	return os.WriteFile("REPORT.md", []byte(r.Markdown(impossible)), 0o644)
}
