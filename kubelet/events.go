// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// The pauses when the runtime does not answer, or has no events to give.
const (
	reconnectPause = time.Second
	pollPause      = time.Second
)

// watchContainers wakes the workers of pods whose containers changed. After each (re)connect all are looked at once, so that
// no change is missed. A runtime without events is asked every second instead: one that does not know of them, and one that
// ends the stream at once, as CRI-O does unless it is told otherwise.
func (k *Kubelet) watchContainers(ctx context.Context) error {
	for ctx.Err() == nil {
		err := k.followEvents(ctx)
		pause := reconnectPause
		switch {
		case grpcstatus.Code(err) == codes.Unimplemented:
			k.look(ctx)
			pause = pollPause
		case errors.Is(err, io.EOF):
			pause = pollPause
		case ctx.Err() == nil:
			klog.FromContext(ctx).Error(err, "Container events ended; they are asked for again")
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

func (k *Kubelet) followEvents(ctx context.Context) error {
	stream, err := k.cri.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	k.look(ctx)
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		klog.FromContext(ctx).V(5).Info("Container event", "type", event.GetContainerEventType(), "id", event.GetContainerId())
		if uid := event.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
			k.wake(types.UID(uid))
		}
	}
}

// look wakes the workers of pods that are not as they were seen last, and cleans up what belongs to no pod.
func (k *Kubelet) look(ctx context.Context) {
	present, err := k.runtime.Present(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Listing what runs")
		return
	}
	k.mu.Lock()
	workers := maps.Clone(k.workers)
	k.mu.Unlock()
	for uid := range present {
		if workers[uid] == nil && k.gone(uid) {
			k.cleanUp(uid)
		}
	}
	for uid, w := range workers {
		if w.lastSeen() != present[uid] {
			w.poke()
		}
	}
}

// gone says that a pod is neither in the API nor on the node itself, so that nothing is to be left of it.
func (k *Kubelet) gone(uid types.UID) bool { return !k.known(uid) && !k.statics.mayHave(uid) }

func (k *Kubelet) known(uid types.UID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid] != nil
}

// cleanUp ends and removes whatever is left of a pod that is not in the API, until that worked.
func (k *Kubelet) cleanUp(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.orphans[uid] || k.ctx == nil || k.ctx.Err() != nil {
		return
	}
	k.orphans[uid] = true
	ctx := k.ctx
	k.wg.Go(func() {
		for pause := retryFirst; ; pause = min(2*pause, retryMost) {
			err := k.removeOrphan(ctx, uid)
			if err == nil || ctx.Err() != nil {
				break
			}
			klog.FromContext(ctx).Error(err, "Cleaning up after a pod that is gone; it is tried again", "podUID", uid)
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
		k.mu.Lock()
		delete(k.orphans, uid)
		k.mu.Unlock()
	})
}

func (k *Kubelet) removeOrphan(ctx context.Context, uid types.UID) error {
	have, err := k.runtime.Status(ctx, uid)
	if err != nil {
		return err
	}
	if err := k.runtime.KillPod(ctx, nil, have, nil); err != nil {
		return err
	}
	if err := errors.Join(k.claims.Unprepare(ctx, uid), k.unassign(ctx, uid)); err != nil {
		return err
	}
	if err := k.volumes.TearDown(ctx, uid); err != nil {
		return fmt.Errorf("tear down volumes: %w", err)
	}
	return errors.Join(k.removeRest(ctx, uid), k.tree.RemoveUID(uid))
}

// removeRest removes a pod's dead containers, its logs and its folder, once its volumes are gone.
func (k *Kubelet) removeRest(ctx context.Context, uid types.UID) error {
	if err := k.runtime.Remove(ctx, uid); err != nil {
		return err
	}
	return k.removeDir(k.runtime.PodDir(uid))
}

// removeDir removes a pod's folder file by file; what is mounted in there is never entered.
func (k *Kubelet) removeDir(dir string) error {
	if mounted, err := hasMounts(dir); err != nil || mounted {
		return errors.Join(err, fmt.Errorf("remove %s: a volume is still mounted there", dir))
	}
	return os.RemoveAll(dir)
}
