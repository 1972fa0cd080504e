// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"sync"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/tools/cache"
)

// policies is a plugin for admission policies that is built when the first policy exists. The one of
// k8s.io/apiserver has controllers, a CEL environment, and asks for the OpenAPI schema every five
// seconds, all of it whether there is a policy or not.
type policies struct {
	*admission.Handler
	policies, bindings cache.SharedIndexInformer
	policiesSynced     synced
	bindingsSynced     synced

	build func() (admission.Interface, error) // once
}

var (
	_ admission.MutationInterface   = mutatingPolicies{}
	_ admission.ValidationInterface = validatingPolicies{}
)

func newMutatingPolicies(d *Deps) admission.Interface {
	v1 := d.Informers.Admissionregistration().V1()
	p := newPolicies(d, v1.MutatingAdmissionPolicies().Informer(), v1.MutatingAdmissionPolicyBindings().Informer(),
		func() (admission.Interface, error) {
			p, err := mutating.NewPlugin(nil)
			if err != nil {
				return nil, err
			}
			p.SetEnabled(true)
			return p, nil
		})
	p.Handler = admission.NewHandler(admission.Create, admission.Update, admission.Connect)
	return mutatingPolicies{p}
}

func newValidatingPolicies(d *Deps) admission.Interface {
	v1 := d.Informers.Admissionregistration().V1()
	p := newPolicies(d, v1.ValidatingAdmissionPolicies().Informer(), v1.ValidatingAdmissionPolicyBindings().Informer(),
		func() (admission.Interface, error) { return validating.NewPlugin(nil) })
	p.Handler = admission.NewHandler(admission.Create, admission.Update, admission.Delete, admission.Connect)
	return validatingPolicies{p}
}

func newPolicies(d *Deps, of, bindings cache.SharedIndexInformer, make func() (admission.Interface, error)) *policies {
	return &policies{
		policies: of, policiesSynced: waitFor(of),
		bindings: bindings, bindingsSynced: waitFor(bindings),
		build: sync.OnceValues(func() (admission.Interface, error) {
			p, err := make()
			if err != nil {
				return nil, err
			}
			d.initializers().Initialize(p)
			if err := admission.ValidateInitialization(p); err != nil {
				return nil, err
			}
			d.Informers.Start(d.Done) // those that the plugin asked for and that were not running
			return p, nil
		}),
	}
}

// inUse returns the real plugin if there is something for it to do.
func (p *policies) inUse(ctx context.Context, a admission.Attributes) (admission.Interface, error) {
	if err := p.policiesSynced.wait(ctx, a); err != nil {
		return nil, err
	}
	if err := p.bindingsSynced.wait(ctx, a); err != nil {
		return nil, err
	}
	if len(p.policies.GetStore().ListKeys()) == 0 || len(p.bindings.GetStore().ListKeys()) == 0 {
		return nil, nil
	}
	return p.build()
}

// mutatingPolicies and validatingPolicies are each in one half of the chain only.
type (
	mutatingPolicies   struct{ *policies }
	validatingPolicies struct{ *policies }
)

func (p mutatingPolicies) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	real, err := p.inUse(ctx, a)
	if real == nil || err != nil {
		return err
	}
	return real.(admission.MutationInterface).Admit(ctx, a, o)
}

func (p validatingPolicies) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	real, err := p.inUse(ctx, a)
	if real == nil || err != nil {
		return err
	}
	return real.(admission.ValidationInterface).Validate(ctx, a, o)
}
