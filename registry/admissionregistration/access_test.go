// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

var mayNothing = authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, "", nil
})

// only allows one thing.
func only(question string) authorizer.UnconditionalAuthorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked := fmt.Sprintf("%s %s/%s/%s %s/%s", a.GetVerb(), a.GetAPIGroup(), a.GetAPIVersion(), a.GetResource(), a.GetNamespace(), a.GetName())
		if asked == question {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionDeny, "", nil
	})
}

func configMaps() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("ConfigMap"), meta.RESTScopeNamespace)
	return mapper
}

// Nobody lets a policy read what he may not read.
func TestParametersMayBeRead(t *testing.T) {
	someone := &user.DefaultInfo{Name: "someone"}
	master := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	maps := &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	unknown := &admissionregistrationv1.ParamKind{APIVersion: "example.com/v1", Kind: "Param"}
	bad := &admissionregistrationv1.ParamKind{APIVersion: "a/b/c", Kind: "Param"}
	named := &admissionregistrationv1.ParamRef{Name: "x", Namespace: "ns"}
	all := &admissionregistrationv1.ParamRef{}
	policies := func(_ context.Context, name string) (*admissionregistrationv1.ParamKind, error) {
		switch name {
		case "maps":
			return maps, nil
		case "unknown":
			return unknown, nil
		case "bad":
			return bad, nil
		}
		return nil, errors.New("no such policy")
	}
	kind := func(d Deps, kind, old *admissionregistrationv1.ParamKind) func(context.Context) field.ErrorList {
		return func(ctx context.Context) field.ErrorList { return d.mayReadKind(ctx, kind, old) }
	}
	params := func(d Deps, policy string, ref *admissionregistrationv1.ParamRef) func(context.Context) field.ErrorList {
		return func(ctx context.Context) field.ErrorList { return d.mayReadParams(ctx, policy, ref, policies) }
	}
	with := func(a authorizer.UnconditionalAuthorizer) Deps { return Deps{Authorizer: a, Mapper: configMaps()} }
	nothing := with(mayNothing)
	for _, c := range []struct {
		name string
		who  user.Info
		ask  func(context.Context) field.ErrorList
		want string
	}{
		{"a policy without parameters", someone, kind(nothing, nil, nil), ""},
		{"a policy with parameters", someone, kind(nothing, maps, nil), `must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)`},
		{"by one who may", someone, kind(with(only("get /v1/configmaps */*")), maps, nil), ""},
		{"by a master", master, kind(nothing, maps, nil), ""},
		{"with the parameters that it had", someone, kind(nothing, maps, maps), ""},
		{"with others than it had", someone, kind(nothing, maps, unknown), "spec.paramKind: Forbidden"},
		{"with an unknown kind", someone, kind(with(only("get example.com/v1/* */*")), unknown, nil), ""},
		{"with no kind", someone, kind(with(only("get */*/* */*")), bad, nil), ""},
		{"a binding without parameters", someone, params(nothing, "maps", nil), ""},
		{"a binding to an object", someone, params(nothing, "maps", named), `does not have "get" permission on the object referenced by paramRef`},
		{"by one who may", someone, params(with(only("get /v1/configmaps ns/x")), "maps", named), ""},
		{"to all objects", someone, params(nothing, "maps", all), `does not have "list" permission on the object referenced by paramRef`},
		{"to all objects, by one who may", someone, params(with(only("list /v1/configmaps /")), "maps", all), ""},
		{"by a master", master, params(nothing, "maps", named), ""},
		{"of no policy", someone, params(nothing, "none", named), "unable to get policy none to determine minimum required permissions and user"},
		{"of no policy, by one who may read all", someone, params(with(only("get */*/* ns/x")), "none", named), ""},
		{"of an unknown kind", someone, params(nothing, "unknown", named), "unable to resolve paramKind {example.com/v1 Param} to determine"},
		{"of no kind", someone, params(nothing, "bad", named), "unable to parse paramKind {a/b/c Param} to determine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			errs := c.ask(request.WithUser(t.Context(), c.who))
			switch {
			case c.want == "" && len(errs) > 0, c.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want)):
				t.Errorf("%v, want %q", errs, c.want)
			}
		})
	}
}
