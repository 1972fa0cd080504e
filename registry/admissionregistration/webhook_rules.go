// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Both kinds of webhooks have the same rules, which are written for the mutating kind: it has one field more.

func validateMutatingWebhooks(c *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
	return validateWebhooks(&c.ObjectMeta, c.Webhooks, leniency{})
}

func validateMutatingWebhooksUpdate(c, old *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
	return validateWebhooks(&c.ObjectMeta, c.Webhooks, leniencyFor(c.Webhooks, old.Webhooks))
}

func validateValidatingWebhooks(c *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
	return validateWebhooks(&c.ObjectMeta, asMutating(c.Webhooks), leniency{})
}

func validateValidatingWebhooksUpdate(c, old *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
	webhooks := asMutating(c.Webhooks)
	return validateWebhooks(&c.ObjectMeta, webhooks, leniencyFor(webhooks, asMutating(old.Webhooks)))
}

func asMutating(webhooks []admissionregistrationv1.ValidatingWebhook) []admissionregistrationv1.MutatingWebhook {
	var out []admissionregistrationv1.MutatingWebhook
	for _, w := range webhooks {
		out = append(out, admissionregistrationv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		})
	}
	return out
}

// leniency is what an update may leave wrong because the stored object has it.
type leniency struct {
	sideEffects, reviewVersions, names, selectors bool
	// sameConditions says that match conditions are as they were.
	sameConditions bool
	// stored are the match conditions' expressions that were accepted once, perhaps by an older version.
	stored sets.Set[string]
}

func leniencyFor(webhooks, old []admissionregistrationv1.MutatingWebhook) leniency {
	l := leniency{sameConditions: len(webhooks) == len(old), stored: sets.New[string]()}
	names := sets.New[string]()
	for i, w := range old {
		l.sideEffects = l.sideEffects || w.SideEffects == nil || !slices.Contains(harmless, *w.SideEffects)
		l.reviewVersions = l.reviewVersions || len(w.AdmissionReviewVersions) > 0 && !understood(w.AdmissionReviewVersions)
		l.names = l.names || names.Has(w.Name)
		names.Insert(w.Name)
		for _, selector := range []*metav1.LabelSelector{w.NamespaceSelector, w.ObjectSelector} {
			l.selectors = l.selectors || selector != nil && len(rule.LabelSelector(nil, selector, false)) > 0
		}
		for _, condition := range w.MatchConditions {
			l.stored.Insert(strings.TrimSpace(condition.Expression))
		}
		l.sameConditions = l.sameConditions && reflect.DeepEqual(webhooks[i].MatchConditions, w.MatchConditions)
	}
	return l
}

var (
	failurePolicies      = []admissionregistrationv1.FailurePolicyType{admissionregistrationv1.Fail, admissionregistrationv1.Ignore}
	matchPolicies        = []admissionregistrationv1.MatchPolicyType{admissionregistrationv1.Equivalent, admissionregistrationv1.Exact}
	reinvocationPolicies = []admissionregistrationv1.ReinvocationPolicyType{
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy,
	}
	harmless   = []admissionregistrationv1.SideEffectClass{admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun}
	anyEffects = []admissionregistrationv1.SideEffectClass{
		admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun,
		admissionregistrationv1.SideEffectClassSome, admissionregistrationv1.SideEffectClassUnknown,
	}
	scopes = []admissionregistrationv1.ScopeType{
		admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope,
	}
	operations = []admissionregistrationv1.OperationType{
		admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create,
		admissionregistrationv1.Delete, admissionregistrationv1.Update,
	}
	// reviewVersions are those of AdmissionReview of which a webhook has to understand one.
	reviewVersions = []string{"v1", "v1beta1"}
)

func validateWebhooks(meta *metav1.ObjectMeta, webhooks []admissionregistrationv1.MutatingWebhook, l leniency) field.ErrorList {
	errs := rule.GenericMeta(meta, false, apivalidation.NameIsDNSSubdomain)
	names := sets.New[string]()
	for i := range webhooks {
		w, path := &webhooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(path, w, l)...)
		errs = append(errs, validateReviewVersions(path.Child("admissionReviewVersions"), w.AdmissionReviewVersions, l.reviewVersions)...)
		if w.Name != "" && !l.names {
			errs = append(errs, rule.If(names.Has(w.Name), field.Duplicate(path.Child("name"), w.Name))...)
			names.Insert(w.Name)
		}
	}
	return errs
}

