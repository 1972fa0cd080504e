// SPDX-License-Identifier: Apache-2.0

// Package abac allows what the lines of a file allow: each names users, and what they may read or do.
//
// The file is read once. A line is a policy of abac.authorization.kubernetes.io/v1beta1 in JSON, empty, or a comment
// after a #. Upstream has no other version in its documentation, and keeps one without a version, which is not known here.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/abac/
package abac

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// policy is one line. Of what is empty nothing matches, but for APIGroup, whose empty one is the core group, and
// Namespace, whose empty one is none.
type policy struct {
	User, Group string

	Readonly                      bool
	APIGroup, Resource, Namespace string
	NonResourcePath               string
}

// Authorizer knows the policies of a file.
type Authorizer struct{ policies []policy }

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// Load reads a file.
func Load(path string) (*Authorizer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the policies of ABAC: %w", err)
	}
	out := &Authorizer{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		p, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("read the policies of ABAC: %s, line %d: %w", path, n, err)
		}
		out.policies = append(out.policies, p)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the policies of ABAC in %s: %w", path, err)
	}
	return out, nil
}

func parse(line []byte) (policy, error) {
	var object struct {
		APIVersion, Kind string
		Spec             policy
	}
	if err := json.Unmarshal(line, &object); err != nil {
		return policy{}, err
	}
	const version, kind = "abac.authorization.kubernetes.io/v1beta1", "Policy"
	if object.APIVersion != version || object.Kind != kind {
		return policy{}, fmt.Errorf("it is %q of %q and must be %s of %s", object.Kind, object.APIVersion, kind, version)
	}
	return object.Spec, nil
}

// Authorize implements authorizer.Authorizer.
func (z *Authorizer) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if slices.ContainsFunc(z.policies, func(p policy) bool { return p.allows(a) }) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "No policy matched.", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer. There are none.
func (*Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver.
func (z *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) (resources []authorizer.ResourceRuleInfo, paths []authorizer.NonResourceRuleInfo, incomplete bool, err error) {
	for _, p := range z.policies {
		if !p.isFor(u) || !is(p.Namespace, namespace) {
			continue
		}
		verbs := []string{"*"}
		if p.Readonly {
			verbs = []string{"get", "list", "watch"}
		}
		if p.Resource != "" {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: verbs, APIGroups: []string{p.APIGroup}, Resources: []string{p.Resource}})
		}
		if p.NonResourcePath != "" {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: verbs, NonResourceURLs: []string{p.NonResourcePath}})
		}
	}
	return resources, paths, false, nil
}

func (p policy) allows(a authorizer.Attributes) bool {
	if !p.isFor(a.GetUser()) || p.Readonly && !a.IsReadOnly() {
		return false
	}
	if a.IsResourceRequest() {
		return is(p.Namespace, a.GetNamespace()) && is(p.Resource, a.GetResource()) && is(p.APIGroup, a.GetAPIGroup())
	}
	beginning, all := strings.CutSuffix(p.NonResourcePath, "*")
	return p.NonResourcePath == a.GetPath() || all && strings.HasPrefix(a.GetPath(), beginning)
}

// isFor tells whether a policy names a user, or his group, or both where it names both.
func (p policy) isFor(u user.Info) bool {
	if u == nil || p.User == "" && p.Group == "" {
		return false
	}
	return (p.User == "" || is(p.User, u.GetName())) && (p.Group == "" || p.Group == "*" || slices.Contains(u.GetGroups(), p.Group))
}

func is(pattern, value string) bool { return pattern == "*" || pattern == value }
