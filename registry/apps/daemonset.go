// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// DaemonSets says what is particular to daemonsets.
func DaemonSets() rest.Resource[*appsv1.DaemonSet] {
	return rest.Resource[*appsv1.DaemonSet]{
		Kind:                appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		Plural:              "daemonsets",
		Singular:            "daemonset",
		Columns:             daemonSetColumns(),
		ShortNames:          []string{"ds"},
		Categories:          []string{"all"},
		Namespaced:          true,
		Default:             defaultDaemonSet,
		PrepareCreate:       func(_ context.Context, o *appsv1.DaemonSet) { prepareDaemonSetCreate(o) },
		PrepareUpdate:       prepareDaemonSetUpdate,
		Validate:            validateDaemonSet,
		ValidateUpdate:      validateDaemonSetUpdate,
		PrepareStatusUpdate: func(d, old *appsv1.DaemonSet) { setTemplateGeneration(d, templateGeneration(old)) },
		ValidateStatus:      validateDaemonSetStatusUpdate,
		Warnings:            daemonSetWarnings,
	}
}
