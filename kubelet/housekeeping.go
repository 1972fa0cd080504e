// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/images"
)

// How often the house is kept.
const (
	logPeriod     = 10 * time.Second // unless the operator has said
	garbagePeriod = time.Minute
	imagePeriod   = 5 * time.Minute
)

// keepHouse rotates logs and removes what is dead until ctx ends.
func (k *Kubelet) keepHouse(ctx context.Context) error {
	logs, garbage, unused := time.NewTicker(cmp.Or(k.cfg.LogPeriod, logPeriod)), time.NewTicker(garbagePeriod), time.NewTicker(imagePeriod)
	defer logs.Stop()
	defer garbage.Stop()
	defer unused.Stop()
	logger := klog.FromContext(ctx)
	k.findOrphans()
	failed := false // the last look for unused images did
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-logs.C:
			err = k.runtime.RotateLogs(ctx, k.cfg.LogMaxSize, k.cfg.LogMaxFiles)
		case <-garbage.C:
			k.look(ctx)
			k.findOrphans()
			err = k.runtime.CollectGarbage(ctx, containers.Policy{PerContainer: 1}, k.gone)
			if err != nil && ctx.Err() == nil {
				k.events.Event(k.agent.Ref(), v1.EventTypeWarning, "ContainerGCFailed", err.Error())
			}
		case <-unused.C:
			err = k.imageGC.Collect(ctx)
			k.imagesCollected(ctx, err, failed)
			failed = err != nil
		}
		if err != nil && ctx.Err() == nil {
			logger.Error(err, "Housekeeping")
		}
	}
}

// imagesCollected tells if there is no room for images, and if looking for unused ones has failed again.
func (k *Kubelet) imagesCollected(ctx context.Context, err error, again bool) {
	if err == nil || ctx.Err() != nil {
		return
	}
	var full *images.TooFull
	if errors.As(err, &full) {
		k.events.Event(k.agent.Ref(), v1.EventTypeWarning, "FreeDiskSpaceFailed", err.Error())
	}
	if again {
		k.events.Event(k.agent.Ref(), v1.EventTypeWarning, "ImageGCFailed", err.Error())
	}
}

// findOrphans cleans up after pods that left volumes, folders or cgroups but no container.
func (k *Kubelet) findOrphans() {
	for _, uid := range append(k.volumes.Orphans(), k.tree.Orphans(k.known)...) {
		if k.gone(uid) {
			k.cleanUp(uid)
		}
	}
	folders, err := os.ReadDir(filepath.Join(k.cfg.Root, "pods"))
	if err != nil {
		return
	}
	for _, f := range folders {
		if uid := types.UID(f.Name()); f.IsDir() && k.gone(uid) {
			k.cleanUp(uid)
		}
	}
}

// hasMounts says whether something is mounted in or below a folder.
func hasMounts(dir string) (bool, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			return true, nil
		}
	}
	return false, nil
}
