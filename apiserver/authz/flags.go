// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/apiserver"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"

	"github.com/skiff-k8s/skiff/apiserver/authz/abac"
)

// Flags are the settings of old, which an AuthorizationConfiguration takes the place of. They are called as
// kube-apiserver's.
type Flags struct {
	Modes                          []string      // --authorization-mode: types of authorizers, in their order; Node, RBAC if empty
	PolicyFile                     string        // --authorization-policy-file: for ABAC
	WebhookFile                    string        // --authorization-webhook-config-file: a kubeconfig, for Webhook
	WebhookVersion                 string        // of SubjectAccessReview
	WebhookAllowed, WebhookRefused time.Duration // how long its answers count
}

// DefaultFlags are those where nothing was said.
func DefaultFlags() Flags {
	return Flags{WebhookVersion: "v1beta1", WebhookAllowed: 5 * time.Minute, WebhookRefused: 30 * time.Second}
}

// Check refuses what cannot work. file is an AuthorizationConfiguration, if there is one.
func (f *Flags) Check(file string) error {
	modes := f.Modes
	if len(modes) == 0 {
		modes = []string{string(typeNode), string(typeRBAC)}
	}
	for i, mode := range modes {
		if !slices.Contains([]string{string(typeNode), string(typeRBAC), string(typeAlwaysAllow), string(typeAlwaysDeny), string(typeABAC), string(apiserver.TypeWebhook)}, mode) {
			return fmt.Errorf("--authorization-mode %q is not a valid mode", mode)
		}
		if slices.Contains(modes[:i], mode) {
			return fmt.Errorf("--authorization-mode has %q more than once", mode)
		}
	}
	if file != "" && (len(f.Modes) > 0 || f.WebhookFile != "") {
		return errors.New("--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined")
	}
	if file != "" {
		return nil // it may name ABAC
	}
	for _, needs := range []struct {
		mode apiserver.AuthorizerType
		file string
		flag string
	}{{typeABAC, f.PolicyFile, "--authorization-policy-file"}, {apiserver.TypeWebhook, f.WebhookFile, "--authorization-webhook-config-file"}} {
		if slices.Contains(modes, string(needs.mode)) != (needs.file != "") {
			return fmt.Errorf("--authorization-mode %s and %s need each other (set both or none)", needs.mode, needs.flag)
		}
	}
	return nil
}

// ConfigureFlags takes the order of authorizers from flags.
func (a *Authz) ConfigureFlags(f Flags) error {
	if f.PolicyFile != "" {
		policies, err := abac.Load(f.PolicyFile)
		if err != nil {
			return err
		}
		a.builtIn[typeABAC] = policies
	}
	if len(f.Modes) == 0 {
		return nil
	}
	config := &apiserver.AuthorizationConfiguration{}
	for _, mode := range f.Modes {
		c := apiserver.AuthorizerConfiguration{Type: apiserver.AuthorizerType(mode), Name: strings.ToLower(mode)}
		if c.Type == apiserver.TypeWebhook {
			c.Name, c.Webhook = "default", f.webhook()
		}
		config.Authorizers = append(config.Authorizers, c)
	}
	return a.arrange(config, authorizationcel.NewDefaultCompiler())
}

func (f *Flags) webhook() *apiserver.WebhookConfiguration {
	return &apiserver.WebhookConfiguration{
		AuthorizedTTL: metav1.Duration{Duration: f.WebhookAllowed}, CacheAuthorizedRequests: f.WebhookAllowed != 0,
		UnauthorizedTTL: metav1.Duration{Duration: f.WebhookRefused}, CacheUnauthorizedRequests: f.WebhookRefused != 0,
		Timeout: metav1.Duration{Duration: 30 * time.Second}, FailurePolicy: apiserver.FailurePolicyNoOpinion,
		SubjectAccessReviewVersion: f.WebhookVersion,
		ConnectionInfo:             apiserver.WebhookConnectionInfo{Type: apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &f.WebhookFile},
	}
}
