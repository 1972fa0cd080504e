// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// simpleCompiler is for expressions that know no variables. It has no state. The environments cost some MB, so
// nobody has them before the first expression.
var simpleCompiler = sync.OnceValue(func() plugincel.Compiler {
	return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

// compiler compiles the expressions of one policy, which may use its variables.
type compiler struct {
	plugincel.Compiler
	composited *plugincel.CompositedCompiler // for variables; nil if there are none
	params     bool                          // whether the policy has parameters
	stored     sets.Set[string]              // expressions that were accepted once
}

func newCompiler(variables []admissionregistrationv1.Variable, params *admissionregistrationv1.ParamKind, stored sets.Set[string]) (*compiler, error) {
	c := &compiler{params: params != nil, stored: stored}
	if len(variables) == 0 {
		c.Compiler = simpleCompiler()
		return c, nil
	}
	composited, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, fmt.Errorf("make a CEL compiler with variables: %w", err)
	}
	c.Compiler, c.composited = composited, composited
	return c, nil
}

// knows are the names that an expression of a policy may use besides the request.
func (c *compiler) knows() plugincel.OptionalVariableDeclarations {
	return plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}
}

// environmentOf lets an expression that is stored use what has been taken out since.
func environmentOf(expression string, stored sets.Set[string]) environment.Type {
	if stored.Has(expression) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

func (c *compiler) check(path *field.Path, accessor plugincel.ExpressionAccessor, knows plugincel.OptionalVariableDeclarations) field.ErrorList {
	result := c.CompileCELExpression(accessor, knows, environmentOf(accessor.GetExpression(), c.stored))
	return wrongExpression(path, accessor, result.Error)
}

func wrongExpression(path *field.Path, accessor plugincel.ExpressionAccessor, err *cel.Error) field.ErrorList {
	if err == nil {
		return nil
	}
	switch err.Type {
	case cel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case cel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, accessor.GetExpression(), err.Detail)}
	}
	return field.ErrorList{field.InternalError(path, err)}
}

// variable checks a variable and makes it known to the expressions that come after it.
func (c *compiler) variable(path *field.Path, v *admissionregistrationv1.Variable) field.ErrorList {
	var errs field.ErrorList
	switch {
	case strings.TrimSpace(v.Name) == "":
		errs = append(errs, field.Required(path.Child("name"), "name is not specified"))
	case !isIdentifier(v.Name):
		errs = append(errs, field.Invalid(path.Child("name"), v.Name, "must be a valid CEL identifier"))
	}
	if strings.TrimSpace(v.Expression) == "" {
		return append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	}
	if c.composited == nil {
		return append(errs, field.InternalError(path, errors.New("variable composition is not allowed")))
	}
	accessor := &validating.Variable{Name: v.Name, Expression: v.Expression}
	result := c.composited.CompileAndStoreVariable(accessor, c.knows(), environmentOf(v.Expression, c.stored))
	return append(errs, wrongExpression(path.Child("expression"), accessor, result.Error)...)
}

const maxMatchConditions = 64

func validateMatchConditions(path *field.Path, conditions []admissionregistrationv1.MatchCondition, params bool, stored sets.Set[string]) field.ErrorList {
	errs := rule.If(len(conditions) > maxMatchConditions, field.TooMany(path, len(conditions), maxMatchConditions))
	names := sets.New[string]()
	for i, m := range conditions {
		at := path.Index(i)
		if expression := strings.TrimSpace(m.Expression); expression == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			c := compiler{Compiler: simpleCompiler(), params: params, stored: stored}
			errs = append(errs, c.check(at.Child("expression"), &matchconditions.MatchCondition{Expression: expression}, c.knows())...)
		}
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, rule.QualifiedName(at.Child("name"), m.Name)...)
		errs = append(errs, rule.If(names.Has(m.Name), field.Duplicate(at.Child("name"), m.Name))...)
		names.Insert(m.Name)
	}
	return errs
}

// The grammar of identifiers and the words that are none: https://github.com/google/cel-spec/blob/master/doc/langdef.md
var (
	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reserved   = sets.New("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if",
		"import", "let", "loop", "package", "namespace", "return", "var", "void", "while")
)

func isIdentifier(name string) bool { return identifier.MatchString(name) && !reserved.Has(name) }
