// SPDX-License-Identifier: Apache-2.0

// Package encryption encrypts what lies in etcd, as an EncryptionConfiguration file says. What was stored
// before is read all the same, with the key it was written with, and encrypted anew when it is next written.
// Reference: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
package encryption

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/apiserver/pkg/storage/value"
)

// Encryption holds the keys of a file.
type Encryption struct {
	value.ResourceTransformers
	HealthChecks []healthz.HealthChecker // of key management services

	follow func(context.Context)
}

// Load reads the file. Plugins that keep keys are asked until ctx ends. With reload, Follow takes over changes.
func Load(ctx context.Context, path string, reload bool) (_ *Encryption, err error) {
	ctx, stop := context.WithCancel(ctx)
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, path, reload, "")
	if err != nil {
		stop()
		return nil, fmt.Errorf("read the encryption configuration %s: %w", path, err)
	}
	if !reload {
		return &Encryption{
			ResourceTransformers: encryptionconfig.StaticTransformers(loaded.Transformers), HealthChecks: loaded.HealthChecks,
			follow: func(ctx context.Context) { context.AfterFunc(ctx, stop) },
		}, nil
	}
	// With reload there is one check, which stands for all plugins that there will be.
	dynamic := encryptionconfig.NewDynamicTransformers(loaded.Transformers, loaded.HealthChecks[0], stop, loaded.KMSCloseGracePeriod)
	follower := controller.NewDynamicEncryptionConfiguration("encryption-provider-config-automatic-reload-controller", path, dynamic, loaded.EncryptionFileContentHash, "")
	return &Encryption{ResourceTransformers: dynamic, HealthChecks: []healthz.HealthChecker{dynamic}, follow: follower.Run}, nil
}

// Follow takes over what changes in the file until ctx ends, if that was asked for.
func (e *Encryption) Follow(ctx context.Context) { e.follow(ctx) }
