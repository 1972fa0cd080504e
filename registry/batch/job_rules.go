// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"maps"
	"math"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// The labels of a Job's pods from the time before labels had domains.
const (
	legacyName = "job-name"
	legacyUID  = "controller-uid"
)

// Limits of what an Indexed Job may be, so that the lists of its indexes stay short enough to store.
const (
	maxIndexedParallelism = 100_000
	maxFailedIndexes      = 100_000
	manyCompletions       = 100_000 // above it the next two hold, if each index has a backoff limit
	maxParallelismOfMany  = 10_000
	maxFailedOfMany       = 10_000

	maxManagedBy = 63 // bytes
)

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultJob(job *batchv1.Job) {
	defaultJobSpec(&job.Spec)
	s := &job.Spec
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = ptr.To[int32](1)
	}
	setDefault(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		setDefault(&s.BackoffLimit, math.MaxInt32)
	}
	setDefault(&s.BackoffLimit, 6)
	setDefault(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setDefault(&s.Suspend, false)
	setDefault(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		setDefault(&s.PodReplacementPolicy, batchv1.Failed)
	}
	setDefault(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	if len(job.Labels) == 0 && s.Template.Labels != nil {
		job.Labels = maps.Clone(s.Template.Labels)
	}
}

// defaultJobSpec fills in what is also filled in inside a CronJob.
func defaultJobSpec(s *batchv1.JobSpec) {
	podspec.DefaultTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		for j := range s.PodFailurePolicy.Rules[i].OnPodConditions {
			if c := &s.PodFailurePolicy.Rules[i].OnPodConditions[j]; c.Status == "" {
				c.Status = corev1.ConditionTrue
			}
		}
	}
}

func prepareJobCreate(job *batchv1.Job) {
	if !ptr.Deref(job.Spec.ManualSelector, false) {
		generateSelector(job)
	}
	dropDisabledJobFields(&job.Spec, nil)
}

func prepareJobUpdate(job, old *batchv1.Job) { dropDisabledJobFields(&job.Spec, &old.Spec) }

// dropDisabledJobFields takes out what upstream has off by default (WorkloadWithJob), unless the old object has it.
func dropDisabledJobFields(spec, old *batchv1.JobSpec) {
	if old == nil || old.Scheduling == nil {
		spec.Scheduling = nil
	}
	var template *corev1.PodTemplateSpec
	if old != nil {
		template = &old.Template
	}
	podspec.DropDisabledTemplate(&spec.Template, template)
}

