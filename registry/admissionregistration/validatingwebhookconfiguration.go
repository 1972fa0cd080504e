// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ValidatingWebhookConfigurations says what is particular to validatingwebhookconfigurations.
func ValidatingWebhookConfigurations() rest.Resource[*admissionregistrationv1.ValidatingWebhookConfiguration] {
	return rest.Resource[*admissionregistrationv1.ValidatingWebhookConfiguration]{
		Kind:                 admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"),
		Plural:               "validatingwebhookconfigurations",
		Singular:             "validatingwebhookconfiguration",
		NeedsResourceVersion: true,
		Default:              defaultValidatingWebhooks,
		Validate:             validateValidatingWebhooks,
		ValidateUpdate:       validateValidatingWebhooksUpdate,
		Columns:              webhookColumns(func(o *admissionregistrationv1.ValidatingWebhookConfiguration) int { return len(o.Webhooks) }),
		Categories:           []string{"api-extensions"},
		GenerationOf:         func(o *admissionregistrationv1.ValidatingWebhookConfiguration) any { return o.Webhooks },
	}
}
