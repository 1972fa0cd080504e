// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	resourcequotaapi "k8s.io/apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota"
	"k8s.io/client-go/tools/cache"

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
	known := map[schema.GroupVersionResource]cache.GenericLister{}
	for _, gvr := range []schema.GroupVersionResource{quota.Pods, quota.ResourceClaims, quota.DeviceClasses} {
		informer, err := d.Informers.ForResource(gvr)
		if err != nil {
			return failed{err: fmt.Errorf("resource quota: %w", err)}
		}
		known[gvr] = informer.Lister()
	}
	p.SetDrainedNotification(d.Done)
	p.SetQuotaConfiguration(quota.Configuration(func(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
		if known[gvr] == nil {
			return nil, fmt.Errorf("resource quota: %s are not counted by admission", gvr.Resource)
		}
		return known[gvr], nil
	}))
	return p
}