// generateSelector labels the pods so that they are nobody else's. Labels that the user has set stay, and are
// refused if they differ.
func generateSelector(job *batchv1.Job) {
	template := &job.Spec.Template
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	for label, value := range generatedLabels(job) {
		if _, set := template.Labels[label]; !set {
			template.Labels[label] = value
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, set := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !set {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
	}
}

func generatedLabels(job *batchv1.Job) map[string]string {
	return map[string]string{
		legacyName: job.Name, batchv1.JobNameLabel: job.Name,
		legacyUID: string(job.UID), batchv1.ControllerUidLabel: string(job.UID),
	}
}

func validateJob(job *batchv1.Job) field.ErrorList {
	errs := rule.ObjectMeta(&job.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateGeneratedSelector(job)...)
	errs = append(errs, validateSelectedSpec(&job.Spec, false, podspec.OptionsForTemplate(nil))...)
	return append(errs, validateHostnames(job)...)
}

func validateJobUpdate(job, old *batchv1.Job) field.ErrorList {
	path, spec, was := field.NewPath("spec"), &job.Spec, &old.Spec
	tolerant := was.Selector != nil && len(rule.LabelSelector(nil, was.Selector, false)) > 0
	errs := rule.ObjectMetaUpdate(&job.ObjectMeta)
	errs = append(errs, validateSelectedSpec(spec, tolerant, podspec.OptionsForTemplate(&was.Template))...)
	errs = append(errs, validateCompletionsUpdate(path.Child("completions"), spec, was)...)
	errs = append(errs, rule.Unchanged(path.Child("selector"), spec.Selector, was.Selector)...)
	errs = append(errs, validateTemplateUpdate(path, spec, old)...)
	errs = append(errs, rule.Unchanged(path.Child("completionMode"), spec.CompletionMode, was.CompletionMode)...)
	errs = append(errs, rule.Unchanged(path.Child("podFailurePolicy"), spec.PodFailurePolicy, was.PodFailurePolicy)...)
	errs = append(errs, rule.Unchanged(path.Child("backoffLimitPerIndex"), spec.BackoffLimitPerIndex, was.BackoffLimitPerIndex)...)
	errs = append(errs, rule.Unchanged(path.Child("managedBy"), spec.ManagedBy, was.ManagedBy)...)
	errs = append(errs, rule.Unchanged(path.Child("successPolicy"), spec.SuccessPolicy, was.SuccessPolicy)...)
	return append(errs, validateHostnames(job)...)
}

// validateGeneratedSelector says that the labels of a generated selector are the Job's own.
func validateGeneratedSelector(job *batchv1.Job) field.ErrorList {
	if ptr.Deref(job.Spec.ManualSelector, false) || job.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if job.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	expected := generatedLabels(job)
	at := field.NewPath("spec", "template", "metadata", "labels")
	for _, label := range slices.Sorted(maps.Keys(expected)) {
		switch value, set := job.Spec.Template.Labels[label]; {
		case !set:
			errs = append(errs, field.Required(at.Key(label), "must be '"+expected[label]+"'"))
		case value != expected[label]:
			errs = append(errs, field.Invalid(at.Key(label), job.Spec.Template.Labels, "must be '"+expected[label]+"'"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	return append(errs, rule.If(err == nil && !selector.Matches(labels.Set(expected)),
		field.Invalid(field.NewPath("spec", "selector"), job.Spec.Selector, "`selector` not auto-generated"))...)
}

// validateHostnames says that the pods of an Indexed Job, which are named after it, get host names.
func validateHostnames(job *batchv1.Job) field.ErrorList {
	if !indexed(&job.Spec) || ptr.Deref(job.Spec.Completions, 0) <= 0 {
		return nil
	}
	longest := fmt.Sprintf("%s-%d", job.Name, *job.Spec.Completions-1)
	return rule.If(len(validation.IsDNS1123Label(longest)) > 0, field.Invalid(field.NewPath("metadata", "name"), job.Name,
		"will not able to create pod with invalid DNS label: "+longest))
}

func indexed(spec *batchv1.JobSpec) bool {
	return ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// validateSelectedSpec checks the spec of a Job, which has a selector; that in a CronJob has none.
func validateSelectedSpec(spec *batchv1.JobSpec, tolerant bool, o podspec.Options) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateJobSpec(path, spec, o)
	errs = append(errs, rule.If(spec.Selector == nil, field.Required(path.Child("selector"), ""))...)
	errs = append(errs, rule.LabelSelector(path.Child("selector"), spec.Selector, tolerant)...)
	selector, err := metav1.LabelSelectorAsSelector(spec.Selector)
	return append(errs, rule.If(err == nil && !selector.Matches(labels.Set(spec.Template.Labels)),
		field.Invalid(path.Child("template", "metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`"))...)
}

func validateJobSpec(path *field.Path, spec *batchv1.JobSpec, o podspec.Options) field.ErrorList {
	errs := rule.NonNegativeIfSet(path.Child("parallelism"), spec.Parallelism)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("completions"), spec.Completions)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("activeDeadlineSeconds"), spec.ActiveDeadlineSeconds)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("backoffLimit"), spec.BackoffLimit)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("ttlSecondsAfterFinished"), spec.TTLSecondsAfterFinished)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("backoffLimitPerIndex"), spec.BackoffLimitPerIndex)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("maxFailedIndexes"), spec.MaxFailedIndexes)...)
	errs = append(errs, rule.If(spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil,
		field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))...)
	if m := spec.ManagedBy; m != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *m)...)
		errs = append(errs, rule.If(len(*m) > maxManagedBy, field.TooLong(path.Child("managedBy"), "", maxManagedBy))...)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("completionMode"), spec.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	errs = append(errs, validateIndexing(path, spec)...)
	if spec.PodFailurePolicy != nil {
		errs = append(errs, validateFailurePolicy(path.Child("podFailurePolicy", "rules"), spec)...)
	}
	if spec.SuccessPolicy != nil {
		if indexed(spec) {
			errs = append(errs, validateSuccessPolicy(path.Child("successPolicy", "rules"), spec)...)
		} else {
			errs = append(errs, field.Invalid(path.Child("successPolicy"), *spec.SuccessPolicy, "requires indexed completion mode"))
		}
	}
	replacements := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if spec.PodFailurePolicy != nil {
		replacements = replacements[:1]
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("podReplacementPolicy"), spec.PodReplacementPolicy, replacements...)...)
	errs = append(errs, podspec.ValidateTemplate(path.Child("template"), &spec.Template, o)...)
	return append(errs, validateRestartPolicy(path.Child("template", "spec", "restartPolicy"), spec)...)
}

