// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultReplicaSet(rs *appsv1.ReplicaSet) {
	setDefault(&rs.Spec.Replicas, 1)
	podspec.DefaultTemplate(&rs.Spec.Template)
}

func prepareReplicaSetCreate(rs *appsv1.ReplicaSet) {
	rs.Status = appsv1.ReplicaSetStatus{}
	rs.Generation = 1
	podspec.DropDisabledTemplate(&rs.Spec.Template, nil)
}

func prepareReplicaSetUpdate(rs, old *appsv1.ReplicaSet) {
	rs.Status = old.Status
	podspec.DropDisabledTemplate(&rs.Spec.Template, &old.Spec.Template)
	if !equality.Semantic.DeepEqual(rs.Spec, old.Spec) {
		rs.Generation = old.Generation + 1
	}
}

func prepareReplicaSetStatusUpdate(rs, old *appsv1.ReplicaSet) { rs.Spec = old.Spec }

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	errs := rule.ObjectMeta(&rs.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateReplicaSetSpec(&rs.Spec, podspec.OptionsForTemplate(nil))...)
}

func validateReplicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&rs.ObjectMeta)
	errs = append(errs, validateReplicaSetSpec(&rs.Spec, podspec.OptionsForTemplate(&old.Spec.Template))...)
	return append(errs, rule.Unchanged(field.NewPath("spec", "selector"), rs.Spec.Selector, old.Spec.Selector)...)
}

// validateReplicaSetSpec says deployment where it should say replicaset, as upstream does.
func validateReplicaSetSpec(spec *appsv1.ReplicaSetSpec, o podspec.Options) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.NonNegativeIfSet(path.Child("replicas"), spec.Replicas)
	errs = append(errs, rule.NonNegative(path.Child("minReadySeconds"), spec.MinReadySeconds)...)
	errs = append(errs, validateSelector(path.Child("selector"), spec.Selector, "deployment", false)...)
	return append(errs, validateReplicaTemplate(path, spec.Selector, &spec.Template, o)...)
}

func validateReplicaSetStatusUpdate(rs, _ *appsv1.ReplicaSet) field.ErrorList {
	path, s := field.NewPath("status"), &rs.Status
	errs := rule.ObjectMetaUpdate(&rs.ObjectMeta)
	errs = append(errs, counters{
		{"replicas", int64(s.Replicas)},
		{"fullyLabeledReplicas", int64(s.FullyLabeledReplicas)},
		{"readyReplicas", int64(s.ReadyReplicas)},
		{"availableReplicas", int64(s.AvailableReplicas)},
		{"observedGeneration", s.ObservedGeneration},
		{"terminatingReplicas", int64(ptr.Deref(s.TerminatingReplicas, 0))},
	}.validate(path)...)
	errs = append(errs, atMost(path.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, s.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, moreThanReplicas)...)
	return append(errs, atMost(path.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas")...)
}

// replicaSetWarnings warn of a new ReplicaSet, and again of each change. old is nil on create.
func replicaSetWarnings(rs, old *appsv1.ReplicaSet) []string {
	switch {
	case old == nil:
		return append(longNameWarning(rs.Name), templateWarnings(&rs.Spec.Template)...)
	case rs.Generation != old.Generation:
		return templateWarnings(&rs.Spec.Template)
	}
	return nil
}
