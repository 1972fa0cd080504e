// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"fmt"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	resourcequotaapi "k8s.io/apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota"

	"github.com/skiff-k8s/skiff/apiserver/admission/quota"
)

// quotaWorkers check quotas, one namespace at a time each.
const quotaWorkers = 4

// newResourceQuota counts what a namespace has and refuses what would exceed its quotas.
func newResourceQuota(d *Deps) admission.Interface {
	p, err := resourcequota.NewResourceQuota(&resourcequotaapi.Configuration{}, quotaWorkers)
	if err != nil {
		return failed{err: fmt.Errorf("resource quota: %w", err)}
	}
	p.SetDrainedNotification(d.Done)
	p.SetQuotaConfiguration(quota.Configuration(nil))
	return p
}
