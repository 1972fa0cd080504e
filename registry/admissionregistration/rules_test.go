// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// parse reads an object as a user would write it.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	object := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
		t.Fatal(err)
	}
	return object
}

// wantErrors compares what is wrong with the starts of messages, in any order.
func wantErrors(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var left []string
	for _, err := range errs {
		message := err.Error()
		i := slices.IndexFunc(want, func(w string) bool { return strings.HasPrefix(message, w) })
		if i < 0 {
			left = append(left, message)
			continue
		}
		want = slices.Delete(slices.Clone(want), i, i+1)
	}
	for _, message := range left {
		t.Errorf("also wrong: %s", message)
	}
	for _, message := range want {
		t.Errorf("missing: %s", message)
	}
}

const aWebhook = `
metadata: {name: w}
webhooks:
- name: a.example.com
  clientConfig: {url: "https://127.0.0.1/x"}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  sideEffects: None
  admissionReviewVersions: [v1]
`

func TestWebhooks(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*admissionregistrationv1.MutatingWebhook)
		want []string
	}{
		"valid": {func(*admissionregistrationv1.MutatingWebhook) {}, nil},
		"name": {func(w *admissionregistrationv1.MutatingWebhook) { w.Name = "short" }, []string{
			`webhooks[0].name: Invalid value: "short": should be a domain with at least three segments separated by dots`,
		}},
		"side effects": {func(w *admissionregistrationv1.MutatingWebhook) { *w.SideEffects = "Some" }, []string{
			`webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`,
		}},
		"no side effects said": {func(w *admissionregistrationv1.MutatingWebhook) { w.SideEffects = nil }, []string{
			`webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun`,
		}},
		"review versions": {func(w *admissionregistrationv1.MutatingWebhook) { w.AdmissionReviewVersions = []string{"v9", "v9"} }, []string{
			`webhooks[0].admissionReviewVersions[1]: Invalid value: "v9": duplicate version`,
			`webhooks[0].admissionReviewVersions: Invalid value: ["v9","v9"]: must include at least one of v1, v1beta1`,
		}},
		"timeout": {func(w *admissionregistrationv1.MutatingWebhook) { *w.TimeoutSeconds = 31 }, []string{
			`webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds`,
		}},
		"client": {func(w *admissionregistrationv1.MutatingWebhook) { w.ClientConfig.URL = nil }, []string{
			`webhooks[0].clientConfig: Required value: exactly one of url or service is required`,
		}},
		"wildcards": {func(w *admissionregistrationv1.MutatingWebhook) {
			w.Rules[0].Operations = []admissionregistrationv1.OperationType{"*", "CREATE"}
			w.Rules[0].APIVersions = []string{"*", "v1"}
			w.Rules[0].Resources = []string{"pods/*", "pods/log", "*", "pods"}
		}, []string{
			`webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations`,
			`webhooks[0].rules[0].apiVersions: Invalid value: ["*","v1"]: if '*' is present, must not specify other API versions`,
			`webhooks[0].rules[0].resources[1]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log`,
			`webhooks[0].rules[0].resources: Invalid value: ["pods/*","pods/log","*","pods"]: if '*' is present, must not specify other resources without subresources`,
		}},
		"match conditions": {func(w *admissionregistrationv1.MutatingWebhook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{
				{Name: "good", Expression: "object.kind == 'Pod' && authorizer.group('').resource('pods').check('get').allowed()"},
				{Name: "good", Expression: " "},
				{Name: "", Expression: "1"},
				{Name: "syntax", Expression: "] [unparsable expression"},
				{Name: "params", Expression: "params.x == 1"},
			}
		}, []string{
			`webhooks[0].matchConditions[1].expression: Required value`,
			`webhooks[0].matchConditions[1].name: Duplicate value: "good"`,
			`webhooks[0].matchConditions[2].expression: Invalid value: "1": must evaluate to bool`,
			`webhooks[0].matchConditions[2].name: Required value`,
			`webhooks[0].matchConditions[3].expression: Invalid value: "] [unparsable expression": compilation failed`,
			`webhooks[0].matchConditions[4].expression: Invalid value: "params.x == 1": compilation failed`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse[admissionregistrationv1.MutatingWebhookConfiguration](t, aWebhook)
			defaultMutatingWebhooks(c)
			test.edit(&c.Webhooks[0])
			wantErrors(t, validateMutatingWebhooks(c), test.want...)
			if len(test.want) > 0 {
				return
			}
			v := parse[admissionregistrationv1.ValidatingWebhookConfiguration](t, aWebhook)
			defaultValidatingWebhooks(v)
			wantErrors(t, validateValidatingWebhooks(v))
		})
	}
}

