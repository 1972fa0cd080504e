// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurity "k8s.io/pod-security-admission/admission"
	"k8s.io/pod-security-admission/admission/api/load"
	podsecurityapi "k8s.io/pod-security-admission/api"
	podsecuritymetrics "k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity keeps pods within the security standard that their namespace's labels ask for.
type podSecurity struct {
	*admission.Handler
	standards *podsecurity.Admission
	synced    synced
}

var _ admission.ValidationInterface = (*podSecurity)(nil)

func newPodSecurity(d *Deps) admission.Interface {
	return made(makePodSecurity(d))
}

func makePodSecurity(d *Deps) (*podSecurity, error) {
	config, err := load.LoadFromReader(nil)
	if err != nil {
		return nil, fmt.Errorf("default pod security configuration: %w", err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security checks: %w", err)
	}
	recorder := podsecuritymetrics.NewPrometheusRecorder(podsecurityapi.GetAPIVersion())
	recorder.MustRegister(func(all ...metrics.Registerable) {
		for _, m := range all {
			_ = legacyregistry.Register(m) // a second chain in the process (a test) has none of its own
		}
	})
	namespaces := d.Informers.Core().V1().Namespaces()
	p := &podSecurity{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		standards: &podsecurity.Admission{
			Configuration:    config,
			Evaluator:        evaluator,
			Metrics:          recorder,
			PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
			PodLister:        podsecurity.PodListerFromInformer(d.Informers.Core().V1().Pods().Lister()),
			NamespaceGetter:  podsecurity.NamespaceGetterFromListerAndClient(namespaces.Lister(), d.Client),
		},
		synced: waitFor(namespaces.Informer()),
	}
	if err := p.standards.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("complete pod security configuration: %w", err)
	}
	return p, p.standards.ValidateConfiguration()
}

func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if resource != pods && resource != corev1.Resource("namespaces") && !p.standards.PodSpecExtractor.HasPodSpec(resource) {
		return nil
	}
	if err := p.synced.wait(ctx, a); err != nil {
		return err
	}
	response := p.standards.Validate(ctx, podSecurityAttributes{a})
	for _, w := range response.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for key, value := range response.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurityapi.AuditAnnotationPrefix+key, value)
	}
	if response.Allowed {
		return nil
	}
	err := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity"))
	var status *apierrors.StatusError
	if result := response.Result; result != nil && errors.As(err, &status) {
		if result.Message != "" {
			status.ErrStatus.Message = result.Message
		}
		if result.Reason != "" {
			status.ErrStatus.Reason = result.Reason
		}
		if result.Details != nil {
			status.ErrStatus.Details = result.Details
		}
		if result.Code != 0 {
			status.ErrStatus.Code = result.Code
		}
	}
	return err
}

// podSecurityAttributes are the same attributes as the library calls them.
type podSecurityAttributes struct{ admission.Attributes }

var _ podsecurityapi.Attributes = podSecurityAttributes{}

func (a podSecurityAttributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}
func (a podSecurityAttributes) GetObject() (runtime.Object, error) {
	return a.Attributes.GetObject(), nil
}
func (a podSecurityAttributes) GetOldObject() (runtime.Object, error) {
	return a.Attributes.GetOldObject(), nil
}
func (a podSecurityAttributes) GetUserName() string { return a.GetUserInfo().GetName() }
