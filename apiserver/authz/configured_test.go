// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// judge is a webhook that lets eve do everything and refuses mallory, and counts how often it was asked.
func judge(t *testing.T) (kubeconfig string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: review.Spec.User == "eve", Denied: review.Spec.User == "mallory", Reason: "the webhook says so"}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "webhook.kubeconfig")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": server.URL, "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kubeconfig, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, asked
}

func authorizationFile(webhook string) string {
	head := "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n"
	if webhook == "" {
		return head
	}
	return head + fmt.Sprintf(`- type: Webhook
  name: judge
  webhook:
    authorizedTTL: 1m
    unauthorizedTTL: 1m
    timeout: 5s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %q}
    matchConditions: [{expression: 'request.user != "quiet"'}]
`, webhook)
}

// A webhook that a file names is asked after what is built in, if its conditions hold; the file is followed.
func TestConfiguredAuthorization(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	a, err := New(factory, client)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	kubeconfig, asked := judge(t)
	file := filepath.Join(t.TempDir(), "authz.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(authorizationFile(kubeconfig))
	if err := a.Configure(file); err != nil {
		t.Fatal(err)
	}
	decide := func(name string, groups ...string) authorizer.Decision {
		decision, _, _ := a.Authorize(ctx, authorizer.AttributesRecord{
			User: &user.DefaultInfo{Name: name, Groups: groups}, Verb: "get", Resource: "pods", Namespace: "n", ResourceRequest: true, APIVersion: "v1",
		})
		return decision
	}
	for _, c := range []struct {
		name   string
		groups []string
		want   authorizer.Decision
		asked  int32
	}{
		{"eve", nil, authorizer.DecisionAllow, 1},
		{"eve", nil, authorizer.DecisionAllow, 0}, // an answer is kept
		{"mallory", nil, authorizer.DecisionDeny, 1},
		{"nobody", nil, authorizer.DecisionNoOpinion, 1},
		{"quiet", nil, authorizer.DecisionNoOpinion, 0},
		{"mallory", []string{"system:masters"}, authorizer.DecisionAllow, 0},
	} {
		before := asked.Load()
		if got := decide(c.name, c.groups...); got != c.want || asked.Load()-before != c.asked {
			t.Errorf("%s %v: decision %v, the webhook was asked %d times; want %v, %d", c.name, c.groups, got, asked.Load()-before, c.want, c.asked)
		}
	}

	done := make(chan struct{})
	go func() { defer close(done); a.Follow(ctx) }()
	defer func() { cancel(); <-done }()
	write(authorizationFile(""))
	for deadline := time.Now().Add(30 * time.Second); decide("eve") != authorizer.DecisionNoOpinion; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the webhook still counts")
		}
	}
}

func TestConfigurationThatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"a name of its own": {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: RBAC, name: mine}]", "expected name rbac for authorizer RBAC instead of mine"},
		"ABAC":              {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: ABAC, name: abac}]", `Unsupported value: "ABAC"`},
		"nobody":            {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: []", "at least one authorization mode must be defined"},
		"no kubeconfig":     {authorizationFile("/does/not/exist"), "no such file or directory"},
	} {
		client := fake.NewClientset()
		a, err := New(informers.NewSharedInformerFactory(client, 0), client)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "authz.yaml")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.Configure(file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
