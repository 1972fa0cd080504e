// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// The flags of old name the authorizers and their order.
func TestAuthorizersByFlags(t *testing.T) {
	webhook, asked := judge(t)
	policies := filepath.Join(t.TempDir(), "policies")
	line := `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}}`
	if err := os.WriteFile(policies, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	a, err := New(informers.NewSharedInformerFactory(client, 0), client)
	if err != nil {
		t.Fatal(err)
	}
	flags := DefaultFlags()
	flags.Modes, flags.PolicyFile, flags.WebhookFile, flags.WebhookVersion = []string{"ABAC", "Webhook"}, policies, webhook, "v1"
	if err := flags.Check(""); err != nil {
		t.Fatal(err)
	}
	if err := a.ConfigureFlags(flags); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]authorizer.Decision{"alice": authorizer.DecisionAllow, "eve": authorizer.DecisionAllow, "mallory": authorizer.DecisionDeny, "bob": authorizer.DecisionNoOpinion} {
		before := asked.Load()
		got, reason, err := a.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name}, Verb: "get", Resource: "pods", ResourceRequest: true})
		if err != nil || got != want {
			t.Errorf("%s: %v (%s), %v; want %v", name, got, reason, err, want)
		}
		if (asked.Load() == before) != (name == "alice") {
			t.Errorf("%s: the webhook was asked %d times", name, asked.Load()-before)
		}
	}
	got, _, err := a.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}}})
	if err != nil || got != authorizer.DecisionAllow {
		t.Errorf("system:masters: %v, %v", got, err)
	}
}

func TestFlagsThatCannotWork(t *testing.T) {
	for want, c := range map[string]struct {
		file  string
		flags Flags
	}{
		"":                                     {"", Flags{}},
		`"Foo" is not a valid mode`:            {"", Flags{Modes: []string{"Foo"}}},
		`"RBAC" more than once`:                {"", Flags{Modes: []string{"RBAC", "Node", "RBAC"}}},
		"ABAC and --authorization-policy-file": {"", Flags{Modes: []string{"ABAC"}}},
		"Webhook and --authorization-webhook-confi": {"", Flags{WebhookFile: "/x"}},
		"--authorization-config can not be":         {"/x", Flags{Modes: []string{"RBAC"}}},
	} {
		if err := c.flags.Check(c.file); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
