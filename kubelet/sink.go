// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"

	v1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
)

// sink is where the events go: to the API, and not more of them than the operator wants.
func (k *Kubelet) sink(ctx context.Context) record.EventSink {
	api := &typedcorev1.EventSinkImpl{Interface: k.client.CoreV1().Events("")}
	if k.cfg.EventsPerSecond == 0 {
		return api
	}
	return limited{ctx, api, flowcontrol.NewTokenBucketRateLimiter(float32(k.cfg.EventsPerSecond), int(k.cfg.EventsAtOnce))}
}

// limited has events wait until there may be more of them.
type limited struct {
	ctx  context.Context // of the kubelet: an EventSink is called without one
	to   record.EventSink
	rate flowcontrol.RateLimiter
}

func (l limited) Create(event *v1.Event) (*v1.Event, error) {
	if err := l.rate.Wait(l.ctx); err != nil {
		return nil, err
	}
	return l.to.Create(event)
}

func (l limited) Update(event *v1.Event) (*v1.Event, error) {
	if err := l.rate.Wait(l.ctx); err != nil {
		return nil, err
	}
	return l.to.Update(event)
}

func (l limited) Patch(event *v1.Event, data []byte) (*v1.Event, error) {
	if err := l.rate.Wait(l.ctx); err != nil {
		return nil, err
	}
	return l.to.Patch(event, data)
}