// What is stored may stay as it is, however wrong; what is new may not.
func TestStoredWebhooksMayStay(t *testing.T) {
	old := parse[admissionregistrationv1.ValidatingWebhookConfiguration](t, aWebhook)
	defaultValidatingWebhooks(old)
	some := admissionregistrationv1.SideEffectClassSome
	old.Webhooks[0].SideEffects = &some
	old.Webhooks[0].AdmissionReviewVersions = []string{"v0"}
	old.Webhooks[0].NamespaceSelector.MatchExpressions = []metav1.LabelSelectorRequirement{
		{Key: "a", Operator: metav1.LabelSelectorOpIn, Values: []string{"not a value"}},
	}
	old.Webhooks[0].MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "old", Expression: "gone()"}}
	old.Webhooks = append(old.Webhooks, old.Webhooks[0])
	wantErrors(t, validateValidatingWebhooksUpdate(old.DeepCopy(), old))

	changed := old.DeepCopy()
	changed.Webhooks[1].MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "new", Expression: "gone()"}}
	wantErrors(t, validateValidatingWebhooksUpdate(changed, old),
		`webhooks[0].matchConditions[0].expression: Invalid value: "gone()"`, `webhooks[1].matchConditions[0].expression: Invalid value: "gone()"`)
}

func TestValidatingPolicy(t *testing.T) {
	const valid = `
metadata: {name: p.example.com}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, DELETE], resources: [deployments]}]}
  matchConditions: [{name: c, expression: "params.data.x == 'y'"}]
  variables: [{name: count, expression: "object.spec.replicas"}]
  validations: [{expression: "variables.count < 5", messageExpression: "'too many: ' + string(variables.count)", reason: Invalid}]
  auditAnnotations: [{key: replicas, valueExpression: "string(variables.count)"}]
`
	for name, test := range map[string]struct {
		edit func(*admissionregistrationv1.ValidatingAdmissionPolicySpec)
		want []string
	}{
		"valid": {func(*admissionregistrationv1.ValidatingAdmissionPolicySpec) {}, nil},
		"nothing to do": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) {
			s.Validations, s.AuditAnnotations = nil, nil
		}, []string{
			`spec.validations: Required value: validations or auditAnnotations must contain at least one item`,
			`spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item`,
		}},
		"no rules": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) { s.MatchConstraints.ResourceRules = nil }, []string{
			`spec.matchConstraints.resourceRules: Required value`,
		}},
		"no constraints": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) { s.MatchConstraints = nil }, []string{
			`spec.matchConstraints: Required value`,
		}},
		"no parameters": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) { s.ParamKind = nil }, []string{
			`spec.matchConditions[0].expression: Invalid value: "params.data.x == 'y'": compilation failed`,
		}},
		"parameters": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) {
			s.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "a/b/c", Kind: "A_b"}
		}, []string{
			`spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c`,
			`spec.paramKind.kind: Invalid value: "A_b": may have mixed case, but should otherwise match: `,
		}},
		"variable": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) {
			s.Variables = append(s.Variables, admissionregistrationv1.Variable{Name: "in", Expression: "variables.later"}, admissionregistrationv1.Variable{})
		}, []string{
			`spec.variables[1].name: Invalid value: "in": must be a valid CEL identifier`,
			`spec.variables[1].expression: Invalid value: "variables.later": compilation failed`,
			`spec.variables[2].name: Required value: name is not specified`,
			`spec.variables[2].expression: Required value: expression is not specified`,
		}},
		"validation": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) {
			reason := s.Validations[0].Reason
			*reason = "Because"
			s.Validations[0] = admissionregistrationv1.Validation{Expression: "1 + ", Message: "two\nlines", MessageExpression: "1", Reason: reason}
		}, []string{
			`spec.validations[0].expression: Invalid value: "1 + ": compilation failed`,
			`spec.validations[0].message: Invalid value: "two\nlines": must not contain line breaks`,
			`spec.validations[0].messageExpression: Invalid value: "1": must evaluate to string`,
			`spec.validations[0].reason: Unsupported value: "Because"`,
		}},
		"audit annotation": {func(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) {
			s.AuditAnnotations = append(s.AuditAnnotations, admissionregistrationv1.AuditAnnotation{Key: "replicas", ValueExpression: "1"})
		}, []string{
			`spec.auditAnnotations[1].key: Duplicate value: "replicas"`,
			`spec.auditAnnotations[1].valueExpression: Invalid value: "1": must evaluate to one of [string null_type]`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := parse[admissionregistrationv1.ValidatingAdmissionPolicy](t, valid)
			defaultValidatingPolicy(p)
			test.edit(&p.Spec)
			wantErrors(t, validateValidatingPolicy(p, nil), test.want...)
		})
	}
}

