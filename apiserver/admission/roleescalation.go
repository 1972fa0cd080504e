// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/skiff-k8s/skiff/apiserver/authz/rbac"
)

// roleEscalation keeps people from granting rights that they do not have. Upstream's storage of roles
// does this; here it is a plugin, because it is about who asks, which storage need not know. It sees
// what is going to be stored: all changes are made by then.
type roleEscalation struct {
	*admission.Handler
	guard *rbac.Guard
}

var _ admission.ValidationInterface = (*roleEscalation)(nil)

func newRoleEscalation(d *Deps) admission.Interface {
	return &roleEscalation{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		guard:   &rbac.Guard{Rules: rbac.New(d.Informers), Authorizer: d.Authorizer},
	}
}

func (p *roleEscalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" {
		return nil
	}
	return p.guard.Check(request.WithUser(ctx, a.GetUserInfo()), a.GetObject(), a.GetOldObject())
}
