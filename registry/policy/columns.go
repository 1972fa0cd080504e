// SPDX-License-Identifier: Apache-2.0

package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// podDisruptionBudgetColumns are what kubectl prints, in the order and the words of upstream.
func podDisruptionBudgetColumns() []rest.Column[*policyv1.PodDisruptionBudget] {
	type B = *policyv1.PodDisruptionBudget
	orNone := func(v *intstr.IntOrString) string {
		if v == nil {
			return "N/A"
		}
		return v.String()
	}
	return []rest.Column[B]{
		rest.Name[B](),
		rest.Text("Min Available", "The minimum number of pods that must be available.", func(o B) string { return orNone(o.Spec.MinAvailable) }),
		rest.Text("Max Unavailable", "The maximum number of pods that may be unavailable.", func(o B) string { return orNone(o.Spec.MaxUnavailable) }),
		rest.Number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.", func(o B) int32 { return o.Status.DisruptionsAllowed }),
		rest.Age[B](),
	}
}
