// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
)

// The expressions of a policy see its parameters, and their messages can tell what is in them. So nobody may let a
// policy use what he may not read himself.

// Deps is what resources of this group need besides their own storage.
type Deps struct {
	// Authorizer tells who may read the parameters of policies (nil: everyone).
	Authorizer authorizer.UnconditionalAuthorizer
	// Mapper knows the resources of the parameters' kinds.
	Mapper meta.RESTMapper
	// Policies are those that bindings name.
	Policies interface {
		admissionclient.ValidatingAdmissionPoliciesGetter
		admissionclient.MutatingAdmissionPoliciesGetter
	}
}

// mayReadKind refuses a policy to those who may not read all objects of its parameters' kind.
func (d Deps) mayReadKind(ctx context.Context, kind, old *admissionregistrationv1.ParamKind) field.ErrorList {
	if kind == nil || old != nil && *old == *kind || d.Authorizer == nil {
		return nil
	}
	refuse := func(err error) field.ErrorList {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "paramKind"), err.Error())}
	}
	asks, err := asking(ctx, "paramKind resources")
	if err != nil {
		return refuse(err)
	}
	if asks == nil {
		return nil
	}
	attributes, _ := d.reading(asks, "get", kind) // what is not known is all there is
	attributes.Name, attributes.Namespace = "*", "*"
	decision, _, err := d.Authorizer.Authorize(ctx, attributes)
	if err != nil {
		return refuse(err)
	}
	if decision != authorizer.DecisionAllow {
		return refuse(fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, asks, kind.Kind, kind.APIVersion))
	}
	return nil
}

// mayReadParams refuses a binding to those who may not read the parameters that it names. kind looks for them in the
// policy.
func (d Deps) mayReadParams(ctx context.Context, policy string, ref *admissionregistrationv1.ParamRef,
	kind func(context.Context, string) (*admissionregistrationv1.ParamKind, error),
) field.ErrorList {
	if ref == nil || d.Authorizer == nil {
		return nil
	}
	refuse := func(err error) field.ErrorList {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "paramRef"), err.Error())}
	}
	asks, err := asking(ctx, "paramRef object")
	if err != nil {
		return refuse(err)
	}
	if asks == nil {
		return nil
	}
	verb := "get"
	if ref.Name == "" {
		verb = "list"
	}
	params, unknown := kind(ctx, policy)
	if unknown != nil {
		unknown = fmt.Errorf("get policy %s", policy)
	}
	attributes, err := d.reading(asks, verb, params)
	unknown = errors.Join(unknown, err)
	attributes.Name, attributes.Namespace = ref.Name, ref.Namespace
	decision, _, err := d.Authorizer.Authorize(ctx, attributes)
	switch {
	case err != nil:
		return refuse(fmt.Errorf("failed to authorize request: %w", err))
	case decision == authorizer.DecisionAllow:
		return nil
	case unknown != nil:
		return refuse(fmt.Errorf(`unable to %v to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, unknown, asks, verb))
	}
	return refuse(fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, asks, verb))
}

// asking is who makes the request, nil if it may read all there is.
func asking(ctx context.Context, what string) (user.Info, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, fmt.Errorf("cannot identify user to authorize read access to %s", what)
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil, nil
	}
	return u, nil
}

// reading asks for objects of a kind, as exactly as it is known; what is not known is all there is.
func (d Deps) reading(asks user.Info, verb string, kind *admissionregistrationv1.ParamKind) (authorizer.AttributesRecord, error) {
	out := authorizer.AttributesRecord{User: asks, Verb: verb, ResourceRequest: true, APIGroup: "*", APIVersion: "*", Resource: "*"}
	if kind == nil {
		return out, nil
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return out, fmt.Errorf("parse paramKind %v", *kind)
	}
	out.APIGroup, out.APIVersion = gv.Group, gv.Version
	mapping, err := d.Mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: kind.Kind}, gv.Version)
	if err != nil {
		return out, fmt.Errorf("resolve paramKind %v", *kind)
	}
	out.Resource = mapping.Resource.Resource
	return out, nil
}

func (d Deps) validatingKind(ctx context.Context, policy string) (*admissionregistrationv1.ParamKind, error) {
	p, err := d.Policies.ValidatingAdmissionPolicies().Get(ctx, policy, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return p.Spec.ParamKind, nil
}

func (d Deps) mutatingKind(ctx context.Context, policy string) (*admissionregistrationv1.ParamKind, error) {
	p, err := d.Policies.MutatingAdmissionPolicies().Get(ctx, policy, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return p.Spec.ParamKind, nil
}
