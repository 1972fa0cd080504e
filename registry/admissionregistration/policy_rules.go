// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/util/jsonpath"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// policy is what both kinds of policies have.
type policy struct {
	failure     *admissionregistrationv1.FailurePolicyType
	params      *admissionregistrationv1.ParamKind
	constraints *admissionregistrationv1.MatchResources
	conditions  []admissionregistrationv1.MatchCondition
	variables   []admissionregistrationv1.Variable
}

// was is what of a stored policy is not judged again.
type was struct {
	sameConditions bool             // match conditions, and the parameters that they may name, are as they were
	expressions    sets.Set[string] // that were accepted once
}

// validateValidatingPolicy judges a policy by itself; old is nil on create.
func validateValidatingPolicy(p, old *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	var before was
	if old != nil {
		before = was{sameConditions(p.Spec.ParamKind, old.Spec.ParamKind, p.Spec.MatchConditions, old.Spec.MatchConditions), validatingExpressions(&old.Spec)}
	}
	spec, at := &p.Spec, field.NewPath("spec")
	c, errs := validatePolicy(&p.ObjectMeta, at, policy{spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, spec.MatchConditions, spec.Variables}, before)
	if c == nil {
		return errs
	}
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		const nothing = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(at.Child("validations"), nothing), field.Required(at.Child("auditAnnotations"), nothing))
	}
	for i := range spec.Validations {
		errs = append(errs, validateValidation(at.Child("validations").Index(i), &spec.Validations[i], c)...)
	}
	return append(errs, validateAuditAnnotations(at.Child("auditAnnotations"), p.Name, spec.AuditAnnotations, c)...)
}

// validateMutatingPolicy judges a policy by itself; old is nil on create.
func validateMutatingPolicy(p, old *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
	var before was
	if old != nil {
		before = was{sameConditions(p.Spec.ParamKind, old.Spec.ParamKind, p.Spec.MatchConditions, old.Spec.MatchConditions), mutatingExpressions(&old.Spec)}
	}
	spec, at := &p.Spec, field.NewPath("spec")
	c, errs := validatePolicy(&p.ObjectMeta, at, policy{spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, spec.MatchConditions, spec.Variables}, before)
	if c == nil {
		return errs
	}
	errs = append(errs, validateMutable(at.Child("matchConstraints"), spec.MatchConstraints)...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(at.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, validateMutation(at.Child("mutations").Index(i), &spec.Mutations[i], c)...)
	}
	return append(errs, rule.OneOf(at.Child("reinvocationPolicy"), spec.ReinvocationPolicy, reinvocationPolicies...)...)
}

func sameConditions(params, oldParams *admissionregistrationv1.ParamKind, conditions, old []admissionregistrationv1.MatchCondition) bool {
	return equality.Semantic.DeepEqual(params, oldParams) && equality.Semantic.DeepEqual(conditions, old)
}

func validatingExpressions(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) sets.Set[string] {
	out := sets.New[string]()
	for _, m := range spec.MatchConditions {
		out.Insert(strings.TrimSpace(m.Expression))
	}
	for _, v := range spec.Variables {
		out.Insert(v.Expression)
	}
	for _, v := range spec.Validations {
		out.Insert(v.Expression, v.MessageExpression)
	}
	for _, a := range spec.AuditAnnotations {
		out.Insert(strings.TrimSpace(a.ValueExpression))
	}
	return out
}

func mutatingExpressions(spec *admissionregistrationv1.MutatingAdmissionPolicySpec) sets.Set[string] {
	out := sets.New[string]()
	for _, m := range spec.MatchConditions {
		out.Insert(strings.TrimSpace(m.Expression))
	}
	for _, v := range spec.Variables {
		out.Insert(v.Expression)
	}
	for _, m := range spec.Mutations {
		if m.ApplyConfiguration != nil {
			out.Insert(strings.TrimSpace(m.ApplyConfiguration.Expression))
		}
		if m.JSONPatch != nil {
			out.Insert(strings.TrimSpace(m.JSONPatch.Expression))
		}
	}
	return out
}

// validatePolicy checks what both kinds have, and returns the compiler that knows the policy's variables.
func validatePolicy(meta *metav1.ObjectMeta, at *field.Path, p policy, before was) (*compiler, field.ErrorList) {
	errs := rule.GenericMeta(meta, false, apivalidation.NameIsDNSSubdomain)
	c, err := newCompiler(p.variables, p.params, before.expressions)
	if err != nil {
		return nil, append(errs, field.InternalError(at, err))
	}
	errs = append(errs, oneOfSet(at.Child("failurePolicy"), p.failure, failurePolicies...)...)
	if p.params != nil {
		errs = append(errs, validateParamKind(at.Child("paramKind"), p.params)...)
	}
	constraints := at.Child("matchConstraints")
	if p.constraints == nil {
		errs = append(errs, field.Required(constraints, ""))
	} else {
		errs = append(errs, validateMatchResources(constraints, p.constraints)...)
		errs = append(errs, rule.If(len(p.constraints.ResourceRules) == 0, field.Required(constraints.Child("resourceRules"), ""))...)
	}
	if !before.sameConditions {
		errs = append(errs, validateMatchConditions(at.Child("matchConditions"), p.conditions, p.params != nil, before.expressions)...)
	}
	for i := range p.variables {
		errs = append(errs, c.variable(at.Child("variables").Index(i), &p.variables[i])...)
	}
	return c, errs
}

