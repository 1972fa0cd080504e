// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream. Policies and their bindings come in two
// kinds that look the same.

func webhookColumns[T rest.Object](count func(T) int) []rest.Column[T] {
	return []rest.Column[T]{
		rest.Name[T](),
		rest.Number("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration", count),
		rest.Age[T](),
	}
}

func policyColumns[T rest.Object](name, description string, count func(T) int, kind func(T) *admissionregistrationv1.ParamKind) []rest.Column[T] {
	return []rest.Column[T]{
		rest.Name[T](),
		rest.Number(name, description, count),
		rest.Text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy", func(o T) string {
			if k := kind(o); k != nil {
				return k.APIVersion + "/" + k.Kind
			}
			return "<unset>"
		}),
		rest.Age[T](),
	}
}

func bindingColumns[T rest.Object](policy func(T) string, param func(T) *admissionregistrationv1.ParamRef) []rest.Column[T] {
	return []rest.Column[T]{
		rest.Name[T](),
		rest.Text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to", policy),
		rest.Text("ParamRef", "ParamRef indicates the param resource which sets the configuration param", func(o T) string { return paramCell(param(o)) }),
		rest.Age[T](),
	}
}

func paramCell(ref *admissionregistrationv1.ParamRef) string {
	switch p := ptr.Deref(ref, admissionregistrationv1.ParamRef{}); {
	case p.Name != "":
		return rest.Or(p.Namespace, "*") + "/" + p.Name
	case p.Selector != nil:
		return p.Selector.String()
	}
	return "<unset>"
}
