// SPDX-License-Identifier: Apache-2.0

// Command report renders results.json as REPORT.md, and beyond.json as BEYOND.md, in the directory of this module.
package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"

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
	content, err := os.ReadFile("impossible.yaml")
	if err != nil {
		return err
	}
	var impossible []results.Impossible
	if err := yaml.UnmarshalStrict(content, &impossible); err != nil {
		return fmt.Errorf("read impossible.yaml: %w", err)
	}
	for _, i := range impossible {
		if _, err := regexp.Compile(i.Matching); err != nil {
			return fmt.Errorf("read impossible.yaml: %w", err)
		}
	}
	return errors.Join(
		render("results.json", "REPORT.md", "# Conformance", "conformance tests", impossible),
		render("beyond.json", "BEYOND.md", "# Beyond conformance", "of upstream's other end-to-end tests", impossible),
	)
}

func render(from, to, title, tests string, impossible []results.Impossible) error {
	r, err := results.Read(from)
	if err != nil || len(r.Tests) == 0 { // there is no table of nothing
		return err
	}
	return os.WriteFile(to, []byte(r.Markdown(title, tests, from, impossible)), 0o644)
}