// oneOfSet is rule.OneOf for a pointer.
func oneOfSet[T ~string](at *field.Path, value *T, allowed ...T) field.ErrorList {
	if value == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return rule.Supported(at, *value, allowed...)
}

func validateParamKind(at *field.Path, kind *admissionregistrationv1.ParamKind) field.ErrorList {
	var errs field.ErrorList
	version := at.Child("apiVersion")
	parts := strings.Split(kind.APIVersion, "/")
	switch {
	case kind.APIVersion == "":
		errs = append(errs, field.Required(version, ""))
	case len(parts) > 2:
		errs = append(errs, field.Invalid(version, kind.APIVersion, fmt.Sprintf("unexpected GroupVersion string: %v", kind.APIVersion)))
	default:
		if group := parts[0]; len(parts) == 2 && group != "" {
			errs = append(errs, joined(version, group, "", validation.IsDNS1123Subdomain(group))...)
		}
		if v := parts[len(parts)-1]; v == "" {
			errs = append(errs, field.Invalid(version, kind.APIVersion, "version must be specified"))
		} else {
			errs = append(errs, joined(version, v, "", validation.IsDNS1035Label(v))...)
		}
	}
	if kind.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	return append(errs, joined(at.Child("kind"), kind.Kind, "may have mixed case, but should otherwise match: ",
		validation.IsDNS1035Label(strings.ToLower(kind.Kind)))...)
}

// joined is one error of all messages.
func joined(at *field.Path, value, prefix string, messages []string) field.ErrorList {
	return rule.If(len(messages) > 0, field.Invalid(at, value, prefix+strings.Join(messages, ",")))
}

func validateMatchResources(at *field.Path, m *admissionregistrationv1.MatchResources) field.ErrorList {
	errs := oneOfSet(at.Child("matchPolicy"), m.MatchPolicy, matchPolicies...)
	errs = append(errs, validateSelector(at.Child("namespaceSelector"), m.NamespaceSelector)...)
	errs = append(errs, validateSelector(at.Child("objectSelector"), m.ObjectSelector)...)
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(at.Child("resourceRules").Index(i), &m.ResourceRules[i])...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(at.Child("excludeResourceRules").Index(i), &m.ExcludeResourceRules[i])...)
	}
	return errs
}

func validateSelector(at *field.Path, selector *metav1.LabelSelector) field.ErrorList {
	if selector == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return rule.LabelSelector(at, selector, false)
}

func validateNamedRule(at *field.Path, r *admissionregistrationv1.NamedRuleWithOperations) field.ErrorList {
	var errs field.ErrorList
	for i, name := range r.ResourceNames {
		here := at.Child("resourceNames").Index(i)
		errs = append(errs, rule.Invalid(here, name, path.IsValidPathSegmentName(name))...)
		errs = append(errs, rule.If(slices.Contains(r.ResourceNames[:i], name), field.Duplicate(here, name))...)
	}
	return append(errs, validateRule(at, &r.RuleWithOperations)...)
}

// validateMutable says that what is deleted cannot be changed.
func validateMutable(at *field.Path, m *admissionregistrationv1.MatchResources) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for _, r := range m.ResourceRules {
		for _, o := range r.Operations {
			errs = append(errs, rule.Supported(at.Child("resourceRules", "operations"), o,
				admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Update)...)
		}
	}
	return errs
}

