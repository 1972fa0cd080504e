// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// needTimeout bounds how long one pod may keep the others waiting for informers to sync.
const needTimeout = 5 * time.Second

// lazyInformers starts informers when the first pod shows up that needs them.
type lazyInformers struct {
	factory  informers.SharedInformerFactory
	startAll func() // nil: they run until Run ends
	notify   func(*framework.Event)

	mu     sync.Mutex
	synced map[framework.Kind]cache.DoneChecker
}

// need implements framework.Handle.Need. ctx has to be the context of Run.
func (l *lazyInformers) need(ctx context.Context, kinds ...framework.Kind) error {
	waitFor, err := l.start(ctx, kinds)
	if err != nil || len(waitFor) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, needTimeout)
	defer cancel()
	if !cache.WaitFor(ctx, "", waitFor...) {
		return fmt.Errorf("waiting for the informers of %v: %w", kinds, context.Cause(ctx))
	}
	return nil
}

// start starts the informers and returns those that have not synced yet.
func (l *lazyInformers) start(ctx context.Context, kinds []framework.Kind) ([]cache.DoneChecker, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var waitFor []cache.DoneChecker
	added := false
	for _, kind := range kinds {
		if l.synced[kind] == nil {
			synced, err := l.register(kind)
			if err != nil {
				return nil, err
			}
			l.synced[kind] = synced
			added = true
		}
		if !cache.IsDone(l.synced[kind]) {
			waitFor = append(waitFor, l.synced[kind])
		}
	}
	switch {
	case added && l.startAll != nil:
		l.startAll()
	case added:
		l.factory.StartWithContext(ctx)
	}
	return waitFor, nil
}

func (l *lazyInformers) register(kind framework.Kind) (cache.DoneChecker, error) {
	registration, err := l.informer(kind).AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { l.notify(&framework.Event{Kind: kind, Action: framework.Add, New: obj}) },
		UpdateFunc: func(old, obj any) {
			l.notify(&framework.Event{Kind: kind, Action: framework.UpdateOther, Old: old, New: obj})
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			l.notify(&framework.Event{Kind: kind, Action: framework.Delete, Old: obj})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watching %s: %w", kind, err)
	}
	return registration.HasSyncedChecker(), nil
}

func (l *lazyInformers) informer(kind framework.Kind) cache.SharedIndexInformer {
	core, storage, apps, resources := l.factory.Core().V1(), l.factory.Storage().V1(), l.factory.Apps().V1(), l.factory.Resource().V1()
	switch kind {
	case framework.Service:
		return core.Services().Informer()
	case framework.PersistentVolume:
		return core.PersistentVolumes().Informer()
	case framework.PersistentClaim:
		return core.PersistentVolumeClaims().Informer()
	case framework.ReplicationController:
		return core.ReplicationControllers().Informer()
	case framework.StorageClass:
		return storage.StorageClasses().Informer()
	case framework.CSINode:
		return storage.CSINodes().Informer()
	case framework.CSIDriver:
		return storage.CSIDrivers().Informer()
	case framework.VolumeAttachment:
		return storage.VolumeAttachments().Informer()
	case framework.CSIStorageCapacity:
		return storage.CSIStorageCapacities().Informer()
	case framework.ReplicaSet:
		return apps.ReplicaSets().Informer()
	case framework.StatefulSet:
		return apps.StatefulSets().Informer()
	case framework.ResourceClaim:
		return resources.ResourceClaims().Informer()
	case framework.ResourceSlice:
		return resources.ResourceSlices().Informer()
	case framework.DeviceClass:
		return resources.DeviceClasses().Informer()
	case framework.DeviceTaintRule:
		return resources.DeviceTaintRules().Informer()
	case framework.PodDisruptionBudget:
		return l.factory.Policy().V1().PodDisruptionBudgets().Informer()
	}
	panic("scheduler: no informer for " + string(kind)) // a plugin's programming error
}
