// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/load"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	authorizationmetrics "k8s.io/apiserver/pkg/authorization/metrics"
	"k8s.io/apiserver/pkg/authorization/union"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/server/options/authorizationconfig/metrics"
	"k8s.io/apiserver/pkg/util/filesystem"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
	"k8s.io/klog/v2"
)

// The types of authorizers that a configuration may name.
const (
	typeNode        = apiserver.AuthorizerType("Node")
	typeRBAC        = apiserver.AuthorizerType("RBAC")
	typeAlwaysAllow = apiserver.AuthorizerType("AlwaysAllow")
	typeAlwaysDeny  = apiserver.AuthorizerType("AlwaysDeny")
	typeABAC        = apiserver.AuthorizerType("ABAC") // if there is a file of policies
)

// lookAnyway is how often the file is looked at although nothing was heard of it, as upstream does.
const lookAnyway = time.Minute

// byDefault is the order where no file says another.
func byDefault() *apiserver.AuthorizationConfiguration {
	return &apiserver.AuthorizationConfiguration{Authorizers: []apiserver.AuthorizerConfiguration{
		{Type: typeNode, Name: "node"}, {Type: typeRBAC, Name: "rbac"},
	}}
}

// answerer is one authorizer.
type answerer interface {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// chain is authorizers in their order. system:masters come before all of them.
type chain struct {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// current is the chain of the moment.
type current struct{ chain atomic.Pointer[chain] }

var _ answerer = (*current)(nil)

// Authorize implements authorizer.Authorizer.
func (c *current) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return c.chain.Load().Authorize(ctx, a)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (c *current) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return c.chain.Load().ConditionsAwareAuthorize(ctx, a)
}

// EvaluateConditions implements authorizer.Authorizer.
func (c *current) EvaluateConditions(ctx context.Context, decision authorizer.ConditionsAwareDecision, data authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return c.chain.Load().EvaluateConditions(ctx, decision, data)
}

// RulesFor implements authorizer.RuleResolver.
func (c *current) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return c.chain.Load().RulesFor(ctx, u, namespace)
}

// file is an AuthorizationConfiguration: webhooks and the order of all authorizers.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#using-configuration-file-for-authorization
type file struct {
	path     string
	compiler authorizationcel.Compiler
	data     []byte                             // what was last read; only Configure and Follow touch it
	known    sets.Set[string]                   // types, Webhook among them
	required sets.Set[apiserver.AuthorizerType] // besides webhooks, what was there at the start must stay
}

// Configure takes the order of authorizers from a file, with webhooks among them.
func (a *Authz) Configure(path string) error {
	f := &file{path: path, compiler: authorizationcel.NewDefaultCompiler(), known: sets.New(string(apiserver.TypeWebhook))}
	for name := range a.builtIn {
		f.known.Insert(string(name))
	}
	var err error
	if f.data, err = os.ReadFile(path); err != nil {
		return fmt.Errorf("read the authorization configuration: %w", err)
	}
	config, err := f.parse(f.data)
	if err == nil {
		err = a.arrange(config, f.compiler)
	}
	if err != nil {
		return fmt.Errorf("read the authorization configuration %s: %w", path, err)
	}
	f.required = builtInTypes(config)
	a.file = f
	return nil
}

// Follow takes over what changes in the file until ctx ends.
func (a *Authz) Follow(ctx context.Context) {
	metrics.RegisterMetrics()
	metrics.RecordAuthorizationConfigLastConfigInfo("", string(a.file.data))
	fail := func(err error) {
		klog.FromContext(ctx).Error(err, "The authorization configuration stays as it was", "file", a.file.path)
	}
	filesystem.WatchUntil(ctx, lookAnyway, a.file.path, func() {
		switch changed, err := a.reload(); {
		case err != nil:
			metrics.RecordAuthorizationConfigAutomaticReloadFailure("")
			fail(err)
		case changed:
			metrics.RecordAuthorizationConfigAutomaticReloadSuccess("", string(a.file.data))
		}
	}, fail)
}

