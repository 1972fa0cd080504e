// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// CronJobs says what is particular to cronjobs.
func CronJobs() rest.Resource[*batchv1.CronJob] {
	return rest.Resource[*batchv1.CronJob]{
		Kind:           batchv1.SchemeGroupVersion.WithKind("CronJob"),
		Plural:         "cronjobs",
		Singular:       "cronjob",
		Columns:        cronJobColumns(),
		ShortNames:     []string{"cj"},
		Categories:     []string{"all"},
		Namespaced:     true,
		Default:        defaultCronJob,
		PrepareCreate:  func(_ context.Context, o *batchv1.CronJob) { prepareCronJobCreate(o) },
		PrepareUpdate:  prepareCronJobUpdate,
		Validate:       validateCronJob,
		ValidateUpdate: validateCronJobUpdate,
		Warnings:       cronJobWarnings,
	}
}
