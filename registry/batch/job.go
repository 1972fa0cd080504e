// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Jobs says what is particular to jobs.
func Jobs() rest.Resource[*batchv1.Job] {
	return rest.Resource[*batchv1.Job]{
		Kind:            batchv1.SchemeGroupVersion.WithKind("Job"),
		Plural:          "jobs",
		Singular:        "job",
		Columns:         jobColumns(),
		Categories:      []string{"all"},
		Namespaced:      true,
		Default:         defaultJob,
		PrepareCreate:   func(_ context.Context, o *batchv1.Job) { prepareJobCreate(o) },
		PrepareUpdate:   prepareJobUpdate,
		Validate:        validateJob,
		ValidateUpdate:  validateJobUpdate,
		ValidateStatus:  validateJobStatusUpdate,
		Warnings:        jobWarnings,
		OrphanByDefault: true,
		Fields: func(o *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(o.Status.Succeeded))}
		},
	}
}
