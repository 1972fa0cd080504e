// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const badWeight = "must be in the range 1-100"

func validateAffinity(path *field.Path, a *corev1.Affinity, o Options) field.ErrorList {
	if a == nil {
		return nil
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	var errs field.ErrorList
	if n, at := a.NodeAffinity, path.Child("nodeAffinity"); n != nil {
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			errs = append(errs, ValidateNodeSelector(at.Child(required), n.RequiredDuringSchedulingIgnoredDuringExecution, o.InvalidNodeAffinity)...)
		}
		for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			at := at.Child(preferred).Index(i)
			errs = append(errs, validateWeight(at, term.Weight)...)
			errs = append(errs, validateNodeSelectorTerm(at.Child("preference"), term.Preference, true)...)
		}
	}
	check := func(at *field.Path, hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i, term := range hard {
			errs = append(errs, validatePodAffinityTerm(at.Child(required).Index(i), term, o)...)
		}
		for i, term := range soft {
			at := at.Child(preferred).Index(i)
			errs = append(errs, validateWeight(at, term.Weight)...)
			errs = append(errs, validatePodAffinityTerm(at.Child("podAffinityTerm"), term.PodAffinityTerm, o)...)
		}
	}
	if p := a.PodAffinity; p != nil {
		check(path.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		check(path.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return errs
}

func validateWeight(path *field.Path, weight int32) field.ErrorList {
	return rule.If(weight <= 0 || weight > 100, field.Invalid(path.Child("weight"), weight, badWeight))
}

// ValidateNodeSelector checks the terms that choose nodes; tolerant lets label values stand that are none.
func ValidateNodeSelector(path *field.Path, selector *corev1.NodeSelector, tolerant bool) field.ErrorList {
	at := path.Child("nodeSelectorTerms")
	if len(selector.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i, term := range selector.NodeSelectorTerms {
		errs = append(errs, validateNodeSelectorTerm(at.Index(i), term, tolerant)...)
	}
	return errs
}

func validateNodeSelectorTerm(path *field.Path, term corev1.NodeSelectorTerm, tolerant bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range term.MatchExpressions {
		errs = append(errs, validateNodeRequirement(path.Child("matchExpressions").Index(i), r, tolerant)...)
	}
	for i, r := range term.MatchFields {
		errs = append(errs, validateNodeFieldRequirement(path.Child("matchFields").Index(i), r)...)
	}
	return errs
}

func validateNodeRequirement(path *field.Path, r corev1.NodeSelectorRequirement, tolerant bool) field.ErrorList {
	var errs field.ErrorList
	values := path.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		errs = rule.If(len(r.Values) == 0, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		errs = rule.If(len(r.Values) > 0, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		errs = rule.If(len(r.Values) != 1, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
	default:
		errs = field.ErrorList{field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator")}
	}
	errs = append(errs, metavalidation.ValidateLabelName(r.Key, path.Child("key"))...)
	if !tolerant {
		for i, v := range r.Values {
			errs = append(errs, rule.Invalid(values.Index(i), v, validation.IsValidLabelValue(v))...)
		}
	}
	return errs
}

func validateNodeFieldRequirement(path *field.Path, r corev1.NodeSelectorRequirement) field.ErrorList {
	var errs field.ErrorList
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		errs = rule.If(len(r.Values) != 1, field.Required(path.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
	default:
		errs = field.ErrorList{field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator")}
	}
	if r.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(path.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, v := range r.Values {
		errs = append(errs, rule.Name(path.Child("values").Index(i), v, apivalidation.NameIsDNSSubdomain)...)
	}
	return errs
}

func validatePodAffinityTerm(path *field.Path, term corev1.PodAffinityTerm, o Options) field.ErrorList {
	errs := validateAffinitySelectors(path, term, o.InvalidAffinitySelector)
	for _, name := range term.Namespaces {
		errs = append(errs, rule.Name(path.Child("namespace"), name, apivalidation.ValidateNamespaceName)...)
	}
	errs = append(errs, validateLabelKeys(path, term.MatchLabelKeys, term.MismatchLabelKeys, term.LabelSelector)...)
	if term.TopologyKey == "" {
		errs = append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(term.TopologyKey, path.Child("topologyKey"))...)
}

func validateAffinitySelectors(path *field.Path, term corev1.PodAffinityTerm, tolerant bool) field.ErrorList {
	errs := rule.LabelSelector(path.Child("labelSelector"), term.LabelSelector, tolerant)
	return append(errs, rule.LabelSelector(path.Child("namespaceSelector"), term.NamespaceSelector, tolerant)...)
}

// validateLabelKeys checks the keys whose values are taken from the pod. When this runs, a requirement
// for each of them was already added to the selector; a second one for the same key is the user's.
func validateLabelKeys(path *field.Path, match, mismatch []string, selector *metav1.LabelSelector) field.ErrorList {
	errs := validateKeys(path.Child("matchLabelKeys"), match, selector)
	errs = append(errs, validateKeys(path.Child("mismatchLabelKeys"), mismatch, selector)...)
	if selector != nil {
		seen := sets.KeySet(selector.MatchLabels)
		for _, e := range selector.MatchExpressions {
			if i := lastIndex(match, e.Key); i >= 0 && seen.Has(e.Key) {
				errs = append(errs, field.Invalid(path.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector"))
			}
			seen.Insert(e.Key)
		}
	}
	for i, key := range match {
		errs = append(errs, rule.If(slices.Contains(mismatch, key),
			field.Invalid(path.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))...)
	}
	return errs
}

func lastIndex(list []string, s string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == s {
			return i
		}
	}
	return -1
}

func validateKeys(path *field.Path, keys []string, selector *metav1.LabelSelector) field.ErrorList {
	if len(keys) == 0 {
		return nil
	}
	if selector == nil {
		return field.ErrorList{field.Forbidden(path, "must not be specified when labelSelector is not set")}
	}
	var errs field.ErrorList
	for i, key := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(key, path.Index(i))...)
	}
	return errs
}

// validateLegacyLabelKeys is how keys of spread constraints were checked before they were added to the
// selector; constraints of that time are still checked so.
func validateLegacyLabelKeys(path *field.Path, keys []string, selector *metav1.LabelSelector) field.ErrorList {
	if len(keys) == 0 {
		return nil
	}
	var errs field.ErrorList
	used := sets.New[string]()
	if selector == nil {
		errs = append(errs, field.Forbidden(path, "must not be specified when labelSelector is not set"))
	} else {
		used = sets.KeySet(selector.MatchLabels)
		for _, e := range selector.MatchExpressions {
			used.Insert(e.Key)
		}
	}
	for i, key := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(key, path.Index(i))...)
		errs = append(errs, rule.If(used.Has(key), field.Invalid(path.Index(i), key, "exists in both matchLabelKeys and labelSelector"))...)
	}
	return errs
}

func validateSpread(path *field.Path, constraints []corev1.TopologySpreadConstraint, o Options) field.ErrorList {
	var errs field.ErrorList
	for i, c := range constraints {
		at := path.Index(i)
		errs = append(errs, rule.Positive(at.Child("maxSkew"), c.MaxSkew)...)
		errs = append(errs, rule.If(c.TopologyKey == "", field.Required(at.Child("topologyKey"), "can not be empty"))...)
		errs = append(errs, rule.Supported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		for _, later := range constraints[i+1:] {
			if later.TopologyKey == c.TopologyKey && later.WhenUnsatisfiable == c.WhenUnsatisfiable {
				errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
				break
			}
		}
		if c.MinDomains != nil {
			errs = append(errs, rule.Positive(at.Child("minDomains"), *c.MinDomains)...)
			errs = append(errs, rule.If(c.WhenUnsatisfiable != corev1.DoNotSchedule, field.Invalid(at.Child("minDomains"), c.MinDomains,
				fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))...)
		}
		errs = append(errs, rule.SupportedIfSet(at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		errs = append(errs, rule.SupportedIfSet(at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		if o.LegacySpreadLabelKeys {
			errs = append(errs, validateLegacyLabelKeys(at.Child("matchLabelKeys"), c.MatchLabelKeys, c.LabelSelector)...)
		} else {
			errs = append(errs, validateLabelKeys(at, c.MatchLabelKeys, nil, c.LabelSelector)...)
		}
		if !o.InvalidSpreadSelector {
			errs = append(errs, rule.LabelSelector(at.Child("labelSelector"), c.LabelSelector, false)...)
		}
	}
	return errs
}

// ValidateTolerations checks which taints are tolerated; pods and RuntimeClasses say so.
func ValidateTolerations(path *field.Path, tolerations []corev1.Toleration, o Options) field.ErrorList {
	var errs field.ErrorList
	for i, t := range tolerations {
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		errs = append(errs, validateTolerationValue(at, t, o)...)
		if t.Effect != "" {
			errs = append(errs, ValidateTaintEffect(at.Child("effect"), t.Effect)...)
		}
	}
	return errs
}

func validateTolerationValue(path *field.Path, t corev1.Toleration, o Options) field.ErrorList {
	operator := path.Child("operator")
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			return field.ErrorList{field.Invalid(operator, t.Value, strings.Join(msgs, ";"))}
		}
		return nil
	case corev1.TolerationOpExists:
		return rule.If(t.Value != "", field.Invalid(operator, t.Value, "value must be empty when `operator` is 'Exists'"))
	case corev1.TolerationOpLt, corev1.TolerationOpGt:
		if !o.NumericTolerations {
			return field.ErrorList{field.NotSupported(operator, t.Operator, []corev1.TolerationOperator{
				corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt})}
		}
		errs := rule.Invalid(path.Child("value"), t.Value, content.IsDecimalInteger(t.Value))
		if _, err := strconv.ParseInt(t.Value, 10, 64); err != nil {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, err.Error()))
		}
		return errs
	}
	return field.ErrorList{field.NotSupported(operator, t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists})}
}

// ValidateTaintEffect checks what a taint does to pods that do not tolerate it.
func ValidateTaintEffect(path *field.Path, effect corev1.TaintEffect) field.ErrorList {
	return rule.Supported(path, effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

// ValidateTolerationsUpdate: a pod may get more tolerations, and other tolerationSeconds, but loses none.
func ValidateTolerationsUpdate(path *field.Path, tolerations, old []corev1.Toleration, o Options) field.ErrorList {
	for _, was := range old {
		kept := slices.ContainsFunc(tolerations, func(is corev1.Toleration) bool {
			was.TolerationSeconds = is.TolerationSeconds
			return reflect.DeepEqual(was, is)
		})
		if !kept {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return ValidateTolerations(path, tolerations, o)
}

func validateSchedulingGates(path *field.Path, gates []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, g := range gates {
		errs = append(errs, rule.QualifiedName(path.Index(i), g.Name)...)
		errs = append(errs, rule.If(seen.Has(g.Name), field.Duplicate(path.Index(i), g.Name))...)
		seen.Insert(g.Name)
	}
	return errs
}
