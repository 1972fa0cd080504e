// SPDX-License-Identifier: Apache-2.0

package abac

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func load(t *testing.T, lines ...string) (*Authorizer, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policies")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func line(spec string) string {
	return `{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":` + spec + `}`
}

// The examples of the documentation, and what else a policy can say.
func TestPolicies(t *testing.T) {
	z, err := load(t, "# who may what", "",
		line(`{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}`),
		line(`{"user":"bob","namespace":"projectCaribou","resource":"pods","readonly":true}`),
		line(`{"group":"system:authenticated","readonly":true,"nonResourcePath":"/version*"}`),
		line(`{"group":"admins","user":"carol","nonResourcePath":"*"}`),
		line(`{"namespace":"*","resource":"*","apiGroup":"*"}`))
	if err != nil {
		t.Fatal(err)
	}
	who := func(name string, groups ...string) user.Info {
		return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	}
	of := func(u user.Info, verb, namespace, group, resource string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, Namespace: namespace, APIGroup: group, Resource: resource, ResourceRequest: true}
	}
	at := func(u user.Info, verb, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: verb, Path: path}
	}
	for name, c := range map[string]struct {
		asked authorizer.AttributesRecord
		want  bool
	}{
		"all of it":                     {of(who("alice"), "delete", "ns", "apps", "deployments"), true},
		"all of it, but no path":        {at(who("alice"), "get", "/healthz"), false},
		"reading":                       {of(who("bob"), "list", "projectCaribou", "", "pods"), true},
		"writing":                       {of(who("bob"), "create", "projectCaribou", "", "pods"), false},
		"another namespace":             {of(who("bob"), "get", "other", "", "pods"), false},
		"another resource":              {of(who("bob"), "get", "projectCaribou", "", "secrets"), false},
		"another group":                 {of(who("bob"), "get", "projectCaribou", "x", "pods"), false},
		"a path":                        {at(who("dave"), "get", "/version"), true},
		"a path below":                  {at(who("dave"), "get", "/version/x"), true},
		"another path":                  {at(who("dave"), "get", "/metrics"), false},
		"writing to a path":             {at(who("dave"), "post", "/version"), false},
		"the user in the group":         {at(who("carol", "admins"), "get", "/metrics"), true},
		"the user not in the group":     {at(who("carol"), "get", "/metrics"), false},
		"another user in the group":     {at(who("dave", "admins"), "get", "/metrics"), false},
		"a policy that names no user":   {of(who("dave"), "get", "ns", "", "pods"), false},
		"nobody":                        {at(nil, "get", "/version"), false},
		"what has no namespace, by all": {of(who("alice"), "get", "", "", "nodes"), true},
	} {
		got, _, err := z.Authorize(t.Context(), c.asked)
		if err != nil || (got == authorizer.DecisionAllow) != c.want || got == authorizer.DecisionDeny {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	resources, paths, incomplete, err := z.RulesFor(t.Context(), who("bob"), "projectCaribou")
	if err != nil || incomplete || len(resources) != 1 || len(paths) != 0 || strings.Join(resources[0].GetVerbs(), ",") != "get,list,watch" {
		t.Errorf("the rules of bob: %v, %v, %v, %v", resources, paths, incomplete, err)
	}
}

func TestPoliciesThatAreWrong(t *testing.T) {
	for want, lines := range map[string][]string{
		"line 2: unexpected end of JSON input": {line(`{"user":"a"}`), `{`},
		`line 1: it is "" of ""`:               {`{"user":"alice"}`},
		`line 2: it is "Pod" of "v1"`:          {"", `{"apiVersion":"v1","kind":"Pod"}`},
	} {
		if _, err := load(t, lines...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := Load("/none"); err == nil {
		t.Error("there is no file, and no error")
	}
}
