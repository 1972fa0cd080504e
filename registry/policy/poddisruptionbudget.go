// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PodDisruptionBudgets says what is particular to poddisruptionbudgets.
func PodDisruptionBudgets() rest.Resource[*policyv1.PodDisruptionBudget] {
	return rest.Resource[*policyv1.PodDisruptionBudget]{
		Kind:                 policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Plural:               "poddisruptionbudgets",
		Singular:             "poddisruptionbudget",
		Columns:              podDisruptionBudgetColumns(),
		ShortNames:           []string{"pdb"},
		Namespaced:           true,
		NeedsResourceVersion: true,
		PrepareCreate:        func(_ context.Context, b *policyv1.PodDisruptionBudget) { prepareBudgetCreate(b) },
		PrepareUpdate:        prepareBudgetUpdate,
		Validate:             validateBudget,
		ValidateUpdate:       validateBudgetUpdate,
		ValidateStatus:       validateBudgetStatus,
	}
}