// reload takes over the file. Contents that cannot work are not looked at again.
func (a *Authz) reload() (changed bool, err error) {
	data, err := os.ReadFile(a.file.path)
	if err != nil || bytes.Equal(data, a.file.data) {
		return false, err
	}
	a.file.data = data
	config, err := a.file.parse(data)
	if err != nil {
		return false, err
	}
	return true, a.arrange(config, a.file.compiler)
}

func (f *file) parse(data []byte) (*apiserver.AuthorizationConfiguration, error) {
	config, err := load.LoadFromData(data)
	if err != nil {
		return nil, err
	}
	if errs := validation.ValidateAuthorizationConfiguration(f.compiler, nil, config, f.known, sets.New(string(apiserver.TypeWebhook))); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	for _, c := range config.Authorizers {
		if want := strings.ToLower(string(c.Type)); c.Type != apiserver.TypeWebhook && c.Name != want {
			return nil, fmt.Errorf("expected name %s for authorizer %s instead of %s", want, c.Type, c.Name)
		}
	}
	if missing := f.required.Difference(builtInTypes(config)); len(missing) > 0 {
		return nil, fmt.Errorf("missing required types: %v", sets.List(missing))
	}
	return config, nil
}

func builtInTypes(config *apiserver.AuthorizationConfiguration) sets.Set[apiserver.AuthorizerType] {
	out := sets.New[apiserver.AuthorizerType]()
	for _, c := range config.Authorizers {
		out.Insert(c.Type)
	}
	return out.Delete(apiserver.TypeWebhook)
}

// arrange makes the chain of a configuration the current one.
func (a *Authz) arrange(config *apiserver.AuthorizationConfiguration, compiler authorizationcel.Compiler) error {
	all := []union.NamedAuthorizer{{
		AuthorizerName: "kubernetes.io/system-privileged-group", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup),
	}}
	var rules []authorizer.RuleResolver
	for _, c := range config.Authorizers {
		next, ok := a.builtIn[c.Type]
		if !ok {
			var err error
			if next, err = newWebhook(c, compiler); err != nil {
				return fmt.Errorf("authorize by webhook %s: %w", c.Name, err)
			}
		}
		all = append(all, union.NamedAuthorizer{
			AuthorizerName: c.Name, Authorizer: authorizationmetrics.InstrumentedAuthorizer(string(c.Type), c.Name, next),
		})
		rules = append(rules, next)
	}
	joined, err := union.New(all...)
	if err != nil {
		return err
	}
	a.chain.Store(&chain{joined, union.NewRuleResolvers(rules...)})
	return nil
}

// reported are the metrics that upstream has of webhooks.
type reported struct {
	webhookmetrics.NoopRequestMetrics
	webhookmetrics.WebhookMetrics
	authorizationcel.MatcherMetrics
}

func newWebhook(c apiserver.AuthorizerConfiguration, compiler authorizationcel.Compiler) (answerer, error) {
	client, err := webhookutil.LoadKubeconfig(*c.Webhook.ConnectionInfo.KubeConfigFile, nil)
	if err != nil {
		return nil, err
	}
	if c.Webhook.Timeout.Duration != 0 {
		client.Timeout = c.Webhook.Timeout.Duration
	}
	onError := authorizer.DecisionNoOpinion
	if c.Webhook.FailurePolicy == apiserver.FailurePolicyDeny {
		onError = authorizer.DecisionDeny
	}
	allowed, refused := c.Webhook.AuthorizedTTL.Duration, c.Webhook.UnauthorizedTTL.Duration
	if !c.Webhook.CacheAuthorizedRequests {
		allowed = 0
	}
	if !c.Webhook.CacheUnauthorizedRequests {
		refused = 0
	}
	return webhook.New(client, c.Webhook.SubjectAccessReviewVersion, allowed, refused, *genericoptions.DefaultAuthWebhookRetryBackoff(), onError,
		c.Webhook.MatchConditions, c.Name, reported{WebhookMetrics: webhookmetrics.NewWebhookMetrics(), MatcherMetrics: authorizationcel.NewMatcherMetrics()}, compiler)
}