func validateWebhook(path *field.Path, w *admissionregistrationv1.MutatingWebhook, l leniency) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, validateRule(path.Child("rules").Index(i), &w.Rules[i])...)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("failurePolicy"), w.FailurePolicy, failurePolicies...)...)
	errs = append(errs, rule.SupportedIfSet(path.Child("matchPolicy"), w.MatchPolicy, matchPolicies...)...)
	errs = append(errs, rule.SupportedIfSet(path.Child("reinvocationPolicy"), w.ReinvocationPolicy, reinvocationPolicies...)...)
	effects := harmless
	if l.sideEffects {
		effects = anyEffects
	}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of "+join(effects)))
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("sideEffects"), w.SideEffects, effects...)...)
	if s := w.TimeoutSeconds; s != nil && (*s > 30 || *s < 1) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *s, "the timeout value must be between 1 and 30 seconds"))
	}
	if w.NamespaceSelector != nil {
		errs = append(errs, rule.LabelSelector(path.Child("namespaceSelector"), w.NamespaceSelector, l.selectors)...)
	}
	if w.ObjectSelector != nil {
		errs = append(errs, rule.LabelSelector(path.Child("objectSelector"), w.ObjectSelector, l.selectors)...)
	}
	errs = append(errs, validateClient(path.Child("clientConfig"), &w.ClientConfig)...)
	if !l.sameConditions {
		errs = append(errs, validateMatchConditions(path.Child("matchConditions"), w.MatchConditions, false, l.stored)...)
	}
	return errs
}

func join[T ~string](values []T) string {
	var out []string
	for _, v := range values {
		out = append(out, string(v))
	}
	return strings.Join(out, ", ")
}

func validateClient(path *field.Path, c *admissionregistrationv1.WebhookClientConfig) field.ErrorList {
	switch s := c.Service; {
	case (c.URL == nil) == (s == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	default:
		port := int32(443)
		if s.Port != nil {
			port = *s.Port
		}
		// Upstream takes one for the other, so the error of a missing name is that of the namespace.
		return webhook.ValidateWebhookService(path.Child("service"), s.Name, s.Namespace, s.Path, port)
	}
}

func understood(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions, v) })
}

func validateReviewVersions(path *field.Path, versions []string, lenient bool) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+join(reviewVersions))}
	}
	var errs field.ErrorList
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, rule.Invalid(path.Index(i), v, validation.IsDNS1035Label(v))...)
	}
	if !lenient && !understood(versions) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+join(reviewVersions)))
	}
	return errs
}

func validateRule(path *field.Path, r *admissionregistrationv1.RuleWithOperations) field.ErrorList {
	var errs field.ErrorList
	ops := path.Child("operations")
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(ops, ""))
	}
	errs = append(errs, rule.If(len(r.Operations) > 1 && slices.Contains(r.Operations, admissionregistrationv1.OperationAll),
		field.Invalid(ops, r.Operations, "if '*' is present, must not specify other operations"))...)
	for i, o := range r.Operations {
		errs = append(errs, rule.Supported(ops.Index(i), o, operations...)...)
	}
	errs = append(errs, validateWildcards(path.Child("apiGroups"), r.APIGroups, "API groups")...)
	errs = append(errs, validateWildcards(path.Child("apiVersions"), r.APIVersions, "API versions")...)
	for i, v := range r.APIVersions {
		errs = append(errs, rule.Required(path.Child("apiVersions").Index(i), v)...)
	}
	errs = append(errs, validateResources(path.Child("resources"), r.Resources)...)
	return append(errs, rule.SupportedIfSet(path.Child("scope"), r.Scope, scopes...)...)
}

// validateWildcards says that a list has something, and nothing beside "*".
func validateWildcards(path *field.Path, values []string, what string) field.ErrorList {
	if len(values) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	return rule.If(len(values) > 1 && slices.Contains(values, "*"),
		field.Invalid(path, values, fmt.Sprintf("if '*' is present, must not specify other %s", what)))
}

// validateResources says that what a wildcard covers is not named a second time after it.
func validateResources(path *field.Path, resources []string) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	allOf, everywhere := sets.New[string](), sets.New[string]() // x of "x/*", and of "*/x"
	plain := false                                              // the last resource without a subresource is not "*"
	for i, name := range resources {
		if name == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		resource, sub, divided := strings.Cut(name, "/")
		if !divided {
			plain = name != "*"
			continue
		}
		if allOf.Has(resource) {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, name)))
		}
		if everywhere.Has(sub) {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, name)))
		}
		if sub == "*" {
			allOf.Insert(resource)
		}
		if resource == "*" {
			everywhere.Insert(sub)
		}
	}
	errs = append(errs, rule.If(len(resources) > 1 && slices.Contains(resources, "*/*"),
		field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))...)
	return append(errs, rule.If(plain && slices.Contains(resources, "*"),
		field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))...)
}