func validateRestartPolicy(path *field.Path, spec *batchv1.JobSpec) field.ErrorList {
	switch policy := spec.Template.Spec.RestartPolicy; {
	case policy == "" || policy == corev1.RestartPolicyAlways: // also the default of those who said nothing
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))}
	case policy != corev1.RestartPolicyOnFailure && policy != corev1.RestartPolicyNever:
		return field.ErrorList{field.NotSupported(path, policy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	case spec.PodFailurePolicy != nil && policy != corev1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(path, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
	}
	return nil
}

// validateIndexing checks how the numbers of an Indexed Job fit together.
func validateIndexing(path *field.Path, spec *batchv1.JobSpec) field.ErrorList {
	completions, parallelism, failed := path.Child("completions"), path.Child("parallelism"), path.Child("maxFailedIndexes")
	if !indexed(spec) {
		const needs = "requires indexed completion mode"
		if ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) != batchv1.NonIndexedCompletion {
			return nil // unknown, and refused for it
		}
		var errs field.ErrorList
		if spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *spec.BackoffLimitPerIndex, needs))
		}
		if spec.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(failed, *spec.MaxFailedIndexes, needs))
		}
		return errs
	}
	var errs field.ErrorList
	atMost := func(path *field.Path, value *int32, limit int32, when string) {
		if value != nil && *value > limit {
			errs = append(errs, field.Invalid(path, *value, fmt.Sprintf("must be less than or equal to %d%s", limit, when)))
		}
	}
	atMost(parallelism, spec.Parallelism, maxIndexedParallelism, " when completion mode is Indexed")
	atMost(failed, spec.MaxFailedIndexes, maxFailedIndexes, "")
	if spec.Completions == nil {
		return append(errs, field.Required(completions, "when completion mode is Indexed"))
	}
	if spec.MaxFailedIndexes != nil && *spec.MaxFailedIndexes > *spec.Completions {
		errs = append(errs, field.Invalid(failed, *spec.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	if *spec.Completions > manyCompletions && spec.BackoffLimitPerIndex != nil {
		if spec.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(failed, fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
		}
		when := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", manyCompletions)
		atMost(parallelism, spec.Parallelism, maxParallelismOfMany, when)
		atMost(failed, spec.MaxFailedIndexes, maxFailedOfMany, when)
	}
	return errs
}

// validateCompletionsUpdate lets only an Indexed Job grow and shrink, together with its parallelism.
func validateCompletionsUpdate(path *field.Path, spec, old *batchv1.JobSpec) field.ErrorList {
	if !indexed(spec) {
		return rule.Unchanged(path, spec.Completions, old.Completions)
	}
	if ptr.Equal(spec.Completions, old.Completions) || spec.Completions == nil {
		return nil
	}
	return rule.If(*spec.Completions != ptr.Deref(spec.Parallelism, 1),
		field.Invalid(path, spec.Completions, fmt.Sprintf("can only be modified in tandem with %s", path.Root().Child("parallelism"))))
}

// validateTemplateUpdate keeps the template as it is, but for a suspended Job without pods: what queueing
// controllers set before they let it run may change, which is where its pods go and the resources they get (KEP-2926,
// KEP-5440).
func validateTemplateUpdate(path *field.Path, spec *batchv1.JobSpec, old *batchv1.Job) field.ErrorList {
	suspended := ptr.Deref(old.Spec.Suspend, false)
	idle := suspended && (old.Status.StartTime == nil || is(old, batchv1.JobSuspended)) && old.Status.Active == 0
	if !idle {
		return rule.Unchanged(path.Child("template"), spec.Template, old.Spec.Template)
	}
	template, was := &spec.Template, old.Spec.Template.DeepCopy()
	was.Annotations, was.Labels = template.Annotations, template.Labels
	was.Spec.NodeSelector, was.Spec.Tolerations = template.Spec.NodeSelector, template.Spec.Tolerations
	was.Spec.SchedulingGates = template.Spec.SchedulingGates
	was.Spec.Affinity = withNodeAffinityOf(was.Spec.Affinity, template.Spec.Affinity)
	sameResources(was.Spec.Containers, template.Spec.Containers)
	sameResources(was.Spec.InitContainers, template.Spec.InitContainers)
	return rule.Unchanged(path.Child("template.spec"), template.Spec, was.Spec)
}

// withNodeAffinityOf is affinity with the node affinity of another, nil if nothing is left.
func withNodeAffinityOf(affinity, other *corev1.Affinity) *corev1.Affinity {
	out := corev1.Affinity{}
	if affinity != nil {
		out = *affinity
	}
	out.NodeAffinity = nil
	if other != nil {
		out.NodeAffinity = other.NodeAffinity
		return &out
	}
	if equality.Semantic.DeepEqual(out, corev1.Affinity{}) {
		return nil
	}
	return &out
}

// sameResources gives containers the resources of others, if they are the same containers otherwise.
func sameResources(containers, others []corev1.Container) {
	if len(containers) != len(others) {
		return
	}
	for i := range containers {
		if containers[i].Name == others[i].Name {
			containers[i].Resources = others[i].Resources
		}
	}
}

func jobWarnings(job, old *batchv1.Job) []string {
	path := field.NewPath("spec")
	switch {
	case old == nil:
		return append(longNameWarning(job.Name), jobSpecWarnings(path, &job.Spec)...)
	case job.Generation != old.Generation:
		return jobSpecWarnings(path, &job.Spec)
	}
	return nil
}

func jobSpecWarnings(path *field.Path, spec *batchv1.JobSpec) []string {
	var out []string
	if indexed(spec) && ptr.Deref(spec.Completions, 0) > manyCompletions && ptr.Deref(spec.Parallelism, 0) > maxParallelismOfMany {
		out = append(out, path.String()+": In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return append(out, podspec.Warnings(path.Child("template"), &spec.Template.ObjectMeta, &spec.Template.Spec)...)
}

func longNameWarning(name string) []string {
	if messages := validation.IsDNS1123Label(name); len(messages) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", messages)}
	}
	return nil
}