func validateValidation(at *field.Path, v *admissionregistrationv1.Validation, c *compiler) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, c.check(at.Child("expression"), &validating.ValidationCondition{Expression: v.Expression}, c.knows())...)
	}
	const blank = "must be non-empty if specified"
	switch {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		errs = append(errs, field.Invalid(at.Child("messageExpression"), v.MessageExpression, blank))
	default:
		errs = append(errs, c.check(at.Child("messageExpression"), &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression},
			plugincel.OptionalVariableDeclarations{HasParams: c.params})...)
	}
	switch message := strings.TrimSpace(v.Message); {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, blank))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, rule.SupportedIfSet(at.Child("reason"), v.Reason,
		metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

const (
	maxAuditAnnotations = 20
	maxValueExpression  = 5 * 1024 // bytes
)

func validateAuditAnnotations(at *field.Path, policy string, annotations []admissionregistrationv1.AuditAnnotation, c *compiler) field.ErrorList {
	errs := rule.If(len(annotations) > maxAuditAnnotations,
		field.Invalid(at, annotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	keys := sets.New[string]()
	for i, a := range annotations {
		key, value := at.Index(i).Child("key"), at.Index(i).Child("valueExpression")
		if policy == "" {
			errs = append(errs, field.Invalid(key, a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, rule.QualifiedName(key, policy+"/"+a.Key)...)
		}
		switch expression := strings.TrimSpace(a.ValueExpression); {
		case expression == "":
			errs = append(errs, field.Required(value, "valueExpression is not specified"))
		case len(expression) > maxValueExpression:
			errs = append(errs, field.Required(value, fmt.Sprintf("must not exceed %d bytes in length", maxValueExpression)))
		default:
			errs = append(errs, c.check(value, &validating.AuditAnnotationCondition{ValueExpression: expression}, c.knows())...)
		}
		errs = append(errs, rule.If(keys.Has(a.Key), field.Duplicate(key, a.Key))...)
		keys.Insert(a.Key)
	}
	return errs
}

func validateMutation(at *field.Path, m *admissionregistrationv1.Mutation, c *compiler) field.ErrorList {
	apply, jsonPatch := at.Child("applyConfiguration"), at.Child("jsonPatch")
	knows := c.knows()
	knows.HasPatchTypes = true
	check := func(at *field.Path, expression string, accessor func(string) plugincel.ExpressionAccessor) field.ErrorList {
		trimmed := strings.TrimSpace(expression)
		if trimmed == "" {
			return field.ErrorList{field.Required(at.Child("expression"), "")}
		}
		return c.check(at.Child("expression"), accessor(trimmed), knows)
	}
	var errs field.ErrorList
	switch m.PatchType {
	case "":
		return field.ErrorList{field.Required(at.Child("patchType"), "")}
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(jsonPatch, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, check(jsonPatch, m.JSONPatch.Expression, func(e string) plugincel.ExpressionAccessor {
				return &patch.JSONPatchCondition{Expression: e}
			})...)
		}
		return append(errs, rule.If(m.ApplyConfiguration != nil,
			field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))...)
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, check(apply, m.ApplyConfiguration.Expression, func(e string) plugincel.ExpressionAccessor {
				return &patch.ApplyConfigurationCondition{Expression: e}
			})...)
		}
		return append(errs, rule.If(m.JSONPatch != nil,
			field.Invalid(jsonPatch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))...)
	}
	return rule.Supported(at.Child("patchType"), m.PatchType, admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)
}

func validateValidatingPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateBinding(&b.ObjectMeta, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	at, actions := field.NewPath("spec", "validationActions"), b.Spec.ValidationActions
	for i, a := range actions {
		errs = append(errs, rule.Supported(at.Index(i), a, admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)...)
		errs = append(errs, rule.If(slices.Contains(actions[:i], a), field.Duplicate(at.Index(i), a))...)
	}
	errs = append(errs, rule.If(slices.Contains(actions, admissionregistrationv1.Deny) && slices.Contains(actions, admissionregistrationv1.Warn),
		field.Invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))...)
	return append(errs, rule.If(len(actions) == 0, field.Required(at, ""))...)
}

func validateMutatingPolicyBinding(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateBinding(&b.ObjectMeta, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	return append(errs, validateMutable(field.NewPath("spec", "matchResources"), b.Spec.MatchResources)...)
}

func validateBinding(meta *metav1.ObjectMeta, policy string, params *admissionregistrationv1.ParamRef, match *admissionregistrationv1.MatchResources) field.ErrorList {
	at := field.NewPath("spec")
	errs := rule.GenericMeta(meta, false, apivalidation.NameIsDNSSubdomain)
	if policy == "" {
		errs = append(errs, field.Required(at.Child("policyName"), ""))
	} else {
		errs = append(errs, rule.Name(at.Child("policyName"), policy, apivalidation.NameIsDNSSubdomain)...)
	}
	if params != nil {
		errs = append(errs, validateParamRef(at.Child("paramRef"), params)...)
	}
	if match != nil {
		errs = append(errs, validateMatchResources(at.Child("matchResources"), match)...)
	}
	return errs
}

func validateParamRef(at *field.Path, p *admissionregistrationv1.ParamRef) field.ErrorList {
	var errs field.ErrorList
	if p.Name != "" {
		errs = append(errs, rule.Invalid(at.Child("name"), p.Name, path.IsValidPathSegmentName(p.Name))...)
	}
	if p.Selector != nil {
		errs = append(errs, rule.LabelSelector(at.Child("selector"), p.Selector, false)...)
	}
	switch {
	case p.Name != "" && p.Selector != nil:
		const both = "name and selector are mutually exclusive"
		errs = append(errs, field.Forbidden(at.Child("name"), both), field.Forbidden(at.Child("selector"), both))
	case p.Name == "" && p.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	action := at.Child("parameterNotFoundAction")
	if p.ParameterNotFoundAction == nil {
		return append(errs, field.Required(action, ""))
	}
	return append(errs, rule.OneOf(action, *p.ParameterNotFoundAction, admissionregistrationv1.DenyAction, admissionregistrationv1.AllowAction)...)
}

// validateValidatingPolicyStatus checks what the type checker found out.
func validateValidatingPolicyStatus(p, _ *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	if p.Status.TypeChecking != nil {
		for i, w := range p.Status.TypeChecking.ExpressionWarnings {
			here := at.Child("typeChecking", "expressionWarnings").Index(i)
			errs = append(errs, rule.Required(here.Child("warning"), w.Warning)...)
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(here.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(here.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metavalidation.ValidateConditions(p.Status.Conditions, at.Child("conditions"))...)
}
