// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"context"
	"fmt"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// Refresh asks a driver again how many volumes this node can have, and says so in CSINode.
// Reference: KEP-4876
func (d *Drivers) Refresh(ctx context.Context, name string) error {
	driver, err := d.Get(name)
	if err != nil {
		return err
	}
	if err := d.describe(ctx, driver); err != nil {
		return fmt.Errorf("ask CSI driver %s how many volumes this node can have: %w", name, err)
	}
	return nil
}

// RefreshPeriod is how often a driver wants to be asked that; 0: never again.
func RefreshPeriod(object *storagev1.CSIDriver) time.Duration {
	if object == nil {
		return 0
	}
	return time.Duration(ptr.Deref(object.Spec.NodeAllocatableUpdatePeriodSeconds, 0)) * time.Second
}

// refreshAsAsked refreshes as often as the driver's CSIDriver asks, until ctx ends.
func (d *Drivers) refreshAsAsked(ctx context.Context, name string) {
	asAsked(ctx, d.client, name, func() {
		if err := d.Refresh(ctx, name); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Keeping CSINode up to date")
		}
	})
}

// asAsked calls do as often as the CSIDriver of that name asks, until ctx ends.
func asAsked(ctx context.Context, client kubernetes.Interface, name string, do func()) {
	periods := make(chan time.Duration)
	tell := func(object *storagev1.CSIDriver) {
		select {
		case periods <- RefreshPeriod(object):
		case <-ctx.Done():
		}
	}
	byName := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	objects := client.StorageV1().CSIDrivers()
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.FieldSelector = byName
				return objects.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = byName
				return objects.Watch(ctx, o)
			},
		}, client),
		ObjectType: &storagev1.CSIDriver{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { tell(obj.(*storagev1.CSIDriver)) },
			UpdateFunc: func(_, obj any) { tell(obj.(*storagev1.CSIDriver)) },
			DeleteFunc: func(any) { tell(nil) },
		},
	})
	go informer.RunWithContext(ctx)
	ticker := time.NewTicker(time.Hour)
	ticker.Stop()
	defer ticker.Stop()
	var period time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-periods:
			switch {
			case now == period:
			case now == 0:
				ticker.Stop()
			default:
				ticker.Reset(now)
			}
			period = now
		case <-ticker.C:
			do()
		}
	}
}
