// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"path/filepath"

	"github.com/onsi/ginkgo/v2/reporters"
	"github.com/onsi/ginkgo/v2/types"
)

// writeJUnit writes one junit.xml for all processes of this run.
func (r *runner) writeJUnit() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := types.Report{SuiteDescription: "Kubernetes conformance", SuiteSucceeded: true, SpecReports: r.reports}
	for _, spec := range r.reports {
		report.RunTime += spec.RunTime
		report.SuiteSucceeded = report.SuiteSucceeded && !spec.Failed()
	}
	return reporters.GenerateJUnitReport(report, filepath.Join(r.config.OutputDir, "junit.xml"))
}