func TestMutatingPolicy(t *testing.T) {
	const valid = `
metadata: {name: p}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]}
  variables: [{name: count, expression: "'v'"}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'a': variables.count}}}"}
  - patchType: JSONPatch
    jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/labels/b', value: 'c'}]"}
`
	for name, test := range map[string]struct {
		edit func(*admissionregistrationv1.MutatingAdmissionPolicySpec)
		want []string
	}{
		"valid": {func(*admissionregistrationv1.MutatingAdmissionPolicySpec) {}, nil},
		"delete": {func(s *admissionregistrationv1.MutatingAdmissionPolicySpec) {
			s.MatchConstraints.ResourceRules[0].Operations = []admissionregistrationv1.OperationType{"DELETE"}
		}, []string{`spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE"`}},
		"no mutations": {func(s *admissionregistrationv1.MutatingAdmissionPolicySpec) { s.Mutations = nil }, []string{
			`spec.mutations: Required value: mutations must contain at least one item`,
		}},
		"both patches": {func(s *admissionregistrationv1.MutatingAdmissionPolicySpec) {
			s.Mutations[0].JSONPatch = s.Mutations[1].JSONPatch
			s.Mutations[1].JSONPatch = nil
		}, []string{
			`spec.mutations[0].jsonPatch: Invalid value: "{jsonPatch}": must not be specified when patchType is ApplyConfiguration`,
			`spec.mutations[1].jsonPatch: Required value: must be specified when patchType is JSONPatch`,
		}},
		"wrong type": {func(s *admissionregistrationv1.MutatingAdmissionPolicySpec) {
			s.Mutations[0].ApplyConfiguration.Expression = "1"
		}, []string{
			`spec.mutations[0].applyConfiguration.expression: Invalid value: "1": must evaluate to Object`,
		}},
		"reinvocation": {func(s *admissionregistrationv1.MutatingAdmissionPolicySpec) { s.ReinvocationPolicy = "Always" }, []string{
			`spec.reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := parse[admissionregistrationv1.MutatingAdmissionPolicy](t, valid)
			defaultMutatingPolicy(p)
			test.edit(&p.Spec)
			wantErrors(t, validateMutatingPolicy(p, nil), test.want...)
		})
	}
}

func TestBindings(t *testing.T) {
	b := parse[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, `
metadata: {name: b}
spec: {policyName: p, validationActions: [Deny, Warn, Deny], paramRef: {name: x, selector: {}, parameterNotFoundAction: Deny}}
`)
	defaultValidatingPolicyBinding(b)
	wantErrors(t, validateValidatingPolicyBinding(b),
		`spec.validationActions: Invalid value: ["Deny","Warn","Deny"]: must not contain both Deny and Warn`,
		`spec.validationActions[2]: Duplicate value: "Deny"`,
		`spec.paramRef.name: Forbidden: name and selector are mutually exclusive`,
		`spec.paramRef.selector: Forbidden: name and selector are mutually exclusive`)

	m := parse[admissionregistrationv1.MutatingAdmissionPolicyBinding](t, `
metadata: {name: b}
spec:
  paramRef: {parameterNotFoundAction: Deny}
  matchResources: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [DELETE], resources: [deployments], resourceNames: [a/b]}]}
`)
	defaultMutatingPolicyBinding(m)
	wantErrors(t, validateMutatingPolicyBinding(m),
		`spec.policyName: Required value`,
		`spec.paramRef: Required value: one of name or selector must be specified`,
		`spec.matchResources.resourceRules[0].resourceNames[0]: Invalid value: "a/b": may not contain '/'`,
		`spec.matchResources.resourceRules.operations: Unsupported value: "DELETE"`)
}
