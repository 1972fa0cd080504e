// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultDeployment(d *appsv1.Deployment) {
	setDefault(&d.Spec.Replicas, 1)
	setDefault(&d.Spec.RevisionHistoryLimit, defaultHistory)
	setDefault(&d.Spec.ProgressDeadlineSeconds, 600)
	s := &d.Spec.Strategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setDefault(&s.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setDefault(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefault(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	podspec.DefaultTemplate(&d.Spec.Template)
}

func prepareDeploymentCreate(d *appsv1.Deployment) {
	d.Status = appsv1.DeploymentStatus{}
	d.Generation = 1
	podspec.DropDisabledTemplate(&d.Spec.Template, nil)
}

// prepareDeploymentUpdate counts changes of annotations too: they are copied to ReplicaSets.
func prepareDeploymentUpdate(d, old *appsv1.Deployment) {
	d.Status = old.Status
	podspec.DropDisabledTemplate(&d.Spec.Template, &old.Spec.Template)
	if !equality.Semantic.DeepEqual(d.Spec, old.Spec) || !equality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
		d.Generation = old.Generation + 1
	}
}

func prepareDeploymentStatusUpdate(d, old *appsv1.Deployment) {
	d.Spec = old.Spec
	d.Labels = old.Labels
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	errs := rule.ObjectMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDeploymentSpec(&d.Spec, podspec.OptionsForTemplate(nil))...)
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&d.ObjectMeta)
	errs = append(errs, validateDeploymentSpec(&d.Spec, podspec.OptionsForTemplate(&old.Spec.Template))...)
	return append(errs, rule.Unchanged(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)...)
}

func validateDeploymentSpec(spec *appsv1.DeploymentSpec, o podspec.Options) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.NonNegativeIfSet(path.Child("replicas"), spec.Replicas)
	errs = append(errs, validateSelector(path.Child("selector"), spec.Selector, "deployment", false)...)
	errs = append(errs, validateReplicaTemplate(path, spec.Selector, &spec.Template, o)...)
	errs = append(errs, validateDeploymentStrategy(path.Child("strategy"), &spec.Strategy)...)
	errs = append(errs, rule.NonNegative(path.Child("minReadySeconds"), spec.MinReadySeconds)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("revisionHistoryLimit"), spec.RevisionHistoryLimit)...)
	if n := spec.ProgressDeadlineSeconds; n != nil {
		at := path.Child("progressDeadlineSeconds")
		errs = append(errs, rule.NonNegative(at, *n)...)
		errs = append(errs, rule.If(*n <= spec.MinReadySeconds, field.Invalid(at, n, "must be greater than minReadySeconds"))...)
	}
	return errs
}

func validateDeploymentStrategy(path *field.Path, s *appsv1.DeploymentStrategy) field.ErrorList {
	at := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		return rule.If(s.RollingUpdate != nil, field.Forbidden(at, "may not be specified when strategy `type` is 'Recreate'"))
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(at, "this should be defaulted and never be nil")}
		}
		return validateDeploymentRollingUpdate(at, ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{}))
	}
	return field.ErrorList{field.NotSupported(path, s, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func validateDeploymentRollingUpdate(path *field.Path, unavailable, surge intstr.IntOrString) field.ErrorList {
	at := path.Child("maxUnavailable")
	errs := rule.IntOrPercent(at, unavailable)
	errs = append(errs, rule.IntOrPercent(path.Child("maxSurge"), surge)...)
	stuck := intOrPercent(unavailable) == 0 && intOrPercent(surge) == 0
	errs = append(errs, rule.If(stuck, field.Invalid(at, unavailable, "may not be 0 when `maxSurge` is 0"))...)
	return append(errs, rule.AtMostAll(at, unavailable)...)
}

func validateDeploymentStatusUpdate(d, old *appsv1.Deployment) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	errs := rule.ObjectMetaUpdate(&d.ObjectMeta)
	errs = append(errs, counters{
		{"observedGeneration", s.ObservedGeneration},
		{"replicas", int64(s.Replicas)},
		{"updatedReplicas", int64(s.UpdatedReplicas)},
		{"readyReplicas", int64(s.ReadyReplicas)},
		{"availableReplicas", int64(s.AvailableReplicas)},
		{"unavailableReplicas", int64(s.UnavailableReplicas)},
		{"terminatingReplicas", int64(ptr.Deref(s.TerminatingReplicas, 0))},
		{"collisionCount", int64(ptr.Deref(s.CollisionCount, 0))},
	}.validate(path)...)
	errs = append(errs, atMost(path.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas")...)
	return append(errs, validateCollisionCount(path, s.CollisionCount, old.Status.CollisionCount)...)
}

// deploymentWarnings warn of a new Deployment, and again of each change. old is nil on create.
func deploymentWarnings(d, old *appsv1.Deployment) []string {
	switch {
	case old == nil:
		return append(longNameWarning(d.Name), templateWarnings(&d.Spec.Template)...)
	case d.Generation != old.Generation:
		return templateWarnings(&d.Spec.Template)
	}
	return nil
}
