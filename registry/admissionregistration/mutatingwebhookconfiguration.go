// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// MutatingWebhookConfigurations says what is particular to mutatingwebhookconfigurations.
func MutatingWebhookConfigurations() rest.Resource[*admissionregistrationv1.MutatingWebhookConfiguration] {
	return rest.Resource[*admissionregistrationv1.MutatingWebhookConfiguration]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"),
		Plural:               "mutatingwebhookconfigurations",
		Singular:             "mutatingwebhookconfiguration",
		NeedsResourceVersion: true,
		Default:              defaultMutatingWebhooks,
		Validate:             validateMutatingWebhooks,
		ValidateUpdate:       validateMutatingWebhooksUpdate,
		Columns:              webhookColumns(func(o *admissionregistrationv1.MutatingWebhookConfiguration) int { return len(o.Webhooks) }),
		Categories:           []string{"api-extensions"},
		GenerationOf:         func(o *admissionregistrationv1.MutatingWebhookConfiguration) any { return o.Webhooks },
	}
}
