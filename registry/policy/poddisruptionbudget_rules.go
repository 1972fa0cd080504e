// SPDX-License-Identifier: Apache-2.0

package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// betaSelector is the key by which policy/v1beta1 told its empty selectors, which chose nothing, from those of v1,
// which choose all pods.
const betaSelector = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match"

func prepareBudgetCreate(b *policyv1.PodDisruptionBudget) { dropBetaSelector(b.Spec.Selector) }

func prepareBudgetUpdate(b, old *policyv1.PodDisruptionBudget) {
	if !equality.Semantic.DeepEqual(b.Spec.Selector, old.Spec.Selector) {
		dropBetaSelector(b.Spec.Selector)
	}
}

// dropBetaSelector lets betaSelector stand only where it is all there is.
func dropBetaSelector(s *metav1.LabelSelector) {
	nothing := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: betaSelector, Operator: metav1.LabelSelectorOpExists}}}
	if s == nil || len(s.MatchExpressions) == 0 || equality.Semantic.DeepEqual(s, nothing) {
		return
	}
	kept := s.MatchExpressions[:0]
	for _, e := range s.MatchExpressions {
		if e.Key != betaSelector {
			kept = append(kept, e)
		}
	}
	s.MatchExpressions = kept
}

func validateBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	return validateBudgetSpec(&b.Spec, false)
}

func validateBudgetUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	return validateBudgetSpec(&b.Spec, len(rule.LabelSelector(nil, old.Spec.Selector, false)) > 0)
}

func validateBudgetSpec(spec *policyv1.PodDisruptionBudgetSpec, tolerant bool) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.If(spec.MinAvailable != nil && spec.MaxUnavailable != nil,
		field.Invalid(path, *spec, "minAvailable and maxUnavailable cannot be both set"))
	if v, at := spec.MinAvailable, path.Child("minAvailable"); v != nil {
		errs = append(append(errs, rule.IntOrPercent(at, *v)...), rule.AtMostAll(at, *v)...)
	}
	if v, at := spec.MaxUnavailable, path.Child("maxUnavailable"); v != nil {
		errs = append(append(errs, rule.IntOrPercent(at, *v)...), rule.AtMostAll(at, *v)...)
	}
	errs = append(errs, rule.LabelSelector(path.Child("selector"), spec.Selector, tolerant)...)
	return append(errs, rule.SupportedIfSet(path.Child("unhealthyPodEvictionPolicy"), spec.UnhealthyPodEvictionPolicy,
		policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	path, s := field.NewPath("status"), &b.Status
	errs := metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))
	errs = append(errs, rule.NonNegative(path.Child("disruptionsAllowed"), s.DisruptionsAllowed)...)
	errs = append(errs, rule.NonNegative(path.Child("currentHealthy"), s.CurrentHealthy)...)
	errs = append(errs, rule.NonNegative(path.Child("desiredHealthy"), s.DesiredHealthy)...)
	return append(errs, rule.NonNegative(path.Child("expectedPods"), s.ExpectedPods)...)
}
